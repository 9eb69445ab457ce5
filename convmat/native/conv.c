/* The index mapping, compiled: convolution, unrolling and folding of channels-last arrays. First, plain version. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef int64_t Int;
enum { DEPTH, HEIGHT, WIDTH, AXES };
enum { ZEROS, REFLECT, REPLICATE, CIRCULAR };

typedef struct {
    Int batch, channels, filters, groups;
    Int in[AXES], out[AXES], kernel[AXES], stride[AXES], dilation[AXES], before[AXES];
    Int mode;
    Int x_image, x_step[AXES];                        /* elements between images, and neighbours along an axis */
    Int w_group, w_filter, w_tap[AXES], w_channel;
    Int y_image, y_step[AXES];
} Sizes;

/* The pixel at `q` of an axis, which may lie in the padding; -1 for a zero. */
static Int source(Int q, Int size, Int mode) {
    if (q >= 0 && q < size) return q;
    Int last = size - 1, period = 2 * last > 1 ? 2 * last : 1, m;
    switch (mode) {
    case REFLECT: m = ((q % period) + period) % period; return m > last ? period - m : m;
    case REPLICATE: return q < 0 ? 0 : last;
    case CIRCULAR: return ((q % size) + size) % size;
    default: return -1;
    }
}

#define CONVOLVE(T)                                                                                                   \
    static void convolve_##T(const Sizes *s, const T *x, const T *w, const T *bias, T *y) {                          \
        Int c = s->channels / s->groups, k = s->filters / s->groups;                                                  \
        for (Int n = 0; n < s->batch; n++)                                                                            \
        for (Int a = 0; a < s->out[0]; a++) for (Int b = 0; b < s->out[1]; b++) for (Int e = 0; e < s->out[2]; e++) { \
            T *to = y + n * s->y_image + a * s->y_step[0] + b * s->y_step[1] + e * s->y_step[2];                      \
            for (Int f = 0; f < s->filters; f++) to[f] = bias ? bias[f] : 0;                                          \
            for (Int h = 0; h < s->kernel[0]; h++) for (Int i = 0; i < s->kernel[1]; i++)                             \
            for (Int j = 0; j < s->kernel[2]; j++) {                                                                  \
                Int d = source(a * s->stride[0] + h * s->dilation[0] - s->before[0], s->in[0], s->mode);              \
                Int r = source(b * s->stride[1] + i * s->dilation[1] - s->before[1], s->in[1], s->mode);              \
                Int q = source(e * s->stride[2] + j * s->dilation[2] - s->before[2], s->in[2], s->mode);              \
                const T *at = x + n * s->x_image + d * s->x_step[0] + r * s->x_step[1] + q * s->x_step[2];            \
                const T *weight = w + h * s->w_tap[0] + i * s->w_tap[1] + j * s->w_tap[2];                            \
                for (Int f = 0; f < s->filters; f++)                                                                  \
                    for (Int l = 0; l < c; l++)                                                                       \
                        to[f] += (d < 0 || r < 0 || q < 0 ? 0 : at[f / k * c + l]) *                                  \
                                 weight[f / k * s->w_group + f % k * s->w_filter + l * s->w_channel];                 \
            }                                                                                                         \
        }                                                                                                             \
    }
CONVOLVE(float)
CONVOLVE(double)

int convmat_level(void) {
#if defined __x86_64__
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq"))
        return 2;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 0;
#endif
}

Int convmat_lanes(Int itemsize) {
#if defined __AVX512F__
    return 64 / itemsize;
#elif defined __AVX__
    return 32 / itemsize;
#else
    return 16 / itemsize;
#endif
}

void convmat_box(const Sizes *s, int kernel, int itemsize, int threads, Int box[5]) {
    (void)kernel, (void)itemsize, (void)threads;
    box[0] = 1, box[1] = s->out[1], box[2] = s->out[2], box[3] = 1, box[4] = 0;
}

int convmat_convolve(const Sizes *s, const Int *box, const void *x, const void *w, const void *bias, void *y, int kernel,
                     int itemsize, int threads) {
    (void)box, (void)kernel, (void)threads;
    if (itemsize == 4) convolve_float(s, x, w, bias, y);
    else convolve_double(s, x, w, bias, y);
    return 0;
}

int convmat_unroll(const Sizes *s, const char *x, char *x_col, Int size, int chw, Int start, Int stop, int threads) {
    (void)threads;
    Int taps = s->kernel[0] * s->kernel[1] * s->kernel[2], c = s->channels;
    for (Int row = start; row < stop; row++, x_col += taps * c * size) {
        Int e = row % s->out[2], b = row / s->out[2] % s->out[1], a = row / s->out[2] / s->out[1] % s->out[0];
        Int n = row / s->out[2] / s->out[1] / s->out[0], t = 0;
        for (Int h = 0; h < s->kernel[0]; h++) for (Int i = 0; i < s->kernel[1]; i++)
        for (Int j = 0; j < s->kernel[2]; j++, t++) {
            Int d = source(a * s->stride[0] + h * s->dilation[0] - s->before[0], s->in[0], s->mode);
            Int r = source(b * s->stride[1] + i * s->dilation[1] - s->before[1], s->in[1], s->mode);
            Int q = source(e * s->stride[2] + j * s->dilation[2] - s->before[2], s->in[2], s->mode);
            int none = d < 0 || r < 0 || q < 0;
            const char *at = x + (n * s->x_image + d * s->x_step[0] + r * s->x_step[1] + q * s->x_step[2]) * size;
            for (Int l = 0; l < c; l++) {
                char *to = x_col + (chw ? l * taps + t : t * c + l) * size;
                if (none) memset(to, 0, size); else memcpy(to, at + l * size, size);
            }
        }
    }
    return 0;
}

#define FOLD(name, S, T)                                                                                              \
    static void fold_##name(const Sizes *s, const S *x_col, Int first, T *x, int mean, int chw, Int start, Int stop) { \
        Int taps = s->kernel[0] * s->kernel[1] * s->kernel[2], c = s->channels;                                       \
        for (Int line = start; line < stop; line++) {                                                                 \
            Int r = line % s->in[1], d = line / s->in[1] % s->in[0], n = line / s->in[1] / s->in[0];                  \
            for (Int q = 0; q < s->in[2]; q++) {                                                                      \
                T *to = x + ((line - start) * s->in[2] + q) * c;                                                      \
                Int count = 0, t = 0;                                                                                 \
                for (Int l = 0; l < c; l++) to[l] = 0;                                                                \
                for (Int h = 0; h < s->kernel[0]; h++) for (Int i = 0; i < s->kernel[1]; i++)                         \
                for (Int j = 0; j < s->kernel[2]; j++, t++) {                                                         \
                    Int a = d + s->before[0] - h * s->dilation[0], b = r + s->before[1] - i * s->dilation[1];         \
                    Int e = q + s->before[2] - j * s->dilation[2];                                                    \
                    if (a < 0 || b < 0 || e < 0 || a % s->stride[0] || b % s->stride[1] || e % s->stride[2]) continue;\
                    a /= s->stride[0], b /= s->stride[1], e /= s->stride[2];                                          \
                    if (a >= s->out[0] || b >= s->out[1] || e >= s->out[2]) continue;                                 \
                    const S *from = x_col + (((n * s->out[0] + a) * s->out[1] + b) * s->out[2] + e - first) * taps * c;\
                    for (Int l = 0; l < c; l++) {                                                                     \
                        T value = from[chw ? l * taps + t : t * c + l];                                               \
                        to[l] = count ? to[l] + value : value;                                                        \
                    }                                                                                                 \
                    count++;                                                                                          \
                }                                                                                                     \
                if (mean && count > 1) for (Int l = 0; l < c; l++) to[l] /= count;                                    \
            }                                                                                                         \
        }                                                                                                             \
    }
FOLD(f4, float, float)
FOLD(f8, double, double)
FOLD(i1, int8_t, Int) FOLD(i2, int16_t, Int) FOLD(i4, int32_t, Int) FOLD(i8, int64_t, Int)
FOLD(u1, uint8_t, Int) FOLD(u2, uint16_t, Int) FOLD(u4, uint32_t, Int)
typedef struct { char bytes[16]; } Sixteen;

/* kind: 'f' floats, 'i', 'u' integers to int64, 'V' bytes moved, where no two elements meet. */
int convmat_fold(const Sizes *s, const void *x_col, Int first, void *x, int kind, int size, int mean, int chw, Int start,
                 Int stop, int threads) {
    (void)threads;
#define CASE(k, n, name) if (kind == k && size == n) return fold_##name(s, x_col, first, x, mean, chw, start, stop), 0;
    CASE('f', 4, f4) CASE('f', 8, f8)
    CASE('i', 1, i1) CASE('i', 2, i2) CASE('i', 4, i4) CASE('i', 8, i8)
    CASE('u', 1, u1) CASE('u', 2, u2) CASE('u', 4, u4) CASE('u', 8, i8)
    if (kind != 'V') return 2;
    Int taps = s->kernel[0] * s->kernel[1] * s->kernel[2], c = s->channels;
    char *to = x;
    for (Int line = start; line < stop; line++) {
        Int r = line % s->in[1], d = line / s->in[1] % s->in[0], n = line / s->in[1] / s->in[0];
        for (Int q = 0; q < s->in[2]; q++, to += c * size) {
            Int t = 0;
            memset(to, 0, c * size);
            for (Int h = 0; h < s->kernel[0]; h++) for (Int i = 0; i < s->kernel[1]; i++)
            for (Int j = 0; j < s->kernel[2]; j++, t++) {
                Int a = d + s->before[0] - h * s->dilation[0], b = r + s->before[1] - i * s->dilation[1];
                Int e = q + s->before[2] - j * s->dilation[2];
                if (a < 0 || b < 0 || e < 0 || a % s->stride[0] || b % s->stride[1] || e % s->stride[2]) continue;
                a /= s->stride[0], b /= s->stride[1], e /= s->stride[2];
                if (a >= s->out[0] || b >= s->out[1] || e >= s->out[2]) continue;
                const char *from = (const char *)x_col + (((n * s->out[0] + a) * s->out[1] + b) * s->out[2] + e - first) * taps * c * size;
                for (Int l = 0; l < c; l++) memcpy(to + l * size, from + (chw ? l * taps + t : t * c + l) * size, size);
            }
        }
    }
    return 0;
}
