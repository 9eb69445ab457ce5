/* A convolution of the probe's layer, channels last, and its result as .npy on standard output. */
#include <stdio.h>
#include "probe.h"

static float y[PROBE_OUTPUT_HEIGHT][PROBE_OUTPUT_WIDTH][PROBE_FILTERS];

static float pixel(int row, int column, int c)
{
    return integers_x[(row * PROBE_INPUT_WIDTH + column) * PROBE_CHANNELS + c];
}

static float weight(int k, int i, int j, int c)
{
    j = PROBE_KERNEL_WIDTH - 1 - j;
    return integers_kernel[((k * PROBE_KERNEL_HEIGHT + i) * PROBE_KERNEL_WIDTH + j) * PROBE_CHANNELS + c];
}

int main(void)
{
    for (int row = 0; row < PROBE_OUTPUT_HEIGHT; row++)
        for (int column = 0; column < PROBE_OUTPUT_WIDTH; column++)
            for (int k = 0; k < PROBE_FILTERS; k++)
                for (int i = 0; i < PROBE_KERNEL_HEIGHT; i++)
                    for (int j = 0; j < PROBE_KERNEL_WIDTH; j++)
                        for (int c = 0; c < PROBE_CHANNELS; c++)
                            y[row][column][k] += weight(k, i, j, c) * pixel(
                                row * PROBE_STRIDE_HEIGHT + i, column * PROBE_STRIDE_WIDTH + j, c);

    char header[119]; /* .npy: magic, version 1.0, 118 bytes that say what follows */
    snprintf(header, sizeof header, "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d, %d)}",
             PROBE_OUTPUT_HEIGHT, PROBE_OUTPUT_WIDTH, PROBE_FILTERS);
    printf("\x93NUMPY\x01%c%c%c%-117s\n", 0, 118, 0, header);
    return fwrite(y, sizeof y, 1, stdout) != 1;
}
