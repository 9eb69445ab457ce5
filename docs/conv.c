/* A convolution of a probe's layer, channels last, and its results of all cases as .npy on standard output. */
#include <stdio.h>
#include "probe.h"

static float y[PROBE_N][PROBE_OUTPUT_HEIGHT][PROBE_OUTPUT_WIDTH][PROBE_FILTERS];

static float pixel(const float *x, int n, int row, int column, int c)
{
    return x[((n * PROBE_INPUT_HEIGHT + row) * PROBE_INPUT_WIDTH + column) * PROBE_CHANNELS + c];
}

static float weight(const float *kernel, int k, int i, int j, int c)
{
    j = PROBE_KERNEL_WIDTH - 1 - j;
    return kernel[((k * PROBE_KERNEL_HEIGHT + i) * PROBE_KERNEL_WIDTH + j) * PROBE_CHANNELS + c];
}

static void convolve(const float *x, const float *kernel, const float *bias)
{
    for (int n = 0; n < PROBE_N; n++)
        for (int row = 0; row < PROBE_OUTPUT_HEIGHT; row++)
            for (int column = 0; column < PROBE_OUTPUT_WIDTH; column++)
                for (int k = 0; k < PROBE_FILTERS; k++) {
                    float sum = bias[k];
                    for (int i = 0; i < PROBE_KERNEL_HEIGHT; i++)
                        for (int j = 0; j < PROBE_KERNEL_WIDTH; j++)
                            for (int c = 0; c < PROBE_CHANNELS; c++)
                                sum += weight(kernel, k, i, j, c) * pixel(
                                    x, n, row * PROBE_STRIDE_HEIGHT + i, column * PROBE_STRIDE_WIDTH + j, c);
                    y[n][row][column][k] = sum;
                }
}

#define RUN(name) \
    convolve(name##_x, name##_kernel, name##_bias); \
    fwrite(y, sizeof y, 1, stdout);

int main(void)
{
    char header[119]; /* .npy: magic, version 1.0, 118 bytes that say what follows */
    snprintf(header, sizeof header, "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d, %d, %d, %d)}",
             PROBE_CASES, PROBE_N, PROBE_OUTPUT_HEIGHT, PROBE_OUTPUT_WIDTH, PROBE_FILTERS);
    printf("\x93NUMPY\x01%c%c%c%-117s\n", 0, 118, 0, header);
    PROBE_EACH(RUN)
    return ferror(stdout) != 0;
}
