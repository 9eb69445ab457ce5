/* A quantized convolution, channels last, padded and strided; its result as bytes on standard output. */
#include <stdio.h>
#include "layer.h"

#ifndef PADDING
#define PADDING LAYER_INPUT_ZERO_POINT
#endif

static int32_t pixel(int n, int row, int column, int c)
{
    if (row < 0 || row >= LAYER_INPUT_HEIGHT || column < 0 || column >= LAYER_INPUT_WIDTH)
        return PADDING;
    return layer_x[((n * LAYER_INPUT_HEIGHT + row) * LAYER_INPUT_WIDTH + column) * LAYER_CHANNELS + c];
}

static int32_t weight(int k, int i, int j, int c)
{
    return layer_kernel[((k * LAYER_KERNEL_HEIGHT + i) * LAYER_KERNEL_WIDTH + j) * LAYER_CHANNELS + c];
}

static int32_t accumulated(int n, int row, int column, int k)
{
    int32_t sum = layer_bias[k];
    for (int i = 0; i < LAYER_KERNEL_HEIGHT; i++)
        for (int j = 0; j < LAYER_KERNEL_WIDTH; j++)
            for (int c = 0; c < LAYER_CHANNELS; c++)
                sum += (pixel(n, row * LAYER_STRIDE_HEIGHT + i * LAYER_DILATION_HEIGHT - LAYER_PAD_TOP,
                              column * LAYER_STRIDE_WIDTH + j * LAYER_DILATION_WIDTH - LAYER_PAD_LEFT, c)
                        - LAYER_INPUT_ZERO_POINT)
                     * (weight(k, i, j, c) - layer_weight_zero_point[k]);
    return sum;
}

/* As TensorFlow Lite rounds, twice; of this layer every scale is below 1, so no shift is to the left. */
static int32_t scaled(int32_t sum, int k)
{
    int right = -layer_shift[k];
    int32_t high = (int32_t)(((int64_t)sum * layer_multiplier[k] + (1 << 30)) >> 31);
    int32_t mask = (int32_t)(((int64_t)1 << right) - 1);
    return (high >> right) + ((high & mask) > (mask >> 1) + (high < 0));
}

static int8_t clamped(int32_t value)
{
    value = value < LAYER_ACTIVATION_MIN ? LAYER_ACTIVATION_MIN : value;
    return (int8_t)(value > LAYER_ACTIVATION_MAX ? LAYER_ACTIVATION_MAX : value);
}

int main(void)
{
    for (int n = 0; n < LAYER_N; n++)
        for (int row = 0; row < LAYER_OUTPUT_HEIGHT; row++)
            for (int column = 0; column < LAYER_OUTPUT_WIDTH; column++)
                for (int k = 0; k < LAYER_FILTERS; k++) {
                    int32_t value = scaled(accumulated(n, row, column, k), k) + LAYER_OUTPUT_ZERO_POINT;
                    int8_t y = clamped(value);
                    fwrite(&y, sizeof y, 1, stdout);
                }
    return ferror(stdout) != 0;
}
