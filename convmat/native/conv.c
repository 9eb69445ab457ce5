/* The index mapping, compiled: convolution, unrolling and folding of arrays whose channels are neighbours.

       x (N, D, H, W, C) * w (K, kd, kh, kw, C/groups) -> y (N, D', H', W', K)

   Fewer axes are leading axes of 1. Where im2col copies what an output sees into a row of X_col, here it is
   read where it lies: the mapping (Eq. 8) becomes pointers into x, and a tap in the padding points to zeros.
   `see` makes them. Three kernels differ in what fills a vector register:

   - wide: filters. A tile of outputs x filters stays in registers while the taps go by. Integers that int16
     and int32 hold go two channels at a time, where there is an instruction for that.
   - planes: outputs. Few filters: channels, split by stride, become planes, in which each tap of all outputs
     is one vector, shifted by a constant.
   - depthwise: channels. Each channel has filters of its own.

   The loops have the same names everywhere, from the outside in:

   - unit: a box of outputs, and a part of the filters. Threads take units from a counter.
   - block: the filters of a tile (wide), or a group (planes).
   - line m: outputs that are neighbours along the width.
   - tile: what the registers hold the sums of, outputs p x vectors v.
   - run r: elements that lie together in x, the channels of a tap or of a kernel row; l is one of them.

   An output is always summed in the order of its taps, whatever the units and threads are, so its bits are
   always the same. What depends on the element type stands below `#else`: the file includes itself for each.
   It is compiled for each level of vector instructions; nothing in it is tuned to one processor. */

#ifndef T

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* An instruction that multiplies neighbouring int16, and adds their products. */
#if defined __x86_64__
#include <immintrin.h>
enum { HAS_PAIRS = 1 };
#define FOR_PAIRS(kernel) kernel##_int32_t
#else
enum { HAS_PAIRS = 0 };
#define FOR_PAIRS(kernel) NULL
#endif

typedef int64_t Int;
enum { DEPTH, HEIGHT, WIDTH, AXES };
enum { ZEROS, REFLECT, REPLICATE, CIRCULAR }; /* what stands in the padding */
enum { WIDE, PLANES, DEPTHWISE };             /* kernels */
enum { DONE, NO_MEMORY, UNKNOWN };            /* what the exported functions return */
enum { UNIT = 1 << 17 };                      /* bytes, or numbers, that a thread moves at a time */

/* Of a vector register, and how many there are. */
#if defined __AVX512F__
enum { BYTES = 64, REGISTERS = 32 };
#elif defined __AVX__
enum { BYTES = 32, REGISTERS = 16 };
#elif defined __aarch64__
enum { BYTES = 16, REGISTERS = 32 };
#else
enum { BYTES = 16, REGISTERS = 16 };
#endif

/* A layer, in the order of native.sizes(). Steps are in elements, from one index to the next. */
typedef struct {
    Int batch, channels, filters, groups;
    Int in[AXES], out[AXES], kernel[AXES], stride[AXES], dilation[AXES], before[AXES];
    Int mode;
    Int x_image, x_step[AXES];
    Int w_group, w_filter, w_tap[AXES], w_channel;
    Int y_image, y_step[AXES];
} Sizes;

/* How the outputs are cut, in the order of native.Box: outputs along each axis, blocks of filters (wide) or
   groups (planes), and the bytes that a thread needs. */
typedef struct {
    Int images, planes, rows, columns, blocks, scratch;
} Box;

/* A convolution, decided, in the order of native.Native.layer(). */
typedef struct {
    Sizes sizes;
    Int kernel, itemsize, integers; /* y: 0 of x's type, 1 int64, for sums are whole, 2 int64 of PAIRS */
    Box box;
} Layer;

static Int least(Int a, Int b) { return a < b ? a : b; }
static Int most(Int a, Int b) { return a > b ? a : b; }
static Int over(Int a, Int b) { return (a + b - 1) / b; }
/* The size of parts as alike as may be, none larger than `size`. */
static Int even(Int total, Int size) { return over(total, most(1, over(total, size))); }
static Int extent(const Sizes *s, int axis) { return (s->kernel[axis] - 1) * s->dilation[axis] + 1; }
static Int rows_of(const Sizes *s) { return s->kernel[DEPTH] * s->kernel[HEIGHT]; }
static Int taps_of(const Sizes *s) { return rows_of(s) * s->kernel[WIDTH]; }
/* Input lines that `outputs` neighbours see, and the first of them. */
static Int seen(const Sizes *s, int axis, Int outputs) {
    return (outputs - 1) * s->stride[axis] + extent(s, axis);
}
static Int first(const Sizes *s, int axis, Int output) { return output * s->stride[axis] - s->before[axis]; }

/* The pixel that stands at `q` of an axis, which may lie in the padding; -1 for a zero. */
static Int source(Int q, Int size, Int mode) {
    if (q >= 0 && q < size)
        return q;
    Int last = size - 1, period = mode == CIRCULAR ? size : most(1, 2 * last);
    Int m = (q % period + period) % period;
    return mode == ZEROS ? -1 : mode == REPLICATE ? (q < 0 ? 0 : last) : m > last ? period - m : m;
}

/* ---- Memory ---- */

/* For tests: the allocation that is to fail, counted down from here; 0 for none. */
atomic_int convmat_fail_at;

static void *allocate(size_t bytes) {
    if (convmat_fail_at && atomic_fetch_sub(&convmat_fail_at, 1) == 1)
        return NULL;
    void *found;
    return posix_memalign(&found, 64, bytes) ? NULL : found;
}

/* Room for n bytes from *room on, which moves past them to the next line of cache. */
static void *take(uintptr_t *room, Int n) {
    uintptr_t at = *room;
    *room += (uintptr_t)over(n, 64) * 64;
    return (void *)at;
}

/* Bytes of the first two caches: what all processors have, or more where the system says so (once: asking is
   slow). */
static Int L1 = 1 << 15, L2 = 1 << 18;
__attribute__((constructor)) static void ask_for_caches(void) {
#if defined _SC_LEVEL1_DCACHE_SIZE
    L1 = most(L1, least(sysconf(_SC_LEVEL1_DCACHE_SIZE), 1 << 16));
    L2 = most(L2, least(sysconf(_SC_LEVEL2_CACHE_SIZE), 1 << 21));
#endif
}

/* ---- Threads: the caller, and helpers. One call at a time has them, others meanwhile work alone. ---- */

typedef struct Job {
    void (*run)(const struct Job *, Int unit, void *scratch);
    Int units, scratch, cleared; /* bytes for each thread, and how many of them are 0 at first */
    atomic_long next;
    atomic_int failed;
} Job;

typedef struct {
    void *at;
    Int bytes;
} Scratch; /* kept from call to call: fresh memory costs page faults */

enum { MOST_THREADS = 256, SPIN = 2000 }; /* looks that a waiter takes before it sleeps: some 50 us */
#if defined __x86_64__ || defined __i386__
#define PAUSE() __builtin_ia32_pause()
#else
#define PAUSE() ((void)0)
#endif

static struct {
    pthread_mutex_t caller, lock;
    pthread_cond_t wake;
    int threads, wanted;
    atomic_int active;
    atomic_ulong calls;
    Job *job;
    Scratch scratch;
} pool = {
    .caller = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static void work(Job *job, Scratch *scratch) {
    Int unit = atomic_fetch_add(&job->next, 1);
    if (unit >= job->units)
        return;
    if (scratch->bytes < job->scratch) {
        free(scratch->at);
        scratch->at = allocate((size_t)job->scratch);
        scratch->bytes = scratch->at ? job->scratch : 0;
        if (!scratch->at) {
            atomic_store(&job->failed, 1);
            atomic_store(&job->next, job->units);
            return;
        }
    }
    if (job->cleared)
        memset(scratch->at, 0, (size_t)job->cleared);
    for (; unit < job->units; unit = atomic_fetch_add(&job->next, 1))
        job->run(job, unit, scratch->at);
}

static void *helper(void *number) {
    Scratch scratch = {0};
    for (unsigned long known = 0;;) {
        for (int i = 0; i < SPIN && pool.calls == known; i++)
            PAUSE();
        pthread_mutex_lock(&pool.lock);
        while (!pool.job || pool.calls == known || (intptr_t)number >= pool.wanted)
            pthread_cond_wait(&pool.wake, &pool.lock);
        known = pool.calls;
        Job *job = pool.job;
        pool.active++;
        pthread_mutex_unlock(&pool.lock);
        work(job, &scratch);
        pool.active--;
    }
    return NULL;
}

static void after_fork(void) { /* the child has only the thread that forked */
    pthread_mutex_init(&pool.caller, NULL), pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.wake, NULL);
    pool.threads = 0, pool.job = NULL;
    atomic_store(&pool.active, 0);
}
static void watch_forks(void) { pthread_atfork(NULL, NULL, after_fork); }

/* Runs all units of a job: DONE, or NO_MEMORY, and then y is not whole. */
static int share_out(Job *job, int threads) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    threads = (int)least(least(threads, MOST_THREADS), job->units);
    if (pthread_mutex_trylock(&pool.caller)) {
        Scratch own = {0};
        work(job, &own);
        free(own.at);
        return job->failed ? NO_MEMORY : DONE;
    }
    pthread_once(&once, watch_forks);
    if (threads > 1) {
        pthread_mutex_lock(&pool.lock);
        for (pthread_t made; pool.threads < threads - 1; pool.threads++) {
            if (pthread_create(&made, NULL, helper, (void *)(intptr_t)pool.threads))
                break;
            pthread_detach(made);
        }
        pool.job = job, pool.wanted = threads - 1;
        atomic_fetch_add(&pool.calls, 1);
        pthread_cond_broadcast(&pool.wake);
        pthread_mutex_unlock(&pool.lock);
    }
    work(job, &pool.scratch);
    if (threads > 1) {
        pthread_mutex_lock(&pool.lock);
        pool.job = NULL; /* who has not begun by now need not */
        pthread_mutex_unlock(&pool.lock);
        for (int i = 0; pool.active; i++) /* for the others' last boxes; they may have lost their core */
            i < SPIN ? PAUSE() : (void)sched_yield();
    }
    pthread_mutex_unlock(&pool.caller);
    return job->failed ? NO_MEMORY : DONE;
}

/* ---- The mapping ---- */

typedef struct {
    Int image, plane, row;
} Line;

/* Whether the taps of a kernel row lie together in x, so that they make one run. */
static int merges(const Sizes *s) { return s->dilation[WIDTH] == 1 && s->x_step[WIDTH] == s->channels; }

/* Outputs from q on, of a line, whose kernel rows lie inside x. */
static Int inside(const Sizes *s, Int q) {
    Int column = first(s, WIDTH, q), room = s->in[WIDTH] - extent(s, WIDTH) - column;
    return column < 0 || room < 0 ? 0 : least(s->out[WIDTH] - q, room / s->stride[WIDTH] + 1);
}

/* Eq. 8 for outputs q, q + 1, ... of a line: from[m] is where the first finds its m-th run of elements,
   step[m] how many bytes further the next does. A run is the channels of a tap, or of a kernel row from its
   first tap on where `by_rows`: then all outputs are inside. Otherwise, if q is not, the pointers hold for q
   alone. */
static void see(const Sizes *s, const char *x, const char *zeros, Int size, Line line, Int q, int by_rows,
                const char **from, Int *step) {
    Int pixel = s->x_step[WIDTH] * size, column = first(s, WIDTH, q);
    for (Int d = 0; d < s->kernel[DEPTH]; d++) {
        Int z = source(first(s, DEPTH, line.plane) + d * s->dilation[DEPTH], s->in[DEPTH], s->mode);
        for (Int i = 0; i < s->kernel[HEIGHT]; i++) {
            Int y = source(first(s, HEIGHT, line.row) + i * s->dilation[HEIGHT], s->in[HEIGHT], s->mode);
            const char *row =
                x + (line.image * s->x_image + z * s->x_step[DEPTH] + y * s->x_step[HEIGHT]) * size;
            for (Int j = 0; j < (by_rows ? 1 : s->kernel[WIDTH]); j++) {
                Int at = source(column + j * s->dilation[WIDTH], s->in[WIDTH], s->mode);
                int none = z < 0 || y < 0 || at < 0;
                *from++ = none ? zeros : row + at * pixel;
                *step++ = none ? 0 : s->stride[WIDTH] * pixel;
            }
        }
    }
}

/* Line `number` of the lines of a batch: of its outputs, or its pixels. */
static Line line_of(Int number, const Int *size) {
    return (Line){number / size[HEIGHT] / size[DEPTH], number / size[HEIGHT] % size[DEPTH],
                  number % size[HEIGHT]};
}

#define INLINE __attribute__((always_inline)) static inline
#define UNROLL _Pragma("GCC unroll 16")

/* ---- unroll: bytes are moved, in rows of X_col ---- */

typedef struct {
    Job job;
    const Sizes *s;
    const char *x, *x_end; /* x_end: behind the last byte of x */
    char *x_col;
    Int size, start, stop, rows; /* bytes of an element; rows of X_col, and of a unit */
    int chw, merged;
} Unroll;

enum { CHUNK = 32 };
typedef char Chunk __attribute__((vector_size(CHUNK), aligned(1), may_alias));

/* `run` bytes from each of `runs` pointers, for each of n outputs: exactly, or in whole chunks, of which
   those that follow overwrite what is too much. */
INLINE void copy_runs(const int chunk, char *to, const char *const *from, const Int *step, Int runs, Int run,
                      Int n) {
    for (Int q = 0; q < n; q++)
        for (Int m = 0; m < runs; m++, to += run) {
            const char *at = from[m] + q * step[m];
            for (Int b = 0; chunk && b < run; b += CHUNK)
                *(Chunk *)(to + b) = *(const Chunk *)(at + b);
            if (!chunk)
                memcpy(to, at, run);
        }
}

/* Elements (tap, channel) become (channel, tap). */
INLINE void pick(const Int size, char *to, const char *const *from, const Int *step, Int taps, Int channels,
                 Int n) {
    for (Int q = 0; q < n; q++)
        for (Int c = 0; c < channels; c++)
            for (Int l = 0; l < taps; l++, to += size)
                memcpy(to, from[l] + q * step[l] + c * size, size);
}

/* Calls F with the size of an element as a constant, so that to copy one is one instruction. */
#define BY_SIZE(F, size, ...)                                                                                \
    ((size) == 1   ? F(1, __VA_ARGS__)                                                                       \
     : (size) == 2 ? F(2, __VA_ARGS__)                                                                       \
     : (size) == 4 ? F(4, __VA_ARGS__)                                                                       \
     : (size) == 8 ? F(8, __VA_ARGS__)                                                                       \
                   : F(16, __VA_ARGS__))

static void unroll_unit(const Job *job, Int unit, void *scratch) {
    const Unroll *t = (const Unroll *)job;
    const Sizes *s = t->s;
    Int taps = taps_of(s), channels = s->channels * t->size, bytes = taps * channels;
    Int row = t->start + unit * t->rows, stop = least(t->stop, row + t->rows);
    char *to = t->x_col + (row - t->start) * bytes;
    const char *end = t->x_col + (stop - t->start) * bytes;
    uintptr_t room = (uintptr_t)scratch;
    char *zeros = take(&room, t->job.cleared);
    Int *step = take(&room, taps * (Int)sizeof(Int));
    const char **from = take(&room, taps * (Int)sizeof(char *));
    for (Int some; row < stop; row += some) {
        Int q = row % s->out[WIDTH], n = inside(s, q), by_rows = n && t->merged;
        Int runs = by_rows ? rows_of(s) : taps, run = by_rows ? channels * s->kernel[WIDTH] : channels;
        some = least(most(n, 1), least(stop - row, s->out[WIDTH] - q));
        see(s, t->x, zeros, t->size, line_of(row / s->out[WIDTH], s->out), q, by_rows, from, step);
        if (t->chw) {
            BY_SIZE(pick, t->size, to, from, step, taps, s->channels, some);
            to += some * bytes;
            continue;
        }
        /* All but the unit's last rows may write beyond themselves, unless they would read beyond x. */
        const char *highest = t->x;
        for (Int m = 0; m < runs; m++) {
            const char *last = from[m] + (some - 1) * step[m] + run + CHUNK;
            if (last > highest && from[m] != zeros)
                highest = last;
        }
        Int loose = least(some, most(0, (end - to - CHUNK) / bytes));
        loose = run >= 512 || highest > t->x_end || s->x_step[WIDTH] < 0 ? 0 : loose;
        copy_runs(1, to, from, step, runs, run, loose);
        for (Int m = 0; m < runs; m++)
            from[m] += loose * step[m];
        copy_runs(0, to + loose * bytes, from, step, runs, run, some - loose);
        to += some * bytes;
    }
}

/* Rows [start, stop) of X_col, of elements of 1, 2, 4, 8 or 16 bytes. */
int convmat_unroll(const Sizes *s, const void *x, void *x_col, Int size, int chw, Int start, Int stop,
                   int threads) {
    if (size != 1 && size != 2 && size != 4 && size != 8 && size != 16)
        return UNKNOWN;
    Unroll t = {.s = s, .x = x, .x_col = x_col, .size = size, .start = start, .stop = stop};
    Int bytes = taps_of(s) * s->channels * size, last = most(0, (s->batch - 1) * s->x_image) + s->channels;
    for (int a = 0; a < AXES; a++)
        last += most(0, (s->in[a] - 1) * s->x_step[a]);
    t.x_end = t.x + last * size;
    t.chw = chw && s->channels > 1;
    t.merged = !t.chw && merges(s);
    t.rows = most(1, UNIT / bytes);
    t.job.run = unroll_unit, t.job.units = over(stop - start, t.rows);
    t.job.cleared = s->channels * s->kernel[WIDTH] * size + CHUNK;
    t.job.scratch = t.job.cleared + 2 * 8 * taps_of(s) + 4 * 64;
    return share_out(&t.job, threads);
}

/* ---- fold: a pixel gathers what stands for it in X_col ---- */

typedef struct {
    Job job;
    const Sizes *s;
    const char *x_col;
    char *x;
    void (*gather)(const char *const *at, Int terms, Int n, Int row, Int channels, Int c_step, void *to,
                   Int to_step, int mean); /* NULL where no elements meet, which then only move */
    Int size, first;                       /* bytes of an element; first row of x_col */
    Int start, stop, lines;                /* lines of x, and of a unit */
    Int row, c_step, tap_step;             /* elements of X_col to the next row, channel, tap */
    int mean;
} Fold;

/* A tap of a kernel row: pixels `phase`, `phase` + S, ... see it in outputs `output`, `output` + 1, ... */
typedef struct {
    Int phase, tap, output;
} Tap;

/* Moves n elements from every `c_step`-th place. */
INLINE void move(const Int size, char *to, const char *from, Int n, Int c_step) {
    for (Int c = 0; c < n; c++)
        memcpy(to + c * size, from + c * c_step * size, size);
}

/* A line that one row of outputs reaches, at most, no two of which meet. */
static void move_line(const Fold *t, char *to, Int row, Int tap) {
    const Sizes *s = t->s;
    Int pixel = s->channels * t->size, dense = t->c_step == 1 && s->dilation[WIDTH] == 1;
    Int run = dense ? s->kernel[WIDTH] : 1; /* taps that are moved together */
    for (Int q = 0; q < s->out[WIDTH]; q++)
        for (Int j = 0; j < s->kernel[WIDTH]; j += run) {
            Int at = first(s, WIDTH, q) + j * s->dilation[WIDTH];
            Int low = most(0, -at), high = least(run, s->in[WIDTH] - at);
            const char *from = t->x_col + ((row + q) * t->row + (tap + j + low) * t->tap_step) * t->size;
            if (low < high && dense)
                memcpy(to + (at + low) * pixel, from, (high - low) * pixel);
            else if (low < high)
                BY_SIZE(move, t->size, to + at * pixel, from, s->channels, t->c_step);
        }
}

static void fold_line(const Fold *t, Line line, char *to, const Tap *taps, Int *rows, const char **at) {
    const Sizes *s = t->s;
    Int stride = s->stride[WIDTH], count = 0;
    Int *first_tap = rows + rows_of(s); /* of those rows of X_col that reach this line */
    for (Int d = 0; d < s->kernel[DEPTH]; d++)
        for (Int i = 0; i < s->kernel[HEIGHT]; i++) {
            Int z = line.plane + s->before[DEPTH] - d * s->dilation[DEPTH];
            Int y = line.row + s->before[HEIGHT] - i * s->dilation[HEIGHT];
            if (z < 0 || y < 0 || z % s->stride[DEPTH] || y % s->stride[HEIGHT])
                continue;
            z /= s->stride[DEPTH], y /= s->stride[HEIGHT];
            if (z >= s->out[DEPTH] || y >= s->out[HEIGHT])
                continue;
            first_tap[count] = (d * s->kernel[HEIGHT] + i) * s->kernel[WIDTH];
            rows[count++] =
                ((line.image * s->out[DEPTH] + z) * s->out[HEIGHT] + y) * s->out[WIDTH] - t->first;
        }
    if (!t->gather) {
        memset(to, 0, s->in[WIDTH] * s->channels * t->size);
        if (count)
            move_line(t, to, rows[0], first_tap[0]);
        return;
    }
    for (Int phase = 0, next; phase < least(stride, s->in[WIDTH]); phase++, taps += next) {
        Int pixels = over(s->in[WIDTH] - phase, stride), some;
        for (next = 0; taps[next].phase == phase; next++)
            ;
        for (Int p = 0; p < pixels; p += some) {
            Int terms = 0;
            some = pixels - p; /* at most: as many as see the taps that the first of them sees */
            for (Int r = 0; r < count; r++)
                for (const Tap *tap = taps; tap < taps + next; tap++) {
                    Int q = p + tap->output;
                    if (q < 0)
                        some = least(some, -q);
                    else if (q < s->out[WIDTH]) {
                        Int element = (rows[r] + q) * t->row + (first_tap[r] + tap->tap) * t->tap_step;
                        some = least(some, s->out[WIDTH] - q);
                        at[terms++] = t->x_col + element * t->size;
                    }
                }
            t->gather(at, terms, some, t->row, s->channels, t->c_step,
                      to + (phase + p * stride) * s->channels * t->size, stride * s->channels, t->mean);
        }
    }
}

static void fold_unit(const Job *job, Int unit, void *scratch) {
    const Fold *t = (const Fold *)job;
    const Sizes *s = t->s;
    Int from = t->start + unit * t->lines, stride = s->stride[WIDTH];
    uintptr_t room = (uintptr_t)scratch;
    Int *rows = take(&room, 2 * rows_of(s) * (Int)sizeof(Int));
    const char **at = take(&room, taps_of(s) * (Int)sizeof(char *));
    Tap *taps = take(&room, (s->kernel[WIDTH] + 1) * (Int)sizeof(Tap)), *next = taps;
    for (Int phase = 0; phase < least(stride, s->in[WIDTH]); phase++)
        for (Int j = 0; j < s->kernel[WIDTH]; j++) {
            Int q = phase + s->before[WIDTH] - j * s->dilation[WIDTH];
            if (q % stride == 0)
                *next++ = (Tap){phase, j, q / stride};
        }
    next->phase = -1;
    for (Int line = from; line < least(t->stop, from + t->lines); line++)
        fold_line(t, line_of(line, s->in), t->x + (line - t->start) * s->in[WIDTH] * s->channels * t->size,
                  taps, rows, at);
}

/* ---- convert: integers to the floats that are multiplied ---- */

typedef struct {
    Job job;
    const void *from;
    void *to;
    Int n;
    int kind, size, to_size;
} Convert;

#define CONVERT(FROM, TO)                                                                                    \
    for (Int i = unit * UNIT, last = least(t->n, i + UNIT); i < last; i++)                                   \
        ((TO *)t->to)[i] = (TO)((const FROM *)t->from)[i];
#define CASE(letter, bytes, FROM)                                                                            \
    if (t->kind == letter && t->size == bytes) {                                                             \
        if (t->to_size == 4)                                                                                 \
            CONVERT(FROM, float)                                                                             \
        else                                                                                                 \
            CONVERT(FROM, double)                                                                            \
    }
static void convert_unit(const Job *job, Int unit, void *scratch) {
    const Convert *t = (const Convert *)job;
    (void)scratch;
    CASE('i', 1, int8_t)
    CASE('u', 1, uint8_t)
    CASE('i', 2, int16_t)
    CASE('u', 2, uint16_t)
    CASE('i', 4, int32_t)
}

/* n integers, named as NumPy does ('i', 1), to float or double. */
int convmat_convert(const void *from, int kind, int size, void *to, int to_size, Int n, int threads) {
    Convert t = {.from = from, .to = to, .n = n, .kind = kind, .size = size, .to_size = to_size};
    if ((kind != 'i' && kind != 'u') || size > (kind == 'i' ? 4 : 2))
        return UNKNOWN;
    t.job.run = convert_unit, t.job.units = over(n, UNIT), t.job.scratch = 64;
    return share_out(&t.job, threads);
}

/* ---- Convolution: what its kernels share ---- */

typedef struct {
    Job job; /* first: the kernels get a Job */
    const Sizes *s;
    const Box *box;
    const void *x, *w, *bias;
    char *y;
    Int y_size; /* bytes of an element of y */
    int integers;
    Int depth, filters, taps; /* of a group; taps: of a kernel */
    Int boxes[4], parts;      /* along images, depth, rows, columns; parts of all blocks */
    Int blocks, per_group;    /* of filters or groups: in all, and of a group */
} Task;

/* Outputs of a box, filters of a part. */
typedef struct {
    Int image, images, plane, planes, row, rows, column, columns, block, last, lines;
} Unit;

static Unit unit_of(const Task *t, Int unit) {
    const Box *b = t->box;
    const Int *out = t->s->out, *boxes = t->boxes;
    Unit u;
    u.block = unit % t->parts * b->blocks, unit /= t->parts;
    u.column = unit % boxes[3] * b->columns, unit /= boxes[3];
    u.row = unit % boxes[2] * b->rows, unit /= boxes[2];
    u.plane = unit % boxes[1] * b->planes, unit /= boxes[1];
    u.image = unit * b->images;
    u.last = least(u.block + b->blocks, t->blocks);
    u.columns = least(b->columns, out[WIDTH] - u.column), u.rows = least(b->rows, out[HEIGHT] - u.row);
    u.planes = least(b->planes, out[DEPTH] - u.plane), u.images = least(b->images, t->s->batch - u.image);
    u.lines = u.images * u.planes * u.rows;
    return u;
}

/* Line `number` of a unit. */
static Line unit_line(const Unit *u, Int number) {
    return (Line){u->image + number / (u->planes * u->rows), u->plane + number / u->rows % u->planes,
                  u->row + number % u->rows};
}
/* Whether all that a unit sees lies in x, and none in the padding. */
static int unit_inside(const Sizes *s, const Unit *u) {
    Int z = first(s, DEPTH, u->plane), y = first(s, HEIGHT, u->row), x = first(s, WIDTH, u->column);
    return z >= 0 && y >= 0 && x >= 0 && z + seen(s, DEPTH, u->planes) <= s->in[DEPTH] &&
           y + seen(s, HEIGHT, u->rows) <= s->in[HEIGHT] && x + seen(s, WIDTH, u->columns) <= s->in[WIDTH];
}
static char *y_at(const Task *t, Line l, Int column, Int filter) {
    const Int *step = t->s->y_step;
    return t->y + t->y_size * (l.image * t->s->y_image + l.plane * step[DEPTH] + l.row * step[HEIGHT] +
                               column * step[WIDTH] + filter);
}
/* Where tap `l` of (kd, kh, kw) has its weights. */
static Int w_offset(const Sizes *s, Int l) {
    Int kw = s->kernel[WIDTH], kh = s->kernel[HEIGHT];
    return l / kw / kh * s->w_tap[DEPTH] + l / kw % kh * s->w_tap[HEIGHT] + l % kw * s->w_tap[WIDTH];
}

#define NAME_(a, b) a##_##b
#define NAME__(a, b) NAME_(a, b)
#define NAME(a) NAME__(a, T)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#define SHUFFLE_EIGHT SHUFFLE
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (NAME(FourIndices)){__VA_ARGS__})
#define SHUFFLE_EIGHT(a, b, ...) __builtin_shuffle(a, b, (NAME(EightIndices)){__VA_ARGS__})
#endif

#define T float
#define INDEX int32_t
#include "conv.c"
#undef T
#undef INDEX
#define T double
#define INDEX int64_t
#include "conv.c"
#undef T
#undef INDEX
#if defined __x86_64__
#define T int32_t /* two int16, neighbouring channels; or the sum of products of such */
#define INDEX int32_t
#define PAIRS
#include "conv.c"
#undef T
#undef INDEX
#undef PAIRS
#endif
#define T uint64_t /* sums beyond 2^63 wrap */
#include "conv.c"
#undef T

/* ---- What the library can do ---- */

/* Lines [start, stop) of x from rows of X_col, `first` and later. kind: 'f' floats, 'i' int64; 'm' elements
   of any 1, 2, 4, 8 or 16 bytes, no two of which meet. */
int convmat_fold(const Sizes *s, const void *x_col, Int first, void *x, int kind, int size, int mean, int chw,
                 Int start, Int stop, int threads) {
    Int taps = taps_of(s), c = s->channels;
    Fold t = {.s = s, .x_col = x_col, .x = x, .size = size, .first = first, .mean = mean};
    t.start = start, t.stop = stop;
    t.gather = kind == 'm' ? NULL : kind == 'i' ? gather_uint64_t : size == 4 ? gather_float : gather_double;
    if (kind != 'm' && size != 8 && (kind != 'f' || size != 4))
        return UNKNOWN;
    t.row = taps * c, t.c_step = chw && c > 1 ? taps : 1, t.tap_step = chw ? 1 : c;
    t.lines = most(1, UNIT / most(1, s->in[WIDTH] * c * size));
    t.job.run = fold_unit, t.job.units = over(stop - start, t.lines);
    t.job.scratch = 6 * 8 * (taps + 1) + 4 * 64;
    return share_out(&t.job, threads);
}

/* The best level that the processor has: 0 baseline, 1 AVX2, 2 AVX-512. */
int convmat_level(void) {
#if defined __x86_64__
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        return 2;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 0;
#endif
}

/* Numbers in a vector; of int16 none where there is no instruction for pairs of them. */
Int convmat_lanes(Int itemsize) { return itemsize == 2 && !HAS_PAIRS ? 0 : BYTES / itemsize; }

static void cut(Task *t) {
    const Box *b = t->box;
    const Int *out = t->s->out;
    t->boxes[0] = over(t->s->batch, b->images), t->boxes[1] = over(out[DEPTH], b->planes);
    t->boxes[2] = over(out[HEIGHT], b->rows), t->boxes[3] = over(out[WIDTH], b->columns);
    t->parts = over(t->blocks, b->blocks);
    t->job.units = t->boxes[0] * t->boxes[1] * t->boxes[2] * t->boxes[3] * t->parts;
}

static Task task_of(const Layer *l, Int *kernel) {
    const Sizes *s = &l->sizes;
    Task t = {.s = s, .box = &l->box, .taps = taps_of(s), .integers = l->integers != 0};
    *kernel = t.taps ? l->kernel : WIDE; /* pixels that nothing reaches get the bias */
    t.depth = s->channels / s->groups, t.filters = s->filters / s->groups;
    t.y_size = l->integers ? 8 : l->itemsize;
    t.per_group = *kernel == WIDE ? blocks_of(over(t.filters, BYTES / l->itemsize)) : 1;
    t.blocks = *kernel == DEPTHWISE ? 1 : s->groups * t.per_group;
    return t;
}

/* Outputs of a box, about: as many as the caches hold what they need for. */
static Int box_size(const Task *t, Int kernel, Int itemsize, Int threads, Box *box) {
    const Sizes *s = t->s;
    Int all = s->batch * s->out[DEPTH] * s->out[HEIGHT] * s->out[WIDTH], size;
    if (kernel == WIDE) {
        /* Enough to pay for the weights that are packed for it; x stays in the second cache, and the
         * pointers. */
        size = most(96, least(448, L2 / 2 / itemsize / s->channels));
        size = least(size, most(96, all * t->blocks / (8 * threads)));
        return most(16, least(size, L2 / 2 / 8 / most(1, t->taps)));
    }
    if (kernel == PLANES) {
        Int wide = seen(s, WIDTH, box->columns) * itemsize * t->depth * s->kernel[DEPTH];
        box->blocks = most(1, least(s->groups, L2 / 4 / most(1, seen(s, HEIGHT, 4) * wide)));
        Int lines = (L2 / 4 / (wide * box->blocks) - extent(s, HEIGHT)) / s->stride[HEIGHT] + 1;
        size = box->columns * most(lines, 4);
    } else
        size = most(64, L1 / 2 / s->channels);
    return least(size, most(256, all / (8 * threads)));
}

typedef Int Carve(const Task *, uintptr_t, void *);
typedef void Run(const Job *, Int, void *);
enum { FLOATS, DOUBLES, PAIRS_OF_INT16 };
static int type_of(const Layer *l) {
    return l->integers == 2 ? PAIRS_OF_INT16 : l->itemsize == 8 ? DOUBLES : FLOATS;
}

/* Decides how a layer's outputs are to be cut: fit for the caches, and enough to share out. */
void convmat_box(Layer *layer, int threads) {
    static Carve *const carve[3][3] = {{carve_wide_float, carve_planes_float, carve_depthwise_float},
                                       {carve_wide_double, carve_planes_double, carve_depthwise_double},
                                       {FOR_PAIRS(carve_wide)}};
    Int kernel, size;
    Task t = task_of(layer, &kernel);
    const Int *out = t.s->out;
    Box *box = &layer->box;
    box->blocks = t.blocks, box->columns = kernel == PLANES ? least(out[WIDTH], 1024) : out[WIDTH];
    size = box_size(&t, kernel, layer->itemsize, threads, box);
    box->columns = most(1, even(out[WIDTH], least(box->columns, size)));
    size /= box->columns;
    box->rows = most(1, even(out[HEIGHT], most(1, size)));
    size /= box->rows;
    int whole = box->columns == out[WIDTH] && box->rows == out[HEIGHT];
    box->planes = kernel == PLANES || !whole ? 1 : most(1, even(out[DEPTH], most(1, size)));
    size /= box->planes;
    box->images = whole && box->planes == out[DEPTH] ? most(1, even(t.s->batch, most(1, size))) : 1;
    if (kernel == WIDE && threads > 1) { /* all filters in one unit, unless these were too few to share out */
        cut(&t);
        box->blocks = most(1, least(t.blocks, t.blocks * t.job.units / (8 * threads)));
    }
    union {
        Wide_float a; /* that of pairs is as large */
        Wide_double b;
        Planes_float c;
        Planes_double d;
        Depthwise_float e;
        Depthwise_double f;
    } unused;
    box->scratch = carve[type_of(layer)][kernel](&t, 0, &unused);
}

int convmat_convolve(const Layer *layer, const void *x, const void *w, const void *bias, void *y,
                     int threads) {
    static Run *const runs[3][3] = {{wide_float, planes_float, depthwise_float},
                                    {wide_double, planes_double, depthwise_double},
                                    {FOR_PAIRS(wide)}};
    Int kernel;
    Task t = task_of(layer, &kernel);
    if (kernel == DEPTHWISE && t.s->channels < BYTES / layer->itemsize)
        return UNKNOWN;
    t.x = x, t.w = w, t.bias = bias, t.y = y;
    cut(&t);
    t.job.run = runs[type_of(layer)][kernel], t.job.scratch = layer->box.scratch;
    t.job.cleared = kernel == WIDE ? t.blocks : kernel == DEPTHWISE ? 1 : 0;
    return share_out(&t.job, threads);
}

#else /* ---- With T, an element ---- */

/* fold: `many` elements, `step` apart in X_col and `to_step` in x, each the sum, or the mean, of what the
   pointers point to. Many at a time, since one addition waits for another. */
INLINE void NAME(sums)(const int many, const char *const *at, Int terms, Int offset, Int step, T *to,
                       Int to_step, const int mean) {
    T sum[8], low[8], high[8];
    UNROLL
    for (int i = 0; i < many; i++)
        low[i] = high[i] = sum[i] = ((const T *)at[0])[offset + i * step];
    for (Int l = 1; l < terms; l++) {
        const T *from = (const T *)at[l] + offset;
        UNROLL
        for (int i = 0; i < many; i++) {
            T value = from[i * step];
            sum[i] += value;
            if (mean)
                low[i] = value < low[i] ? value : low[i], high[i] = value > high[i] ? value : high[i];
        }
    }
    UNROLL
    for (int i = 0; i < many; i++) {
        T found = mean ? sum[i] / (T)terms : sum[i];
        if (mean) /* of equal numbers it is that number, whatever rounding or overflow does */
            found = found < low[i] ? low[i] : found > high[i] ? high[i] : found;
        to[i * to_step] = found;
    }
}

/* n pixels, `to_step` apart; the pointers move by `row` from one to the next. */
INLINE void NAME(pixels)(const int mean, const char *const *at, Int terms, Int n, Int row, Int channels,
                         Int c_step, T *to, Int to_step) {
    Int wide = c_step == 1 ? channels / 8 * 8 : 0; /* channels together where they are many, else pixels */
    for (Int p = 0; wide && p < n; p++)
        for (Int k = 0; k < wide; k += 8)
            NAME(sums)(8, at, terms, p * row + k, 1, to + p * to_step + k, 1, mean);
    Int p = 0;
    for (; p + 8 <= n; p += 8)
        for (Int k = wide; k < channels; k++)
            NAME(sums)(8, at, terms, p * row + k * c_step, row, to + p * to_step + k, to_step, mean);
    for (; p < n; p++)
        for (Int k = wide; k < channels; k++)
            NAME(sums)(1, at, terms, p * row + k * c_step, row, to + p * to_step + k, to_step, mean);
}

static void NAME(gather)(const char *const *at, Int terms, Int n, Int row, Int channels, Int c_step, void *to,
                         Int to_step, int mean) {
    if (terms == 0)
        for (Int p = 0; p < n; p++)
            memset((T *)to + p * to_step, 0, channels * sizeof(T));
    else if (mean)
        NAME(pixels)(1, at, terms, n, row, channels, c_step, to, to_step);
    else
        NAME(pixels)(0, at, terms, n, row, channels, c_step, to, to_step);
}

#ifdef INDEX /* ---- With INDEX, an integer of its size: the kernels ---- */

#define LANES ((Int)(BYTES / sizeof(T)))
#define V NAME(Vector)
#define Four NAME(Four)
#define Eight NAME(Eight)
typedef T V __attribute__((vector_size(BYTES), aligned(sizeof(T)), may_alias));
typedef T Four __attribute__((vector_size(4 * sizeof(T)), aligned(sizeof(T)), may_alias));
typedef INDEX NAME(FourIndices) __attribute__((vector_size(4 * sizeof(T))));
typedef T Eight __attribute__((vector_size(8 * sizeof(T)), aligned(sizeof(T)), may_alias));
typedef INDEX NAME(EightIndices) __attribute__((vector_size(8 * sizeof(T))));
typedef int64_t NAME(FourIntegers) __attribute__((vector_size(32), aligned(8), may_alias));
#define LOAD(at) (*(const V *)(at))
#define STORE(at) (*(V *)(at))
#define ALL(value) ((value) - (V){0})

/* sum + a * b */
INLINE V NAME(add)(V sum, V a, V b) {
#ifndef PAIRS
    return sum + a * b;
#elif defined __AVX512F__
    return sum + (V)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined __AVX2__
    return sum + (V)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
    return sum + (V)_mm_madd_epi16((__m128i)a, (__m128i)b);
#endif
}

/* Four results, to y. */
INLINE void NAME(leave)(const int integers, void *to, Four value) {
    if (integers)
        *(NAME(FourIntegers) *)to =
            __builtin_convertvector(__builtin_convertvector(value, NAME(FourIndices)), NAME(FourIntegers));
    else
        *(Four *)to = value;
}

/* to[i * to_step + k] = from[k * from_step + i] of an 8 x 8 square: neighbours change places, then pairs,
   then fours. */
INLINE void NAME(turn_square)(const int integers, char *to, Int to_step, const T *from, Int from_step) {
    Eight a[8], b[8];
    UNROLL
    for (int i = 0; i < 8; i++)
        a[i] = *(const Eight *)(from + i * from_step);
    UNROLL
    for (int i = 0; i < 8; i += 2) {
        b[i] = SHUFFLE_EIGHT(a[i], a[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        b[i + 1] = SHUFFLE_EIGHT(a[i], a[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        int at = i / 2 * 4 + i % 2;
        a[2 * i] = SHUFFLE_EIGHT(b[at], b[at + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        a[2 * i + 1] = SHUFFLE_EIGHT(b[at], b[at + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        b[i] = SHUFFLE_EIGHT(a[i], a[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        b[i + 4] = SHUFFLE_EIGHT(a[i], a[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
    UNROLL
    for (int i = 0; i < 8; i++, to += to_step * (integers ? 8 : (Int)sizeof(T)))
        if (integers) {
            T row[8];
            *(Eight *)row = b[i];
            NAME(leave)(1, to, *(const Four *)row);
            NAME(leave)(1, to + 32, *(const Four *)(row + 4));
        } else
            *(Eight *)to = b[i];
}

/* to[i * to_step + k] = from[k * from_step + i] for `lines` k and n i; `to` is T, or int64. */
INLINE void NAME(turn)(const int integers, void *to, Int to_step, const T *from, Int from_step, Int lines,
                       Int n) {
    const Int size = integers ? 8 : sizeof(T);
    char *start = to;
    Int k = 0, eights = LANES >= 8 ? lines / 8 * 8 : 0;
    for (Int l = 0; l < eights; l += 8)
        for (Int i = 0; i + 8 <= n; i += 8)
            NAME(turn_square)(integers, start + (i * to_step + l) * size, to_step, from + l * from_step + i,
                              from_step);
    for (; k + 4 <= lines; k += 4) {
        const T *a = from + k * from_step, *b = a + from_step, *c = b + from_step, *d = c + from_step;
        Int i = k < eights ? n / 8 * 8 : 0;
        for (; i + 4 <= n; i += 4) {
            char *at = start + (i * to_step + k) * size;
            Four A = *(const Four *)(a + i), B = *(const Four *)(b + i);
            Four C = *(const Four *)(c + i), D = *(const Four *)(d + i);
            Four low = SHUFFLE(A, B, 0, 4, 1, 5), low2 = SHUFFLE(C, D, 0, 4, 1, 5);
            Four high = SHUFFLE(A, B, 2, 6, 3, 7), high2 = SHUFFLE(C, D, 2, 6, 3, 7);
            NAME(leave)(integers, at, SHUFFLE(low, low2, 0, 1, 4, 5));
            NAME(leave)(integers, at + to_step * size, SHUFFLE(low, low2, 2, 3, 6, 7));
            NAME(leave)(integers, at + 2 * to_step * size, SHUFFLE(high, high2, 0, 1, 4, 5));
            NAME(leave)(integers, at + 3 * to_step * size, SHUFFLE(high, high2, 2, 3, 6, 7));
        }
        for (; i < n; i++)
            NAME(leave)(integers, start + (i * to_step + k) * size, (Four){a[i], b[i], c[i], d[i]});
    }
    for (; k < lines; k++)
        for (Int i = 0; i < n; i++)
            if (integers)
                ((int64_t *)to)[i * to_step + k] = (int64_t)from[k * from_step + i];
            else
                ((T *)to)[i * to_step + k] = from[k * from_step + i];
}
__attribute__((noinline)) static void NAME(transpose)(T *to, Int to_step, const T *from, Int from_step,
                                                      Int lines, Int n) {
    NAME(turn)(0, to, to_step, from, from_step, lines, n);
}

/* n results that lie side by side, to y. */
INLINE void NAME(put)(int integers, void *at, const T *from, Int n) {
    T *to = at;
    if (integers) {
        Int i = 0;
        for (; i + 4 <= n; i += 4)
            NAME(leave)(1, (int64_t *)at + i, *(const Four *)(from + i));
        for (; i < n; i++)
            ((int64_t *)at)[i] = (int64_t)from[i];
        return;
    }
    for (; n >= LANES; n -= LANES, to += LANES, from += LANES)
        STORE(to) = LOAD(from);
    UNROLL
    for (int some = LANES / 2; some; some /= 2)
        if (n & some)
            memcpy(to, from, some * sizeof(T)), to += some, from += some;
}

/* Results (filter, output), `plane` apart, become pixels of y, `step` apart. */
static void NAME(join)(int integers, Int filters, void *to, Int step, const T *from, Int plane, Int n) {
    if (filters == 1 && step == 1)
        NAME(put)(integers, to, from, n);
    else if (integers)
        NAME(turn)(1, to, step, from, plane, filters, n);
    else
        NAME(transpose)(to, step, from, plane, filters, n);
}

/* ---- wide: lanes are filters ---- */

#ifndef WIDEST
/* Registers of filters in a tile, and its outputs: as many sums as the registers hold beside the weights. */
#define WIDEST (REGISTERS == 32 ? 4 : 3)
#define PIXELS(wide) ((wide) == 1 ? 8 : (wide) == 2 || REGISTERS == 32 ? 6 : 4)
static Int blocks_of(Int vectors) { return REGISTERS == 32 ? over(vectors, WIDEST) : most(1, vectors / 2); }
/* A tile's outputs, at most; channels below which rows are merged; bytes of weights that a thread keeps
   packed; outputs of a depthwise tile. */
enum { MOST_PIXELS = 8, MERGED = 32, KEPT = 5 << 19, FEW = 4 };
#endif

/* Some runs of taps of a block of filters, for all outputs of a unit. */
typedef struct {
    const T *const *at;      /* (run, output): pointers to what an output sees */
    Int outputs, step;       /* how many, and pointers from one run to the next */
    Int runs, length, skip;  /* of each run, `length` elements from `skip` on */
    const T *weights, *bias; /* bias: where sums begin; NULL to go on with `sums` */
    T *sums;
    char *const
        *to; /* where they go: if NULL to sums, else the first `lanes` `first` bytes behind to[output] */
    Int first, lanes;
    int integers;
} NAME(Sweep);

INLINE void NAME(tiles)(const int pixels, const int wide, const NAME(Sweep) * given) {
    const NAME(Sweep) t = *given; /* a copy, which no store of a sum can change */
    T *sums = t.sums;
    for (Int p = 0; p < t.outputs; p += pixels, sums += pixels * wide * LANES) {
        V sum[8][4];
        UNROLL
        for (int i = 0; i < pixels; i++)
            UNROLL
        for (int v = 0; v < wide; v++)
            sum[i][v] = LOAD(t.bias ? t.bias + v * LANES : sums + (i * wide + v) * LANES);
        const T *w = t.weights, *const *from = t.at + p;
        for (Int r = 0; r < t.runs; r++, from += t.step) {
            const T *at[8];
            UNROLL
            for (int i = 0; i < pixels; i++)
                at[i] = from[i] + t.skip;
            for (Int l = 0; l < t.length; l++, w += wide * LANES) {
                V weight[4];
                UNROLL
                for (int v = 0; v < wide; v++)
                    weight[v] = LOAD(w + v * LANES);
                UNROLL
                for (int i = 0; i < pixels; i++) {
                    V value = ALL(at[i][l]);
                    UNROLL
                    for (int v = 0; v < wide; v++)
                        sum[i][v] = NAME(add)(sum[i][v], value, weight[v]);
                }
            }
        }
        int whole = t.to && t.lanes == wide * LANES && p + pixels <= t.outputs, direct = whole && !t.integers;
        UNROLL
        for (int i = 0; i < pixels; i++) {
            T *at = direct ? (T *)(t.to[p + i] + t.first) : sums + i * wide * LANES;
            UNROLL
            for (int v = 0; v < wide; v++)
                STORE(at + v * LANES) = sum[i][v];
        }
        if (whole && !direct)
            for (int i = 0; i < pixels; i++)
                NAME(put)(1, t.to[p + i] + t.first, sums + i * wide * LANES, wide * LANES);
        for (Int i = 0; !whole && t.to && i < least(pixels, t.outputs - p); i++)
            NAME(put)(t.integers, t.to[p + i] + t.first, sums + i * wide * LANES, t.lanes);
    }
}
__attribute__((noinline)) static void NAME(sweep)(Int wide, const NAME(Sweep) * t) {
    if (wide == 1)
        NAME(tiles)(PIXELS(1), 1, t);
    else if (wide == 2)
        NAME(tiles)(PIXELS(2), 2, t);
    else if (wide == 3)
        NAME(tiles)(PIXELS(3), 3, t);
#if defined __AVX512F__ || defined __aarch64__ /* WIDEST */
    else
        NAME(tiles)(PIXELS(4), 4, t);
#endif
}

/* n weights of each of some filters become n rows of `width`; 0 where there is no filter. */
static void NAME(pack)(const T *w, Int filter, Int channel, Int n, Int filters, Int width, T *panel) {
    if (channel == 1)
        NAME(transpose)(panel, width, w, filter, filters, n);
    else
        for (Int l = 0; l < n; l++)
            if (filter == 1) /* of a transposed convolution */
                memcpy(panel + l * width, w + l * channel, filters * sizeof(T));
            else
                for (Int k = 0; k < filters; k++)
                    panel[l * width + k] = w[l * channel + k * filter];
    for (Int l = 0; filters < width && l < n; l++)
        memset(panel + l * width + filters, 0, (width - filters) * sizeof(T));
}

typedef struct {
    char *packed; /* whether this thread has packed a block's weights */
    const T **at; /* (run, output) */
    char **to;    /* (output) */
    const char **from;
    T *zeros, *bias, *sums, *box, *weights;
    Int *steps, step, runs, length; /* step: of at; runs of an output, elements of each */
    int merged, kept;               /* kept: all weights stay packed */
} NAME(Wide);

static Int NAME(carve_wide)(const Task *t, uintptr_t room, void *found) {
    const Sizes *s = t->s;
    const Box *b = t->box;
    NAME(Wide) *k = found;
    Int pixels = b->images * b->planes * b->rows * b->columns + MOST_PIXELS, n = t->taps * t->depth;
    /* Worth the copy of a unit that reaches into the padding where channels alone would be short runs. */
    k->merged = t->depth < MERGED && s->groups == 1 && merges(s);
    k->runs = k->merged ? rows_of(s) : t->taps,
    k->length = k->merged ? s->kernel[WIDTH] * t->depth : t->depth;
    Int width = WIDEST * LANES, all = s->groups * over(t->filters, LANES) * LANES * n * (Int)sizeof(T);
    k->kept = all <= KEPT, k->step = pixels;
    uintptr_t start = room;
    k->packed = take(&room, t->blocks);
    k->at = take(&room, pixels * k->runs * (Int)sizeof(T *));
    k->to = take(&room, pixels * (Int)sizeof(T *));
    k->from = take(&room, t->taps * (Int)sizeof(T *));
    k->steps = take(&room, t->taps * (Int)sizeof(Int));
    k->zeros = take(&room, most(s->channels, k->length) * (Int)sizeof(T));
    k->bias = take(&room, width * (Int)sizeof(T));
    k->sums = take(&room, pixels * width * (Int)sizeof(T));
    Int seen_pixels = seen(s, DEPTH, b->planes) * seen(s, HEIGHT, b->rows) * seen(s, WIDTH, b->columns);
    k->box = take(&room, k->merged ? b->images * seen_pixels * s->channels * (Int)sizeof(T) : 0);
    k->weights = take(&room, k->kept ? all : most(L1 / 2, 4 * width * (Int)sizeof(T)));
    return (Int)(room - start);
}

/* Copies all that a unit sees, with its padding, and gives the sizes of a layer whose x is this box. */
static Sizes NAME(copy_box)(const Sizes *s, const Unit *u, const T *x, T *to) {
    Sizes box = *s;
    const Int starts[AXES] = {u->plane, u->row, u->column}, outputs[AXES] = {u->planes, u->rows, u->columns};
    for (int a = WIDTH; a >= DEPTH; a--) {
        box.in[a] = seen(s, a, outputs[a]), box.before[a] = starts[a] * s->stride[a];
        box.x_step[a] = a == WIDTH ? s->channels : box.in[a + 1] * box.x_step[a + 1];
    }
    box.x_image = box.in[DEPTH] * box.x_step[DEPTH];
    Int c = s->channels, column = first(s, WIDTH, u->column), left = most(0, -column);
    Int right = most(left, least(box.in[WIDTH], s->in[WIDTH] - column)); /* pixels [left, right) lie inside */
    for (Int m = 0; m < u->images * box.in[DEPTH] * box.in[HEIGHT]; m++) {
        Line line = line_of(m, box.in);
        Int z = source(first(s, DEPTH, u->plane) + line.plane, s->in[DEPTH], s->mode);
        Int y = source(first(s, HEIGHT, u->row) + line.row, s->in[HEIGHT], s->mode), none = z < 0 || y < 0;
        const T *row = x + (u->image + line.image) * s->x_image;
        row += z * s->x_step[DEPTH] + y * s->x_step[HEIGHT];
        for (Int q = 0; q < box.in[WIDTH]; q++, to += c) {
            Int at = source(column + q, s->in[WIDTH], s->mode);
            Int n = q == left && left < right ? right - left : 1; /* pixels that are copied together */
            if (none || at < 0)
                memset(to, 0, c * sizeof(T));
            else
                memcpy(to, row + at * c, n * c * sizeof(T)), q += n - 1, to += (n - 1) * c;
        }
    }
    return box;
}

/* Pointers to all that the outputs of a unit see; how many outputs there are. */
static Int NAME(map)(const Task *t, const Unit *u, NAME(Wide) * k) {
    Sizes box;
    const Sizes *s = t->s;
    const char *x = t->x;
    Int pixel = 0, length = most(s->channels, k->length), image = 0;
    memset(k->zeros, 0, length * sizeof(T));
    if (k->merged && !unit_inside(s, u))
        box = NAME(copy_box)(s, u, t->x, k->box), s = &box, x = (const char *)k->box, image = u->image;
    for (Int m = 0; m < u->lines; m++) {
        Line line = unit_line(u, m), from = {line.image - image, line.plane, line.row};
        for (Int q = u->column, n; q < u->column + u->columns; q += n, pixel += n) {
            n = least(most(1, inside(s, q)), u->column + u->columns - q);
            see(s, x, (char *)k->zeros, sizeof(T), from, q, k->merged, k->from, k->steps);
            for (Int r = 0; r < k->runs; r++) {
                const char *at = k->from[r];
                const T **to = k->at + r * k->step + pixel;
                for (Int i = 0; i < n; i++, at += k->steps[r])
                    to[i] = (const T *)at;
            }
            char *y = y_at(t, line, q, 0);
            for (Int i = 0; i < n; i++, y += t->s->y_step[WIDTH] * t->y_size)
                k->to[pixel + i] = y;
        }
    }
    for (Int r = 0; r < k->runs; r++) /* a last tile's missing outputs see zeros */
        for (Int i = 0; i < MOST_PIXELS; i++)
            k->at[r * k->step + pixel + i] = k->zeros;
    return pixel;
}

/* Packs elements [l, end) of all runs of a block's weights, (element, lane). */
static void NAME(pack_some)(const Task *t, const T *w, Int l, Int end, Int lanes, Int width, T *to) {
    const Sizes *s = t->s;
    Int row = t->depth * s->kernel[WIDTH], plain = s->w_channel == 1; /* a filter's weights are neighbours */
    plain &=
        s->w_tap[WIDTH] == t->depth && s->w_tap[HEIGHT] == row && s->w_tap[DEPTH] == row * s->kernel[HEIGHT];
    for (Int count; l < end; l += count, to += count * width) {
        Int c = l % t->depth, at = plain ? l : w_offset(s, l / t->depth) + c * s->w_channel;
        count = plain ? end - l : least(t->depth - c, end - l);
        NAME(pack)(w + at, s->w_filter, s->w_channel, count, lanes, width, to);
    }
}

static void NAME(wide)(const Job *job, Int number, void *scratch) {
    const Task *t = (const Task *)job;
    const Sizes *s = t->s;
    Unit u = unit_of(t, number);
    NAME(Wide) k;
    NAME(carve_wide)(t, (uintptr_t)scratch, &k);
    Int outputs = NAME(map)(t, &u, &k), n = t->taps * t->depth, vectors = over(t->filters, LANES);
    for (Int block = u.block; block < u.last; block++) {
        Int group = block / t->per_group, b = block % t->per_group;
        Int v = vectors * b / t->per_group, wide = vectors * (b + 1) / t->per_group - v, width = wide * LANES;
        Int lanes = least(width, t->filters - v * LANES), filter = group * t->filters + v * LANES;
        const T *w = (const T *)t->w + group * s->w_group + v * LANES * s->w_filter;
        for (Int i = 0; i < width; i++)
            k.bias[i] = t->bias && i < lanes ? ((const T *)t->bias)[filter + i] : 0;
        /* As many runs at a time, or as much of one, as have their weights in the first cache. */
        Int panel = most(1, L1 / 2 / (width * (Int)sizeof(T)));
        Int some = k.length > panel ? 1 : even(k.runs, panel / most(1, k.length));
        Int part = k.length > panel ? even(k.length, panel) : k.length;
        T *kept = k.weights + (k.kept ? (group * vectors + v) * LANES * n : 0);
        Int l = 0;
        do {
            Int r = l / most(1, k.length), skip = l % most(1, k.length);
            Int runs = least(some, k.runs - r), length = least(part, k.length - skip),
                end = l + runs * length;
            T *to = k.kept ? kept + l * width : kept;
            if (!k.kept || !k.packed[block])
                NAME(pack_some)(t, w, l, end, lanes, width, to);
            NAME(Sweep) sweep = {.outputs = outputs, .step = k.step, .runs = runs, .length = length};
            sweep.at = k.at + r * k.step, sweep.skip = group * t->depth + skip, sweep.weights = to;
            sweep.bias = l ? NULL : k.bias, sweep.sums = k.sums, sweep.to = end < n ? NULL : k.to;
            sweep.first = filter * t->y_size, sweep.lanes = lanes, sweep.integers = t->integers;
            NAME(sweep)(wide, &sweep);
            l = end;
        } while (l < n);
        k.packed[block] = 1;
    }
}

#ifndef PAIRS
/* ---- planes: lanes are outputs ---- */

/* `filters` x `wide` registers of sums: each tap is a vector of the planes, times one number for each filter.
 */
INLINE void NAME(vectors)(const int filters, const int wide, const T *planes, const Int *tap, Int n,
                          const T *w, const T *bias, T *to, Int to_step) {
    V sum[4][8];
    UNROLL
    for (int k = 0; k < filters; k++)
        UNROLL
    for (int v = 0; v < wide; v++)
        sum[k][v] = ALL(bias[k]);
    for (Int l = 0; l < n; l++) {
        const T *at = planes + tap[l];
        V weight[4];
        UNROLL
        for (int k = 0; k < filters; k++)
            weight[k] = ALL(w[k * n + l]);
        UNROLL
        for (int v = 0; v < wide; v++) {
            V value = LOAD(at + v * LANES);
            UNROLL
            for (int k = 0; k < filters; k++)
                sum[k][v] += value * weight[k];
        }
    }
    UNROLL
    for (int k = 0; k < filters; k++)
        UNROLL
    for (int v = 0; v < wide; v++)
        STORE(to + k * to_step + v * LANES) = sum[k][v];
}

/* The same for `length` outputs that lie in a line. At its end some are computed twice; a line shorter than a
   register is read and written beyond, where there is room. */
INLINE void NAME(run)(const int filters, const int wide, const T *planes, const Int *tap, Int n, const T *w,
                      const T *bias, T *to, Int to_step, Int length) {
    Int f = 0;
    if (length >= wide * LANES)
        for (; f < length; f += wide * LANES) {
            f = least(f, length - wide * LANES);
            NAME(vectors)(filters, wide, planes + f, tap, n, w, bias, to + f, to_step);
        }
    for (; f < length; f += LANES) {
        f = least(f, most(0, length - LANES));
        NAME(vectors)(filters, 1, planes + f, tap, n, w, bias, to + f, to_step);
    }
}
__attribute__((noinline)) static void NAME(line)(Int filters, const T *planes, const Int *tap, Int n,
                                                 const T *w, const T *bias, T *to, Int to_step, Int length) {
    if (filters == 1)
        NAME(run)(1, 8, planes, tap, n, w, bias, to, to_step, length);
    else if (filters == 2)
        NAME(run)(2, 6, planes, tap, n, w, bias, to, to_step, length);
    else if (filters == 3)
        NAME(run)(3, 4, planes, tap, n, w, bias, to, to_step, length);
    else
        NAME(run)(4, 2, planes, tap, n, w, bias, to, to_step, length);
}

typedef struct {
    Int *taps;
    T *weights, *bias, *planes, *sums;
    Int pitch, image, plane; /* steps of the copy: to the next line, image, channel */
} NAME(Planes);

/* The steps of a copy for so many images, rows and columns of outputs. */
static void NAME(steps)(const Sizes *s, Int images, Int rows, Int columns, NAME(Planes) * k) {
    Int sy = s->stride[HEIGHT], sx = s->stride[WIDTH];
    k->pitch = over(seen(s, WIDTH, columns), sx);
    k->image = over(seen(s, HEIGHT, rows), sy) * k->pitch;
    k->plane = s->kernel[DEPTH] * sy * sx * images * k->image; /* of each depth, and phase, and image */
}

static Int NAME(carve_planes)(const Task *t, uintptr_t room, void *found) {
    const Box *b = t->box;
    NAME(Planes) *k = found;
    Int n = t->taps * t->depth, filters = b->blocks * t->filters;
    NAME(steps)(t->s, b->images, b->rows, b->columns, k);
    uintptr_t start = room;
    k->taps = take(&room, n * (Int)sizeof(Int));
    k->weights = take(&room, filters * n * (Int)sizeof(T));
    k->bias = take(&room, filters * (Int)sizeof(T));
    k->planes = take(&room, (b->blocks * t->depth * k->plane + 8 * LANES) * (Int)sizeof(T));
    k->sums = take(&room, filters * (b->images * k->image + 16 * LANES) * (Int)sizeof(T));
    return (Int)(room - start);
}

/* Channels of a unit's input, split by stride: (channel, depth, phase, image, line, pitch). */
static void NAME(spread)(const Task *t, const Unit *u, const NAME(Planes) * k) {
    const Sizes *s = t->s;
    Int sy = s->stride[HEIGHT], sx = s->stride[WIDTH], step = s->x_step[WIDTH];
    Int lines = k->image / k->pitch, channels = (u->last - u->block) * t->depth;
    T *to = k->planes;
    for (Int m = 0; m < s->kernel[DEPTH] * sy * sx * u->images; m++) {
        Int phase = m / u->images, x = first(s, WIDTH, u->column) + phase % sx;
        Int y = first(s, HEIGHT, u->row) + phase / sx % sy;
        Int z = first(s, DEPTH, u->plane) + phase / (sx * sy) * s->dilation[DEPTH];
        Int left = least(k->pitch, most(0, over(-x, sx))); /* pixels [left, right) lie inside */
        Int right = most(left, least(k->pitch, over(s->in[WIDTH] - x, sx)));
        z = source(z, s->in[DEPTH], s->mode);
        const T *plane = (const T *)t->x + u->block * t->depth + (u->image + m % u->images) * s->x_image +
                         z * s->x_step[DEPTH];
        for (Int r = 0; r < lines; r++, to += k->pitch) {
            Int row = source(y + r * sy, s->in[HEIGHT], s->mode), none = z < 0 || row < 0;
            const T *from = plane + row * s->x_step[HEIGHT];
            for (Int q = 0; q < k->pitch; q++) {
                if (!none && q == left && (q = right) == k->pitch)
                    break;
                Int at = source(x + q * sx, s->in[WIDTH], s->mode);
                for (Int c = 0; c < channels; c++)
                    to[c * k->plane + q] = none || at < 0 ? 0 : from[at * step + c];
            }
            from += (x + left * sx) * step;
            if (none || left >= right)
                continue;
            if (channels == 1 && sx * step == 1)
                memcpy(to + left, from, (right - left) * sizeof(T));
            else
                NAME(transpose)(to + left, k->plane, from, sx * step, right - left, channels);
        }
    }
}

/* Whether a unit's planes are x itself: one channel whose lines lie together, and no padding. */
static int NAME(in_place)(const Sizes *s, const Unit *u) {
    return s->channels == 1 && s->x_step[WIDTH] == 1 && s->stride[WIDTH] == 1 && s->stride[HEIGHT] == 1 &&
           u->images == 1 && u->columns >= LANES && s->kernel[DEPTH] == 1 && unit_inside(s, u);
}

/* Each tap's place in the planes, and its weights (filter, tap). */
static void NAME(find_taps)(const Task *t, const Unit *u, NAME(Planes) * k) {
    const Sizes *s = t->s;
    Int sy = s->stride[HEIGHT], sx = s->stride[WIDTH], n = t->taps * t->depth;
    Int filters = (u->last - u->block) * t->filters;
    for (Int tap = 0, l = 0; tap < t->taps; tap++) {
        Int j = tap % s->kernel[WIDTH] * s->dilation[WIDTH];
        Int i = tap / s->kernel[WIDTH] % s->kernel[HEIGHT] * s->dilation[HEIGHT];
        Int phase = (tap / s->kernel[WIDTH] / s->kernel[HEIGHT] * sy + i % sy) * sx + j % sx;
        for (Int c = 0; c < t->depth; c++, l++) {
            k->taps[l] = c * k->plane + phase * u->images * k->image + i / sy * k->pitch + j / sx;
            for (Int f = 0; f < filters; f++)
                k->weights[f * n + l] =
                    ((const T *)t->w)[(u->block + f / t->filters) * s->w_group +
                                      f % t->filters * s->w_filter + w_offset(s, tap) + c * s->w_channel];
        }
    }
    for (Int f = 0; f < filters; f++)
        k->bias[f] = t->bias ? ((const T *)t->bias)[u->block * t->filters + f] : 0;
}

static void NAME(planes)(const Job *job, Int number, void *scratch) {
    const Task *t = (const Task *)job;
    const Sizes *s = t->s;
    Unit u = unit_of(t, number);
    NAME(Planes) k;
    NAME(carve_planes)(t, (uintptr_t)scratch, &k);
    Int n = t->taps * t->depth, filters = (u.last - u.block) * t->filters, y_step = s->y_step[WIDTH];
    int in_place = NAME(in_place)(s, &u);
    if (in_place) {
        k.planes = (T *)t->x + u.image * s->x_image + first(s, DEPTH, u.plane) * s->x_step[DEPTH] +
                   first(s, HEIGHT, u.row) * s->x_step[HEIGHT] + first(s, WIDTH, u.column);
        k.pitch = s->x_step[HEIGHT];
    } else {
        NAME(steps)(s, u.images, u.rows, u.columns, &k);
        NAME(spread)(t, &u, &k);
    }
    NAME(find_taps)(t, &u, &k);
    /* Long lines one by one; short ones all as one, with what stands between them. */
    int one_by_one = u.columns >= 8 * LANES || in_place;
    int direct = one_by_one && filters == 1 && y_step == 1 && !t->integers;
    Int count = u.images * u.rows, length = u.columns;
    if (!one_by_one)
        length = (u.images - 1) * k.image + (u.rows - 1) * k.pitch + u.columns;
    Int padded = over(length, LANES) * LANES + 8 * LANES;
    for (Int r = 0; r < count; r++) {
        void *y = y_at(t, unit_line(&u, r), u.column, u.block * t->filters);
        Int line = r / u.rows * k.image + r % u.rows * k.pitch;
        for (Int f = 0, some; (one_by_one || r == 0) && f < filters; f += some) {
            const T *group = k.planes + line + f / t->filters * t->depth * k.plane;
            some = even(t->filters - f % t->filters, 4);
            NAME(line)(some, group, k.taps, n, k.weights + f * n, k.bias + f,
                       direct ? y : k.sums + f * padded, padded, length);
        }
        if (!direct)
            NAME(join)(t->integers, filters, y, y_step, k.sums + (one_by_one ? 0 : line), padded, u.columns);
    }
}

/* ---- depthwise: lanes are channels ---- */

typedef struct {
    char *packed;
    const char **from, **at;
    Int *steps;
    T *zeros, *weights, *bias, *several;
} NAME(Depthwise);

static Int NAME(carve_depthwise)(const Task *t, uintptr_t room, void *found) {
    const Sizes *s = t->s;
    NAME(Depthwise) *k = found;
    uintptr_t start = room;
    k->packed = take(&room, 1);
    k->from = take(&room, t->taps * (Int)sizeof(T *));
    k->at = take(&room, t->taps * (Int)sizeof(T *));
    k->steps = take(&room, t->taps * (Int)sizeof(Int));
    k->zeros = take(&room, seen(s, WIDTH, FEW) * s->channels * (Int)sizeof(T));
    k->weights = take(&room, t->taps * s->filters * (Int)sizeof(T));
    k->bias = take(&room, s->filters * (Int)sizeof(T));
    k->several = take(&room, FEW * s->filters * (Int)sizeof(T));
    return (Int)(room - start);
}

/* FEW neighbours, whose kernel rows are inside. Where width, stride and dilation are constants, the loads
   that they share are done once. */
INLINE void NAME(neighbours)(const Int width, const Int stride, const Int dilation, const Sizes *s,
                             const char *const *rows, const T *w, const T *bias, T *y, Int y_step) {
    const Int c = s->channels, height = rows_of(s);
    for (Int k = 0; k < c; k += LANES) {
        k = least(k, c - LANES);
        const T *weight = w + k;
        V sum[FEW];
        UNROLL
        for (int q = 0; q < FEW; q++)
            sum[q] = LOAD(bias + k);
        for (Int r = 0; r < height; r++) {
            const T *at = (const T *)rows[r] + k;
            UNROLL
            for (Int j = 0; j < width; j++, weight += c) {
                V value = LOAD(weight);
                UNROLL
                for (int q = 0; q < FEW; q++)
                    sum[q] += LOAD(at + (j * dilation + q * stride) * c) * value;
            }
        }
        UNROLL
        for (int q = 0; q < FEW; q++)
            STORE(y + q * y_step + k) = sum[q];
    }
}
__attribute__((noinline)) static void NAME(few)(const Sizes *s, const char *const *rows, const T *w,
                                                const T *bias, T *y, Int y_step) {
    Int width = s->kernel[WIDTH], stride = s->stride[WIDTH], dilation = s->dilation[WIDTH];
    if (width == 3 && stride == 1 && dilation == 1)
        NAME(neighbours)(3, 1, 1, s, rows, w, bias, y, y_step);
    else if (width == 3 && stride == 2 && dilation == 1)
        NAME(neighbours)(3, 2, 1, s, rows, w, bias, y, y_step);
    else if (width == 5 && stride == 1 && dilation == 1)
        NAME(neighbours)(5, 1, 1, s, rows, w, bias, y, y_step);
    else
        NAME(neighbours)(width, stride, dilation, s, rows, w, bias, y, y_step);
}

/* One output, each tap where its pointer says. */
static void NAME(one)(Int c, const char *const *at, Int taps, const T *w, const T *bias, T *y) {
    for (Int k = 0; k < c; k += LANES) {
        k = least(k, c - LANES);
        V sum = LOAD(bias + k);
        for (Int l = 0; l < taps; l++)
            sum += LOAD((const T *)at[l] + k) * LOAD(w + l * c + k);
        STORE(y + k) = sum;
    }
}

/* Weights (filter of a channel, tap, channel), and bias. */
static void NAME(pack_channels)(const Task *t, const NAME(Depthwise) * k) {
    const Sizes *s = t->s;
    Int c = s->channels;
    for (Int m = 0; m < t->filters; m++)
        for (Int l = 0; l < c; l++) {
            k->bias[m * c + l] = t->bias ? ((const T *)t->bias)[l * t->filters + m] : 0;
            for (Int tap = 0; tap < t->taps; tap++)
                k->weights[(m * t->taps + tap) * c + l] =
                    ((const T *)t->w)[l * s->w_group + m * s->w_filter + w_offset(s, tap)];
        }
}

static void NAME(depthwise)(const Job *job, Int number, void *scratch) {
    const Task *t = (const Task *)job;
    const Sizes *s = t->s;
    Unit u = unit_of(t, number);
    NAME(Depthwise) k;
    NAME(carve_depthwise)(t, (uintptr_t)scratch, &k);
    Int c = s->channels, several = t->filters, direct = several == 1 && !t->integers;
    if (!*k.packed) { /* once for each thread */
        memset(k.zeros, 0, seen(s, WIDTH, FEW) * c * sizeof(T));
        NAME(pack_channels)(t, &k);
        *k.packed = 1;
    }
    for (Int m = 0; m < u.lines; m++) {
        Line line = unit_line(&u, m);
        for (Int q = u.column, end = q + u.columns, n; q < end; q += n) {
            Int all = least(end - q, inside(s, q)), by_rows = all >= FEW && s->x_step[WIDTH] == c;
            Int some = by_rows ? FEW : 1;
            n = most(1, all);
            see(s, t->x, (char *)k.zeros, sizeof(T), line, q, by_rows, k.from, k.steps);
            for (Int p = 0; p < n; p += some) {
                p = least(p, n - some); /* at the end some are computed twice */
                char *y = y_at(t, line, q + p, 0);
                T *to = direct ? (T *)y : k.several;
                for (Int r = 0; r < (by_rows ? rows_of(s) : t->taps); r++)
                    k.at[r] = k.from[r] + p * k.steps[r];
                for (Int f = 0; f < several; f++, to += FEW * c) {
                    const T *w = k.weights + f * t->taps * c, *bias = k.bias + f * c;
                    if (by_rows)
                        NAME(few)(s, k.at, w, bias, to, direct ? s->y_step[WIDTH] : c);
                    else
                        NAME(one)(c, k.at, t->taps, w, bias, to);
                }
                for (Int i = 0; !direct && i < some; i++)
                    NAME(join)(t->integers, several, y + i * s->y_step[WIDTH] * t->y_size, several,
                               k.several + i * c, FEW * c, c);
            }
        }
    }
}

#endif /* PAIRS */
#undef LANES
#undef V
#undef Four
#undef Eight
#endif
#endif
