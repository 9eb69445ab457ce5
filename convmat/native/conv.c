/* The index mapping, compiled: convolution, unrolling and folding of arrays whose channels are neighbours.

       x (N, D, H, W, C) * w (K, kd, kh, kw, C/groups) -> y (N, D', H', W', K);  fewer axes are leading axes
   of 1.

   Where im2col copies what an output sees into a row of X_col, a convolution here reads it where it lies: the
   mapping (Eq. 8) becomes a table of pointers into x, and a tap in the padding points to zeros. Three kernels
   differ in what fills a vector register:

     wide       filters.   A tile of outputs x filters stays in registers while the taps go by.
     planes     outputs.   Few filters: channels, split by stride, become planes, in which each tap of all
   outputs is one vector, shifted by a constant. depthwise  channels.  Each channel has filters of its own.

   Outputs are cut into boxes, which threads take from a counter. An output is always summed in the order of
   its taps, whatever the boxes and threads are, so its bits are always the same.

   Everything that depends on the element type stands below `#else`: the file includes itself for float and
   double. It is compiled once for each level of vector instructions; nothing in it is tuned to one processor.
 */

#if !defined T && !defined KIND

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int64_t Int;
#define NOWHERE INT64_MIN /* an offset: of zeros, in the padding */
enum { DEPTH, HEIGHT, WIDTH, AXES };
enum { ZEROS, REFLECT, REPLICATE, CIRCULAR }; /* what stands in the padding */
enum { WIDE, PLANES, DEPTHWISE };             /* kernels */
enum { UNIT = 1 << 17 };                      /* bytes, or numbers, that a thread moves at a time */
enum { DONE, NO_MEMORY, UNKNOWN };            /* what the exported functions return */

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

static Int least(Int a, Int b) { return a < b ? a : b; }
static Int most(Int a, Int b) { return a > b ? a : b; }
static Int over(Int a, Int b) { return (a + b - 1) / b; }
/* The size of parts as alike as may be, none larger than `size`. */
static Int even(Int total, Int size) { return over(total, most(1, over(total, size))); }
static Int extent(const Sizes *s, int axis) { return (s->kernel[axis] - 1) * s->dilation[axis] + 1; }
static Int taps_of(const Sizes *s) { return s->kernel[DEPTH] * s->kernel[HEIGHT] * s->kernel[WIDTH]; }
/* Input lines that `outputs` neighbours see, and the first of them. */
static Int seen(const Sizes *s, int axis, Int outputs) {
    return (outputs - 1) * s->stride[axis] + extent(s, axis);
}
static Int first(const Sizes *s, int axis, Int output) { return output * s->stride[axis] - s->before[axis]; }

/* Outputs [inside(), outside()) of a line see no padding at its ends. */
static Int inside(const Sizes *s) {
    return s->before[WIDTH] <= 0 ? 0 : over(s->before[WIDTH], s->stride[WIDTH]);
}
static Int outside(const Sizes *s) {
    Int room = s->in[WIDTH] + s->before[WIDTH] - extent(s, WIDTH);
    return room < 0 ? 0 : least(s->out[WIDTH], room / s->stride[WIDTH] + 1);
}

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

/* ---- Convolution: what its kernels share ---- */

typedef struct {
    Job job; /* first: the kernels get a Job */
    const Sizes *s;
    const Box *box;
    const void *x, *w, *bias;
    void *y;
    Int depth, filters, taps; /* of a group; taps: of a kernel */
    Int boxes[4], parts;      /* along images, depth, rows, columns; parts of all blocks */
    Int blocks, per_group;    /* of filters or groups: in all, and of a group */
} Task;

/* One unit: outputs of a box, filters of a part. */
typedef struct {
    Int image, images, plane, planes, row, rows, column, columns, block, last;
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
    return u;
}

/* A walk over the lines of outputs of a unit. */
typedef struct {
    Int image, plane, row;
} Line;
static Line line_of(const Unit *u, Int number) {
    return (Line){u->image + number / (u->planes * u->rows), u->plane + number / u->rows % u->planes,
                  u->row + number % u->rows};
}
static Int y_offset(const Sizes *s, Line l, Int column) {
    return l.image * s->y_image + l.plane * s->y_step[DEPTH] + l.row * s->y_step[HEIGHT] +
           column * s->y_step[WIDTH];
}
/* Where the rows of x begin that the kernel's (kd, kh) rows see; NOWHERE for zeros. */
static void rows_of(const Sizes *s, Line l, Int *rows) {
    for (Int d = 0; d < s->kernel[DEPTH]; d++) {
        Int z = source(first(s, DEPTH, l.plane) + d * s->dilation[DEPTH], s->in[DEPTH], s->mode);
        for (Int i = 0; i < s->kernel[HEIGHT]; i++) {
            Int y = source(first(s, HEIGHT, l.row) + i * s->dilation[HEIGHT], s->in[HEIGHT], s->mode);
            *rows++ = z < 0 || y < 0 ? NOWHERE
                                     : l.image * s->x_image + z * s->x_step[DEPTH] + y * s->x_step[HEIGHT];
        }
    }
}
/* Where tap `t` of (kd, kh, kw) has its weights. */
static Int w_offset(const Sizes *s, Int t) {
    Int j = t % s->kernel[WIDTH], i = t / s->kernel[WIDTH] % s->kernel[HEIGHT],
        h = t / s->kernel[WIDTH] / s->kernel[HEIGHT];
    return h * s->w_tap[DEPTH] + i * s->w_tap[HEIGHT] + j * s->w_tap[WIDTH];
}

#define NAME_(a, b) a##_##b
#define NAME__(a, b) NAME_(a, b)
#define NAME(a) NAME__(a, T)
#define INLINE __attribute__((always_inline)) static inline
#define UNROLL _Pragma("GCC unroll 16")
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (NAME(Index)){__VA_ARGS__})
#endif

#define T float
#define INDEX int32_t
#include "conv.c"
#define T double
#define INDEX int64_t
#include "conv.c"

/* ---- unroll: bytes are moved, in rows of X_col ---- */

typedef struct {
    Job job;
    const Sizes *s;
    const char *x, *x_end; /* x_end: behind the last byte of x */
    char *x_col;
    Int size, start, stop, rows; /* bytes of an element; rows of X_col, and of a unit */
    Int run, pieces;             /* bytes that lie together in x and X_col, and how many such a row has */
    int chw;
} Unroll;

/* Copies `run` bytes for each of `pieces` and each of n rows, and more, which those that follow overwrite. */
#define COPY_PIECES(CHUNK)                                                                                   \
    static void copy_pieces_##CHUNK(char *to, const char *const *from, const Int *step, Int pieces, Int run, \
                                    Int n) {                                                                 \
        typedef char Chunk __attribute__((vector_size(CHUNK), aligned(1), may_alias));                       \
        for (Int q = 0; q < n; q++)                                                                          \
            for (Int m = 0; m < pieces; m++, to += run) {                                                    \
                const char *at = from[m] + q * step[m];                                                      \
                for (Int b = 0; b < run; b += CHUNK)                                                         \
                    *(Chunk *)(to + b) = *(const Chunk *)(at + b);                                           \
            }                                                                                                \
    }
COPY_PIECES(16)
COPY_PIECES(32)

    static void copy_exactly(char *to, const char *const *from, const Int *step, Int pieces, Int run, Int n) {
    for (Int q = 0; q < n; q++)
        for (Int m = 0; m < pieces; m++, to += run)
            memcpy(to, from[m] + q * step[m], (size_t)run);
}

/* Elements (tap, channel) become (channel, tap). */
#define PICK(SIZE, TYPE)                                                                                \
    static void pick_##SIZE(char *to, const char *const *from, const Int *step, Int taps, Int channels, \
                            Int n) {                                                                    \
        TYPE *at = (TYPE *)to;                                                                          \
        for (Int q = 0; q < n; q++)                                                                     \
            for (Int c = 0; c < channels; c++)                                                          \
                for (Int l = 0; l < taps; l++)                                                          \
                    *at++ = ((const TYPE *)(from[l] + q * step[l]))[c];                                 \
    }
typedef uint16_t Two __attribute__((aligned(1), may_alias));
typedef uint32_t Four_bytes __attribute__((aligned(1), may_alias));
typedef uint64_t Eight __attribute__((aligned(1), may_alias));
typedef struct {
    uint64_t halves[2];
} __attribute__((aligned(1), may_alias)) Sixteen_bytes;
PICK(1, uint8_t)
PICK(2, Two)
PICK(4, Four_bytes)
PICK(8, Eight)
PICK(16, Sixteen_bytes)

    /* Rows of X_col for outputs [q, q + n) of a line. Pieces in x are pointers, zeros for the padding. */
    static void unroll_some(const Unroll *t, Line line, Int q, Int n, char *to, const char *end,
                            void *scratch) {
    const Sizes *s = t->s;
    Int kw = s->kernel[WIDTH], stride = s->stride[WIDTH], size = t->size, step = s->x_step[WIDTH] * size,
        taps = taps_of(s);
    uintptr_t room = (uintptr_t)scratch;
    char *zeros = take(&room, s->channels * size * kw + 32);
    Int *rows = take(&room, taps * (Int)sizeof(Int)), *steps = take(&room, taps * (Int)sizeof(Int));
    const char **from = take(&room, taps * (Int)sizeof(char *)), *highest = t->x;
    rows_of(s, line, rows);
    for (Int some; n > 0; n -= some, q += some) {
        int whole = q >= inside(s) && q < outside(s);
        some = whole ? least(n, outside(s) - q) : 1;
        Int m = 0, merged = whole && t->pieces < taps, runs = merged ? 1 : kw,
            run = merged ? t->run : s->channels * size;
        for (Int r = 0; r < s->kernel[DEPTH] * s->kernel[HEIGHT]; r++)
            for (Int j = 0; j < runs; j++, m++) {
                Int column = first(s, WIDTH, q) + j * s->dilation[WIDTH];
                if (!whole)
                    column = source(column, s->in[WIDTH], s->mode);
                int none = rows[r] == NOWHERE || column < 0;
                from[m] = none ? zeros : t->x + rows[r] * size + column * step;
                steps[m] = none ? 0 : stride * step;
                const char *last = none ? t->x : from[m] + (some - 1) * steps[m] + run + 32;
                highest = last > highest ? last : highest;
            }
        Int row = taps * s->channels * size;
        if (t->chw) {
            void (*pick)(char *, const char *const *, const Int *, Int, Int, Int) = size == 1   ? pick_1
                                                                                    : size == 2 ? pick_2
                                                                                    : size == 4 ? pick_4
                                                                                    : size == 8 ? pick_8
                                                                                                : pick_16;
            pick(to, from, steps, taps, s->channels, some);
        } else {
            /* All but the last rows may write beyond themselves, unless they would read beyond x. */
            Int loose = run >= 512 || highest > t->x_end || step < 0
                            ? 0
                            : least(some, most(0, (end - to - 32) / row));
            (run <= 16 ? copy_pieces_16 : copy_pieces_32)(to, from, steps, m, run, loose);
            for (Int i = 0; i < m; i++)
                from[i] += loose * steps[i];
            copy_exactly(to + loose * row, from, steps, m, run, some - loose);
        }
        to += some * row;
    }
}

static void unroll_unit(const Job *job, Int unit, void *scratch) {
    const Unroll *t = (const Unroll *)job;
    const Sizes *s = t->s;
    Int row = t->start + unit * t->rows, stop = least(t->stop, row + t->rows),
        bytes = taps_of(s) * s->channels * t->size;
    const char *end = t->x_col + (stop - t->start) * bytes;
    for (Int some; row < stop; row += some) {
        Int q = row % s->out[WIDTH], line = row / s->out[WIDTH];
        Line l = {line / s->out[HEIGHT] / s->out[DEPTH], line / s->out[HEIGHT] % s->out[DEPTH],
                  line % s->out[HEIGHT]};
        some = least(stop - row, s->out[WIDTH] - q);
        unroll_some(t, l, q, some, t->x_col + (row - t->start) * bytes, end, scratch);
    }
}

/* Rows [start, stop) of X_col, of elements of 1, 2, 4, 8 or 16 bytes. */
int convmat_unroll(const Sizes *s, const void *x, void *x_col, Int size, int chw, Int start, Int stop,
                   int threads) {
    Int taps = taps_of(s), merged = s->dilation[WIDTH] == 1 && s->x_step[WIDTH] == s->channels;
    if (size != 1 && size != 2 && size != 4 && size != 8 && size != 16)
        return UNKNOWN;
    Unroll t = {.s = s,
                .x = x,
                .x_end = x,
                .x_col = x_col,
                .size = size,
                .start = start,
                .stop = stop,
                .chw = chw && s->channels > 1};
    t.run = s->channels * size * (merged ? s->kernel[WIDTH] : 1);
    t.pieces = merged && !t.chw ? taps / s->kernel[WIDTH] : taps;
    Int last = most(0, (s->batch - 1) * s->x_image) + s->channels;
    for (int a = 0; a < AXES; a++)
        last += most(0, (s->in[a] - 1) * s->x_step[a]);
    t.x_end += last * size;
    t.rows = most(1, UNIT / (taps * s->channels * size));
    t.job.run = unroll_unit, t.job.units = over(stop - start, t.rows);
    t.job.cleared = s->channels * size * s->kernel[WIDTH] + 32;
    t.job.scratch = t.job.cleared + 3 * 8 * taps + 4 * 64;
    return share_out(&t.job, threads);
}

/* ---- fold: a pixel gathers what stands for it in X_col ---- */

typedef struct {
    Job job;
    const Sizes *s;
    const char *x_col;
    char *x;
    void (*gather)(const void *, Int, Int, Int, Int, Int, void *, Int, int);
    Int size, x_size;              /* bytes of an element of x_col, of x */
    Int first, start, stop, lines; /* first row of x_col; lines of x, and of a unit */
    Int row, c_step, tap_step;     /* elements of X_col to the next row, channel, tap */
    int mean;
} Fold;

#define KINDS_(a, b) a##_##b
#define KINDS__(a, b) KINDS_(a, b)
#define KINDS(a) KINDS__(a, KIND)
#define SUM(a, b) ((a) + (b))
#define LAST(a, b) (b) /* where elements only move, there is one */
typedef struct {
    uint64_t halves[2];
} Sixteen;
#define ADD SUM
#define MEAN
#define KIND f4
#define FROM float
#define TO float
#include "conv.c"
#define KIND f8
#define FROM double
#define TO double
#include "conv.c"
#undef MEAN
#define KIND i1
#define FROM int8_t
#define TO uint64_t /* of integers: sums beyond 2^63 wrap */
#include "conv.c"
#define KIND i2
#define FROM int16_t
#define TO uint64_t
#include "conv.c"
#define KIND i4
#define FROM int32_t
#define TO uint64_t
#include "conv.c"
#define KIND i8
#define FROM uint64_t
#define TO uint64_t
#include "conv.c"
#define KIND u1
#define FROM uint8_t
#define TO uint64_t
#include "conv.c"
#define KIND u2
#define FROM uint16_t
#define TO uint64_t
#include "conv.c"
#define KIND u4
#define FROM uint32_t
#define TO uint64_t
#include "conv.c"
#undef ADD
#define ADD LAST
#define KIND move1
#define FROM uint8_t
#define TO uint8_t
#include "conv.c"
#define KIND move2
#define FROM uint16_t
#define TO uint16_t
#include "conv.c"
#define KIND move4
#define FROM uint32_t
#define TO uint32_t
#include "conv.c"
#define KIND move16
#define FROM Sixteen
#define TO Sixteen
#include "conv.c"

/* A tap of a kernel row: pixels `phase`, `phase` + S, ... see it in outputs `output`, `output` + 1, ... */
typedef struct {
    Int phase, tap, output;
} Seen;

static void fold_line(const Fold *t, Line line, char *to, const Seen *seen, Int *rows, const char **at) {
    const Sizes *s = t->s;
    Int kw = s->kernel[WIDTH], stride = s->stride[WIDTH], count = 0;
    Int *taps = rows + s->kernel[DEPTH] *
                           s->kernel[HEIGHT]; /* the first taps of those rows of X_col that see this line */
    for (Int d = 0; d < s->kernel[DEPTH]; d++)
        for (Int i = 0; i < s->kernel[HEIGHT]; i++) {
            Int z = line.plane + s->before[DEPTH] - d * s->dilation[DEPTH],
                y = line.row + s->before[HEIGHT] - i * s->dilation[HEIGHT];
            if (z < 0 || y < 0 || z % s->stride[DEPTH] || y % s->stride[HEIGHT])
                continue;
            z /= s->stride[DEPTH], y /= s->stride[HEIGHT];
            if (z >= s->out[DEPTH] || y >= s->out[HEIGHT])
                continue;
            taps[count] = (d * s->kernel[HEIGHT] + i) * kw;
            rows[count++] =
                ((line.image * s->out[DEPTH] + z) * s->out[HEIGHT] + y) * s->out[WIDTH] - t->first;
        }
    if (count == 1 && s->dilation[WIDTH] == 1 && stride >= kw && t->c_step == 1 && t->size == t->x_size) {
        /* One row of outputs sees this line, and no two of them meet: each moves all its taps at once. */
        Int pixel = s->channels * t->size;
        memset(to, 0, s->in[WIDTH] * pixel);
        for (Int q = 0; q < s->out[WIDTH]; q++) {
            Int at = first(s, WIDTH, q), low = most(0, -at), high = least(kw, s->in[WIDTH] - at);
            if (low < high)
                memcpy(to + (at + low) * pixel,
                       t->x_col + ((rows[0] + q) * t->row + (taps[0] + low) * s->channels) * t->size,
                       (high - low) * pixel);
        }
        return;
    }
    for (Int phase = 0, next; phase < least(stride, s->in[WIDTH]); phase++, seen += next) {
        Int pixels = over(s->in[WIDTH] - phase, stride), some;
        for (next = 0; seen[next].phase == phase; next++)
            ;
        for (Int p = 0; p < pixels; p += some) {
            Int terms = 0;
            some = pixels - p; /* at most: as many as see the taps that the first of them sees */
            for (Int r = 0; r < count; r++)
                for (const Seen *tap = seen; tap < seen + next; tap++) {
                    Int q = p + tap->output;
                    if (q < 0)
                        some = least(some, -q);
                    else if (q < s->out[WIDTH]) {
                        some = least(some, s->out[WIDTH] - q);
                        at[terms++] = t->x_col +
                                      ((rows[r] + q) * t->row + (taps[r] + tap->tap) * t->tap_step) * t->size;
                    }
                }
            t->gather(at, terms, some, t->row, s->channels, t->c_step,
                      to + (phase + p * stride) * s->channels * t->x_size, stride * s->channels, t->mean);
        }
    }
}

static void fold_unit(const Job *job, Int unit, void *scratch) {
    const Fold *t = (const Fold *)job;
    const Sizes *s = t->s;
    Int taps = taps_of(s), from = t->start + unit * t->lines, stride = s->stride[WIDTH];
    uintptr_t room = (uintptr_t)scratch;
    Int *rows = take(&room, 2 * taps * (Int)sizeof(Int));
    const char **at = take(&room, taps * (Int)sizeof(char *));
    Seen *seen = take(&room, (s->kernel[WIDTH] + 1) * (Int)sizeof(Seen)), *next = seen;
    for (Int phase = 0; phase < least(stride, s->in[WIDTH]); phase++)
        for (Int j = 0; j < s->kernel[WIDTH]; j++) {
            Int q = phase + s->before[WIDTH] - j * s->dilation[WIDTH];
            if (q % stride == 0)
                *next++ = (Seen){phase, j, q / stride};
        }
    next->phase = -1;
    for (Int line = from; line < least(t->stop, from + t->lines); line++) {
        Line l = {line / s->in[HEIGHT] / s->in[DEPTH], line / s->in[HEIGHT] % s->in[DEPTH],
                  line % s->in[HEIGHT]};
        fold_line(t, l, t->x + (line - t->start) * s->in[WIDTH] * s->channels * t->x_size, seen, rows, at);
    }
}

/* Lines [start, stop) of x from rows of X_col, `first` and later. kind: 'f' floats, 'i' and 'u' integers,
   summed to int64, 'm' elements that only move. */
int convmat_fold(const Sizes *s, const void *x_col, Int first, void *x, int kind, int size, int mean, int chw,
                 Int start, Int stop, int threads) {
    static const struct {
        char kind, size;
        void (*gather)(const void *, Int, Int, Int, Int, Int, void *, Int, int);
    } kinds[] = {{'f', 4, gather_f4},    {'f', 8, gather_f8}, {'i', 1, gather_i1},     {'i', 2, gather_i2},
                 {'i', 4, gather_i4},    {'i', 8, gather_i8}, {'u', 1, gather_u1},     {'u', 2, gather_u2},
                 {'u', 4, gather_u4},    {'u', 8, gather_i8}, {'m', 1, gather_move1},  {'m', 2, gather_move2},
                 {'m', 4, gather_move4}, {'m', 8, gather_i8}, {'m', 16, gather_move16}};
    Int taps = taps_of(s), c = s->channels;
    Fold t = {.s = s,
              .x_col = x_col,
              .x = x,
              .size = size,
              .first = first,
              .start = start,
              .stop = stop,
              .mean = mean};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (kinds[i].kind == kind && kinds[i].size == size)
            t.gather = kinds[i].gather;
    if (!t.gather)
        return UNKNOWN;
    t.x_size = kind == 'i' || kind == 'u' ? 8 : size;
    t.row = taps * c, t.c_step = chw && c > 1 ? taps : 1, t.tap_step = chw ? 1 : c;
    t.lines = most(1, UNIT / most(1, s->in[WIDTH] * c * t.x_size));
    t.job.run = fold_unit, t.job.units = over(stop - start, t.lines);
    t.job.scratch = 6 * 8 * taps + 4 * 64;
    return share_out(&t.job, threads);
}

/* ---- convert: numbers to those that are summed, and sums to integers ---- */

typedef struct {
    Job job;
    const void *from;
    void *to;
    Int n;
} Convert;

/* `through`: an integer that holds all that is converted, and that vectors convert to. */
#define CONVERT(name, FROM, THROUGH, TO)                                       \
    static void convert_##name(const Job *job, Int unit, void *scratch) {      \
        const Convert *t = (const Convert *)job;                               \
        const FROM *from = t->from;                                            \
        TO *to = t->to;                                                        \
        for (Int i = unit * UNIT, last = least(t->n, i + UNIT); i < last; i++) \
            to[i] = (TO)(THROUGH)from[i];                                      \
        (void)scratch;                                                         \
    }
CONVERT(i1_f4, int8_t, int32_t, float)
CONVERT(i1_f8, int8_t, int32_t, double)
CONVERT(u1_f4, uint8_t, int32_t, float)
CONVERT(u1_f8, uint8_t, int32_t, double)
CONVERT(i2_f4, int16_t, int32_t, float)
CONVERT(i2_f8, int16_t, int32_t, double)
CONVERT(u2_f4, uint16_t, int32_t, float)
CONVERT(u2_f8, uint16_t, int32_t, double)
CONVERT(i4_f4, int32_t, int32_t, float)
CONVERT(i4_f8, int32_t, int32_t, double)
CONVERT(f4_i8, float, int32_t, int64_t)
CONVERT(f8_i8, double, int64_t, int64_t)

    /* n numbers from one type to another, named as NumPy does: 'i', 1 to 'f', 4. Floats to int64 are whole
       numbers below 2^24 (float), 2^53 (double). */
    int convmat_convert(const void *from, int kind, int size, void *to, int to_size, Int n, int threads) {
    static const struct {
        char kind, size, to_size;
        void (*run)(const Job *, Int, void *);
    } all[] = {{'i', 1, 4, convert_i1_f4}, {'i', 1, 8, convert_i1_f8}, {'u', 1, 4, convert_u1_f4},
               {'u', 1, 8, convert_u1_f8}, {'i', 2, 4, convert_i2_f4}, {'i', 2, 8, convert_i2_f8},
               {'u', 2, 4, convert_u2_f4}, {'u', 2, 8, convert_u2_f8}, {'i', 4, 4, convert_i4_f4},
               {'i', 4, 8, convert_i4_f8}, {'f', 4, 8, convert_f4_i8}, {'f', 8, 8, convert_f8_i8}};
    Convert t = {.from = from, .to = to, .n = n};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].kind == kind && all[i].size == size && all[i].to_size == to_size)
            t.job.run = all[i].run;
    if (!t.job.run)
        return UNKNOWN;
    t.job.units = over(n, UNIT);
    t.job.scratch = 64;
    return share_out(&t.job, threads);
}

/* ---- Convolution, its plan, and what the library can do ---- */

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

Int convmat_lanes(Int itemsize) { return BYTES / itemsize; }

/* A layer whose outputs each see one pixel, in the order of x: all of them are one line. */
static Sizes joined(const Sizes *given) {
    Sizes s = *given;
    Int x = s.x_step[WIDTH], y = s.y_step[WIDTH], pixels = 1, plain = taps_of(&s) == 1;
    for (int a = WIDTH; a >= DEPTH; pixels *= s.in[a--])
        plain &= s.stride[a] == 1 && s.before[a] == 0 && s.in[a] == s.out[a] &&
                 (s.in[a] == 1 || (s.x_step[a] == x * pixels && s.y_step[a] == y * pixels));
    if (!plain || s.batch == 0 || (s.batch > 1 && (s.x_image != x * pixels || s.y_image != y * pixels)))
        return s;
    s.in[DEPTH] = s.out[DEPTH] = s.in[HEIGHT] = s.out[HEIGHT] = 1;
    s.in[WIDTH] = s.out[WIDTH] = s.batch * pixels;
    s.batch = 1;
    return s;
}

static Task task_of(const Sizes *s, const Box *box, int kernel, int itemsize) {
    Task t = {.s = s,
              .box = box,
              .depth = s->channels / s->groups,
              .filters = s->filters / s->groups,
              .taps = taps_of(s)};
    t.per_group = kernel == WIDE ? blocks_of(over(t.filters, BYTES / itemsize)) : 1;
    t.blocks = kernel == DEPTHWISE ? 1 : s->groups * t.per_group;
    return t;
}

static void cut(Task *t) {
    const Box *b = t->box;
    const Int *out = t->s->out;
    t->boxes[0] = over(t->s->batch, b->images), t->boxes[1] = over(out[DEPTH], b->planes);
    t->boxes[2] = over(out[HEIGHT], b->rows), t->boxes[3] = over(out[WIDTH], b->columns);
    t->parts = over(t->blocks, b->blocks);
    t->job.units = t->boxes[0] * t->boxes[1] * t->boxes[2] * t->boxes[3] * t->parts;
}

typedef Int Carve(const Task *, uintptr_t, void *);
typedef void Run(const Job *, Int, void *);
static Run *const runs[2][3] = {{wide_float, planes_float, depthwise_float},
                                {wide_double, planes_double, depthwise_double}};

/* How `convmat_convolve` is to cut this layer's outputs: boxes fit for the caches, and enough to share out.
 */
void convmat_box(const Sizes *sizes, int kernel, int itemsize, int threads, Box *box) {
    Sizes joint = joined(sizes), *s = &joint;
    kernel = taps_of(s) ? kernel : WIDE; /* pixels that nothing reaches get the bias */
    Task t = task_of(s, box, kernel, itemsize);
    const Int *out = s->out;
    Int all = s->batch * out[DEPTH] * out[HEIGHT] * out[WIDTH], columns = out[WIDTH], pixels;
    box->blocks = t.blocks;
    if (kernel == WIDE) {
        /* Large enough to pay for the weights that are packed for it; its input stays in the second cache,
           and so does its table of pointers. */
        pixels = most(96, least(448, L2 / 2 / itemsize / s->channels));
        pixels = least(pixels, most(96, all * t.blocks / (8 * threads)));
        pixels = most(16, least(pixels, L2 / 2 / 8 / most(1, t.taps)));
    } else if (kernel == PLANES) {
        Int line = least(columns, 1024), wide = seen(s, WIDTH, line) * itemsize * t.depth * s->kernel[DEPTH];
        box->blocks = most(1, least(s->groups, L2 / 4 / most(1, seen(s, HEIGHT, 4) * wide)));
        Int lines = (L2 / 4 / (wide * box->blocks) - extent(s, HEIGHT)) / s->stride[HEIGHT] + 1;
        pixels = line * most(lines, 4), columns = line;
    } else
        pixels = most(64, L1 / 2 / s->channels);
    if (kernel != WIDE)
        pixels = least(pixels, most(256, all / (8 * threads)));
    box->columns = even(out[WIDTH], most(1, least(columns, pixels)));
    box->rows = even(out[HEIGHT], most(1, pixels / most(1, box->columns)));
    box->planes = kernel == PLANES || box->rows < out[HEIGHT]
                      ? 1
                      : even(out[DEPTH], most(1, pixels / most(1, box->rows * box->columns)));
    box->images = box->rows == out[HEIGHT] && box->columns == out[WIDTH] && box->planes == out[DEPTH]
                      ? even(s->batch, most(1, pixels / most(1, out[DEPTH] * box->rows * box->columns)))
                      : 1;
    box->columns = most(1, box->columns), box->rows = most(1, box->rows), box->planes = most(1, box->planes);
    box->images = most(1, box->images);
    if (kernel == WIDE) { /* all filters in one unit, unless these were too few to share out */
        cut(&t);
        box->blocks =
            threads == 1 ? t.blocks : most(1, least(t.blocks, t.blocks * t.job.units / (8 * threads)));
    }
    static Carve *const carve[2][3] = {{carve_wide_float, carve_planes_float, carve_depthwise_float},
                                       {carve_wide_double, carve_planes_double, carve_depthwise_double}};
    union {
        Wide_float a;
        Wide_double b;
        Planes_float c;
        Planes_double d;
        Depthwise_float e;
        Depthwise_double f;
    } unused;
    box->scratch = carve[itemsize == 8][kernel](&t, 0, &unused);
}

int convmat_convolve(const Sizes *sizes, const Box *box, const void *x, const void *w, const void *bias,
                     void *y, int kernel, int itemsize, int threads) {
    Sizes joint = joined(sizes), *s = &joint;
    kernel = taps_of(s) ? kernel : WIDE;
    Task t = task_of(s, box, kernel, itemsize);
    t.x = x, t.w = w, t.bias = bias, t.y = y;
    cut(&t);
    if (kernel == DEPTHWISE && s->channels < BYTES / itemsize)
        return UNKNOWN;
    t.job.run = runs[itemsize == 8][kernel];
    t.job.scratch = box->scratch;
    t.job.cleared = kernel == WIDE ? t.blocks : kernel == DEPTHWISE ? 1 : 0;
    return share_out(&t.job, threads);
}

#elif defined T /* ---- With T, an element, and INDEX, an integer of its size: the kernels ---- */

#define LANES ((Int)(BYTES / sizeof(T)))
typedef T NAME(Vector) __attribute__((vector_size(BYTES), aligned(sizeof(T)), may_alias));
typedef T NAME(Four) __attribute__((vector_size(4 * sizeof(T)), aligned(sizeof(T)), may_alias));
typedef INDEX NAME(Index) __attribute__((vector_size(4 * sizeof(T))));
#define V NAME(Vector)
#define Four NAME(Four)
#define LOAD(at) (*(const V *)(at))
#define STORE(at) (*(V *)(at))
#define ALL(value) ((value) - (V){0})

/* to[i * to_step + k] = from[k * from_step + i] for `lines` k and n i: channels to planes and back, filters
   to lanes. */
static void NAME(transpose)(T *restrict to, Int to_step, const T *restrict from, Int from_step, Int lines,
                            Int n) {
    Int k = 0;
    for (; k + 4 <= lines; k += 4) {
        const T *a = from + k * from_step, *b = a + from_step, *c = b + from_step, *d = c + from_step;
        T *at = to + k;
        Int i = 0;
        for (; i + 4 <= n; i += 4, at += 4 * to_step) {
            Four A = *(const Four *)(a + i), B = *(const Four *)(b + i);
            Four C = *(const Four *)(c + i), D = *(const Four *)(d + i);
            Four low = SHUFFLE(A, B, 0, 4, 1, 5), low2 = SHUFFLE(C, D, 0, 4, 1, 5);
            Four high = SHUFFLE(A, B, 2, 6, 3, 7), high2 = SHUFFLE(C, D, 2, 6, 3, 7);
            *(Four *)at = SHUFFLE(low, low2, 0, 1, 4, 5);
            *(Four *)(at + to_step) = SHUFFLE(low, low2, 2, 3, 6, 7);
            *(Four *)(at + 2 * to_step) = SHUFFLE(high, high2, 0, 1, 4, 5);
            *(Four *)(at + 3 * to_step) = SHUFFLE(high, high2, 2, 3, 6, 7);
        }
        for (; i < n; i++, at += to_step)
            at[0] = a[i], at[1] = b[i], at[2] = c[i], at[3] = d[i];
    }
    for (; k < lines; k++)
        for (Int i = 0; i < n; i++)
            to[i * to_step + k] = from[k * from_step + i];
}

/* ---- wide: lanes are filters ---- */

#ifndef WIDEST
/* Registers of filters in a tile, and its outputs: as many sums as the registers hold beside the weights. */
#define WIDEST (REGISTERS == 32 ? 4 : 3)
#define PIXELS(wide) ((wide) == 1 ? 8 : (wide) == 2 || REGISTERS == 32 ? 6 : 4)
static Int blocks_of(Int vectors) { return REGISTERS == 32 ? over(vectors, WIDEST) : most(1, vectors / 2); }
enum { MOST_PIXELS = 8, MERGED = 32, KEPT = 5 << 19 };
#endif

/* Some runs of taps of a block of filters, for all outputs of a unit. */
typedef struct {
    const T *const *at;      /* (run, output): pointers to what an output sees */
    Int outputs, step;       /* how many, and pointers from one run to the next */
    Int runs, length, skip;  /* of each run, `length` elements from `skip` on */
    const T *weights, *bias; /* bias: where sums begin; NULL to go on with `sums` */
    T *sums, *const
                 *to; /* where they go: if to is NULL to sums, else the first `lanes` to to[output] + first */
    Int first, lanes;
} NAME(Sweep);

/* Copies n numbers, fewer than WIDEST registers hold. */
INLINE void NAME(copy_some)(T *to, const T *from, Int n) {
    for (; n >= LANES; n -= LANES, to += LANES, from += LANES)
        STORE(to) = LOAD(from);
    UNROLL for (int some = LANES / 2; some; some /= 2)
        if (n & some)
            memcpy(to, from, some * sizeof(T)), to += some, from += some;
}

INLINE void NAME(sweep)(const int pixels, const int wide, const NAME(Sweep) * t) {
    /* Copies, which no store of a sum can change. */
    const Int length = t->length, runs = t->runs, step = t->step, skip = t->skip, outputs = t->outputs,
              lanes = t->lanes;
    const Int first = t->first;
    const T *bias = t->bias;
    T *sums = t->sums, *const *to = t->to;
    for (Int p = 0; p < outputs; p += pixels, sums += pixels * wide * LANES) {
        V sum[8][4];
        UNROLL for (int i = 0; i < pixels; i++)
            UNROLL for (int v = 0; v < wide; v++)
                sum[i][v] = LOAD(bias ? bias + v * LANES : sums + (i * wide + v) * LANES);
        const T *w = t->weights, *const *from = t->at + p;
        for (Int r = 0; r < runs; r++, from += step) {
            const T *at[8];
            UNROLL for (int i = 0; i < pixels; i++)
                at[i] = from[i] + skip;
            for (Int l = 0; l < length; l++, w += wide * LANES) {
                V weight[4];
                UNROLL for (int v = 0; v < wide; v++)
                    weight[v] = LOAD(w + v * LANES);
                UNROLL for (int i = 0; i < pixels; i++) {
                    V value = ALL(at[i][l]);
                    UNROLL for (int v = 0; v < wide; v++)
                        sum[i][v] += value * weight[v];
                }
            }
        }
        if (to && lanes == wide * LANES && p + pixels <= outputs) {
            UNROLL for (int i = 0; i < pixels; i++) {
                T *at = to[p + i] + first;
                UNROLL for (int v = 0; v < wide; v++)
                    STORE(at + v * LANES) = sum[i][v];
            }
            continue;
        }
        UNROLL for (int i = 0; i < pixels; i++)
            UNROLL for (int v = 0; v < wide; v++)
                STORE(sums + (i * wide + v) * LANES) = sum[i][v];
        for (Int i = 0; to && i < least(pixels, outputs - p); i++)
            NAME(copy_some)(to[p + i] + first, sums + i * wide * LANES, lanes);
    }
}
#define SWEEP(wide)                                                                   \
    __attribute__((noinline)) static void NAME(sweep_##wide)(const NAME(Sweep) * t) { \
        NAME(sweep)(PIXELS(wide), wide, t);                                           \
    }
SWEEP(1)
SWEEP(2)
SWEEP(3)
#if defined __AVX512F__ || defined __aarch64__
SWEEP(4)
#endif

    /* n weights of each of some filters become n rows of `width`; 0 where there is no filter. */
    static void NAME(pack)(const T *w, Int filter, Int channel, Int n, Int filters, Int width, T *panel) {
    if (channel == 1)
        NAME(transpose)(panel, width, w, filter, filters, n);
    else if (filter == 1 && filters == width) /* of a transposed convolution */
        for (Int l = 0; l < n; l++)
            for (Int k = 0; k < width; k += LANES)
                STORE(panel + l * width + k) = LOAD(w + l * channel + k);
    else
        for (Int l = 0; l < n; l++)
            for (Int k = 0; k < filters; k++)
                panel[l * width + k] = w[l * channel + k * filter];
    for (Int l = 0; filters < width && l < n; l++)
        memset(panel + l * width + filters, 0, (width - filters) * sizeof(T));
}

typedef struct {
    char *packed; /* whether this thread has packed a block's weights */
    const T **at;
    T **to;
    Int *rows, *columns;
    T *zeros, *bias, *sums, *patches, *weights;
    Int step, row_runs, runs, length,
        kept; /* step: of at; runs of a kernel row, of all; kept: all weights stay packed */
} NAME(Wide);

static Int NAME(carve_wide)(const Task *t, uintptr_t room, void *found) {
    const Sizes *s = t->s;
    const Box *b = t->box;
    NAME(Wide) *k = found;
    Int pixels = b->images * b->planes * b->rows * b->columns + MOST_PIXELS, n = t->taps * t->depth,
        kw = s->kernel[WIDTH];
    /* Taps of a kernel row that are neighbours in x make one run; worth the copy of those that reach into the
       padding where channels alone would be short runs. */
    int merged =
        t->depth < MERGED && s->groups == 1 && s->dilation[WIDTH] == 1 && s->x_step[WIDTH] == t->depth;
    k->step = pixels, k->row_runs = merged ? 1 : kw, k->length = merged ? kw * t->depth : t->depth;
    k->runs = s->kernel[DEPTH] * s->kernel[HEIGHT] * k->row_runs;
    Int width = WIDEST * LANES, all = s->groups * over(t->filters, LANES) * LANES * n * (Int)sizeof(T);
    k->kept = all <= KEPT;
    uintptr_t start = room;
    k->packed = take(&room, t->blocks);
    k->at = take(&room, pixels * k->runs * (Int)sizeof(T *));
    k->to = take(&room, pixels * (Int)sizeof(T *));
    k->rows = take(&room, s->kernel[DEPTH] * s->kernel[HEIGHT] * (Int)sizeof(Int));
    k->columns = take(&room, b->columns * kw * (Int)sizeof(Int));
    k->zeros = take(&room, most(s->channels, k->length) * (Int)sizeof(T));
    k->bias = take(&room, width * (Int)sizeof(T));
    k->sums = take(&room, pixels * width * (Int)sizeof(T));
    k->patches = take(&room, merged ? pixels * n * (Int)sizeof(T) : 0);
    k->weights = take(&room, k->kept ? all : most(L1 / 2, 4 * width * (Int)sizeof(T)));
    return (Int)(room - start);
}

/* Eq. 8 for the outputs of a unit: pointers to all that they see. */
static Int NAME(map)(const Task *t, const Unit *u, NAME(Wide) * k) {
    const Sizes *s = t->s;
    Int kw = s->kernel[WIDTH], step = s->x_step[WIDTH], pixel = 0;
    Int low = most(0, inside(s) - u->column), high = least(u->columns, outside(s) - u->column);
    T *patch = k->patches;
    memset(k->zeros, 0, most(s->channels, k->length) * sizeof(T));
    for (Int j = 0; k->row_runs == kw && j < kw; j++)
        for (Int q = 0; q < u->columns; q++) {
            Int column =
                source(first(s, WIDTH, u->column + q) + j * s->dilation[WIDTH], s->in[WIDTH], s->mode);
            k->columns[j * u->columns + q] = column < 0 ? NOWHERE : column * step;
        }
    for (Int m = 0; m < u->images * u->planes * u->rows; m++, pixel += u->columns) {
        Line line = line_of(u, m);
        for (Int q = 0; q < u->columns; q++)
            k->to[pixel + q] = (T *)t->y + y_offset(s, line, u->column + q);
        rows_of(s, line, k->rows);
        for (Int r = 0; r < s->kernel[DEPTH] * s->kernel[HEIGHT]; r++) {
            const T *row = (const T *)t->x + (k->rows[r] == NOWHERE ? 0 : k->rows[r]),
                    **at = k->at + r * k->row_runs * k->step + pixel;
            if (k->rows[r] == NOWHERE)
                for (Int j = 0; j < k->row_runs; j++)
                    for (Int q = 0; q < u->columns; q++)
                        at[j * k->step + q] = k->zeros;
            else if (k->row_runs == kw)
                for (Int j = 0; j < kw; j++)
                    for (Int q = 0; q < u->columns; q++) {
                        Int column = k->columns[j * u->columns + q];
                        at[j * k->step + q] = column == NOWHERE ? k->zeros : row + column;
                    }
            else
                for (Int q = 0; q < u->columns; q++) {
                    Int column = first(s, WIDTH, u->column + q);
                    for (; q >= low && q < high; q++, column += s->stride[WIDTH])
                        at[q] = row + column * step;
                    if (q == u->columns)
                        break;
                    at[q] = patch;
                    for (Int j = 0; j < kw; j++, patch += t->depth) {
                        Int from = source(column + j, s->in[WIDTH], s->mode);
                        memcpy(patch, from < 0 ? k->zeros : row + from * step, t->depth * sizeof(T));
                    }
                }
        }
    }
    for (Int r = 0; r < k->runs; r++) /* a last tile's missing outputs see zeros */
        for (Int i = 0; i < MOST_PIXELS; i++)
            k->at[r * k->step + pixel + i] = k->zeros;
    return pixel;
}

static void NAME(wide)(const Job *job, Int number, void *scratch) {
    typedef void Sweeps(const NAME(Sweep) *);
    static Sweeps *const sweeps[] = {NAME(sweep_1), NAME(sweep_2), NAME(sweep_3),
#if defined __AVX512F__ || defined __aarch64__
                                     NAME(sweep_4)
#endif
    };
    const Task *t = (const Task *)job;
    const Sizes *s = t->s;
    Unit u = unit_of(t, number);
    NAME(Wide) k;
    NAME(carve_wide)(t, (uintptr_t)scratch, &k);
    Int outputs = NAME(map)(t, &u, &k), n = t->taps * t->depth, vectors = over(t->filters, LANES);
    int plain = s->w_channel == 1 && s->w_tap[WIDTH] == t->depth && /* a filter's weights are neighbours */
                s->w_tap[HEIGHT] == t->depth * s->kernel[WIDTH] &&
                s->w_tap[DEPTH] == t->depth * s->kernel[WIDTH] * s->kernel[HEIGHT];

    for (Int block = u.block; block < u.last; block++) {
        Int group = block / t->per_group, b = block % t->per_group;
        Int v = vectors * b / t->per_group, wide = vectors * (b + 1) / t->per_group - v, width = wide * LANES;
        Int lanes = least(width, t->filters - v * LANES), filter = group * t->filters + v * LANES;
        const T *w = (const T *)t->w + group * s->w_group + v * LANES * s->w_filter;
        for (Int i = 0; i < width; i++)
            k.bias[i] = t->bias && i < lanes ? ((const T *)t->bias)[filter + i] : 0;
        /* As many taps at a time as have their weights in the first cache. */
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
                for (Int from = l, count; from < end; from += count) {
                    Int tap = from / t->depth, c = from % t->depth;
                    count = plain ? end - from : least(t->depth - c, end - from);
                    NAME(pack)(w + (plain ? from : w_offset(s, tap) + c * s->w_channel), s->w_filter,
                               s->w_channel, count, lanes, width, to + (from - l) * width);
                }
            sweeps[wide - 1](&(NAME(Sweep)){.at = k.at + r * k.step,
                                            .outputs = outputs,
                                            .step = k.step,
                                            .runs = runs,
                                            .length = length,
                                            .skip = group * t->depth + skip,
                                            .weights = to,
                                            .bias = l ? NULL : k.bias,
                                            .sums = k.sums,
                                            .to = end < n ? NULL : k.to,
                                            .first = filter,
                                            .lanes = lanes});
            l = end;
        } while (l < n);
        k.packed[block] = 1;
    }
}

/* ---- planes: lanes are outputs ---- */

/* Pixels of c channels become lines of c planes, and back: as constants where they are few. */
static void NAME(split)(Int c, T *to, Int plane, const T *from, Int step, Int n) {
    if (c == 1 && step == 1)
        memcpy(to, from, n * sizeof(T));
    else if (c >= 4)
        NAME(transpose)(to, plane, from, step, n, c);
    else
        for (Int k = 0; k < c; k++)
            for (Int i = 0; i < n; i++)
                to[k * plane + i] = from[i * step + k];
}
static void NAME(join)(Int c, T *restrict to, Int step, const T *restrict from, Int plane, Int n) {
    if (c == 1 && step == 1)
        memcpy(to, from, n * sizeof(T));
    else if (c == 2 && step == 2)
        for (Int i = 0; i < n; i++)
            to[2 * i] = from[i], to[2 * i + 1] = from[plane + i];
    else if (c == 3 && step == 3)
        for (Int i = 0; i < n; i++)
            to[3 * i] = from[i], to[3 * i + 1] = from[plane + i], to[3 * i + 2] = from[2 * plane + i];
    else
        NAME(transpose)(to, step, from, plane, c, n);
}

/* `filters` x `wide` registers of sums: each tap is a vector of the planes, times one number for each filter.
   The fewer of the two stay in registers beside the sums. */
INLINE void NAME(vectors)(const int filters, const int wide, const T *planes, const Int *tap, Int n,
                          const T *w, const T *bias, T *to, Int to_step) {
    V sum[4][8];
    UNROLL for (int k = 0; k < filters; k++)
        UNROLL for (int v = 0; v < wide; v++)
            sum[k][v] = ALL(bias[k]);
    for (Int l = 0; l < n; l++) {
        const T *at = planes + tap[l];
        V weight[4], value[8];
        if (filters <= wide) {
            UNROLL for (int k = 0; k < filters; k++)
                weight[k] = ALL(w[k * n + l]);
            UNROLL for (int v = 0; v < wide; v++) {
                value[0] = LOAD(at + v * LANES);
                UNROLL for (int k = 0; k < filters; k++)
                    sum[k][v] += value[0] * weight[k];
            }
        } else {
            UNROLL for (int v = 0; v < wide; v++)
                value[v] = LOAD(at + v * LANES);
            UNROLL for (int k = 0; k < filters; k++) {
                weight[0] = ALL(w[k * n + l]);
                UNROLL for (int v = 0; v < wide; v++)
                    sum[k][v] += value[v] * weight[0];
            }
        }
    }
    UNROLL for (int k = 0; k < filters; k++)
        UNROLL for (int v = 0; v < wide; v++)
            STORE(to + k * to_step + v * LANES) = sum[k][v];
}

/* The same for `length` outputs that lie in a line. At its end some are computed twice; a line shorter than a
   register is read and written beyond, where there is room. */
#define LINE(filters, wide)                                                                                  \
    __attribute__((noinline)) static void NAME(line_##filters)(                                              \
        const T *planes, const Int *tap, Int n, const T *w, const T *bias, T *to, Int to_step, Int length) { \
        if (length >= wide * LANES)                                                                          \
            for (Int f = 0; f < length; f += wide * LANES) {                                                 \
                f = least(f, length - wide * LANES);                                                         \
                NAME(vectors)(filters, wide, planes + f, tap, n, w, bias, to + f, to_step);                  \
            }                                                                                                \
        else                                                                                                 \
            for (Int f = 0; f < length; f += LANES) {                                                        \
                f = least(f, most(0, length - LANES));                                                       \
                NAME(vectors)(filters, 1, planes + f, tap, n, w, bias, to + f, to_step);                     \
            }                                                                                                \
    }
LINE(1, 8)
LINE(2, 6)
LINE(3, 4)
LINE(4, 3)

    typedef struct {
    Int *taps;
    T *weights, *bias, *planes, *sums;
    Int pitch, image, plane; /* steps of the copy: to the next line, image, channel */
} NAME(Planes);

static Int NAME(carve_planes)(const Task *t, uintptr_t room, void *found) {
    const Sizes *s = t->s;
    const Box *b = t->box;
    NAME(Planes) *k = found;
    Int sy = s->stride[HEIGHT], sx = s->stride[WIDTH], n = t->taps * t->depth,
        filters = b->blocks * t->filters;
    k->pitch = over(seen(s, WIDTH, b->columns), sx);
    k->image = over(seen(s, HEIGHT, b->rows), sy) * k->pitch;
    k->plane = s->kernel[DEPTH] * sy * sx * b->images * k->image; /* of each depth, and phase, and image */
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
    Int sy = s->stride[HEIGHT], sx = s->stride[WIDTH], lines = k->image / k->pitch,
        channels = (u->last - u->block) * t->depth;
    T *to = k->planes;
    for (Int m = 0; m < s->kernel[DEPTH] * sy * sx * u->images; m++) {
        Int phase = m / u->images, x = first(s, WIDTH, u->column) + phase % sx,
            y = first(s, HEIGHT, u->row) + phase / sx % sy;
        Int z =
            source(first(s, DEPTH, u->plane) + phase / (sx * sy) * s->dilation[DEPTH], s->in[DEPTH], s->mode);
        Int left = least(k->pitch, most(0, over(-x, sx))),
            right = most(left, least(k->pitch, over(s->in[WIDTH] - x, sx)));
        const T *plane = (const T *)t->x + u->block * t->depth + (u->image + m % u->images) * s->x_image +
                         z * s->x_step[DEPTH];
        for (Int r = 0; r < lines; r++, to += k->pitch) {
            Int row = source(y + r * sy, s->in[HEIGHT], s->mode);
            const T *from = plane + row * s->x_step[HEIGHT];
            int none = z < 0 || row < 0;
            for (Int q = 0; q < k->pitch; q++) {
                if (!none && q == left)
                    q = right;
                if (q == k->pitch)
                    break;
                Int at = source(x + q * sx, s->in[WIDTH], s->mode);
                for (Int l = 0; l < channels; l++)
                    to[l * k->plane + q] = none || at < 0 ? 0 : from[at * s->x_step[WIDTH] + l];
            }
            if (!none && left < right)
                NAME(split)(channels, to + left, k->plane, from + (x + left * sx) * s->x_step[WIDTH],
                            sx * s->x_step[WIDTH], right - left);
        }
    }
}

static void NAME(planes)(const Job *job, Int number, void *scratch) {
    typedef void Lines(const T *, const Int *, Int, const T *, const T *, T *, Int, Int);
    static Lines *const lines[] = {NAME(line_1), NAME(line_2), NAME(line_3), NAME(line_4)};
    const Task *t = (const Task *)job;
    const Sizes *s = t->s;
    Unit u = unit_of(t, number);
    NAME(Planes) k;
    NAME(carve_planes)(t, (uintptr_t)scratch, &k);
    Int sy = s->stride[HEIGHT], sx = s->stride[WIDTH], n = t->taps * t->depth,
        filters = (u.last - u.block) * t->filters;
    Int z = first(s, DEPTH, u.plane), y = first(s, HEIGHT, u.row), x = first(s, WIDTH, u.column);
    int in_place = s->channels == 1 && s->x_step[WIDTH] == 1 && sx == 1 && sy == 1 && u.images == 1 &&
                   u.columns >= LANES && s->kernel[DEPTH] == 1 && z >= 0 && z < s->in[DEPTH] && y >= 0 &&
                   x >= 0 && y + seen(s, HEIGHT, u.rows) <= s->in[HEIGHT] &&
                   x + seen(s, WIDTH, u.columns) <= s->in[WIDTH];
    if (in_place) {
        k.planes = (T *)t->x + u.image * s->x_image + z * s->x_step[DEPTH] + y * s->x_step[HEIGHT] + x;
        k.pitch = s->x_step[HEIGHT];
    } else {
        k.pitch = over(seen(s, WIDTH, u.columns), sx), k.image = over(seen(s, HEIGHT, u.rows), sy) * k.pitch;
        k.plane = s->kernel[DEPTH] * sy * sx * u.images * k.image;
        NAME(spread)(t, &u, &k);
    }
    for (Int tap = 0, l = 0; tap < t->taps; tap++) {
        Int j = tap % s->kernel[WIDTH] * s->dilation[WIDTH],
            i = tap / s->kernel[WIDTH] % s->kernel[HEIGHT] * s->dilation[HEIGHT];
        Int d = tap / s->kernel[WIDTH] / s->kernel[HEIGHT], phase = (d * sy + i % sy) * sx + j % sx;
        for (Int c = 0; c < t->depth; c++, l++) {
            k.taps[l] = c * k.plane + phase * u.images * k.image + i / sy * k.pitch + j / sx;
            for (Int f = 0; f < filters; f++)
                k.weights[f * n + l] =
                    ((const T *)t->w)[(u.block + f / t->filters) * s->w_group + f % t->filters * s->w_filter +
                                      w_offset(s, tap) + c * s->w_channel];
        }
    }
    for (Int f = 0; f < filters; f++)
        k.bias[f] = t->bias ? ((const T *)t->bias)[u.block * t->filters + f] : 0;

    /* Long lines one by one; short ones all as one, with what stands between them. */
    int one_by_one = u.columns >= 8 * LANES || in_place,
        direct = one_by_one && filters == 1 && s->y_step[WIDTH] == 1;
    Int count = one_by_one ? u.images * u.rows : 1;
    Int length = one_by_one ? u.columns : (u.images - 1) * k.image + (u.rows - 1) * k.pitch + u.columns;
    Int padded = over(length, LANES) * LANES + 8 * LANES;
    for (Int r = 0; r < count; r++) {
        T *to = (T *)t->y + y_offset(s, line_of(&u, r), u.column) + u.block * t->filters;
        const T *line = k.planes + r / u.rows * k.image + r % u.rows * k.pitch;
        for (Int f = 0, some; f < filters; f += some) {
            some = even(t->filters - f % t->filters, 4);
            lines[some - 1](line + f / t->filters * t->depth * k.plane, k.taps, n, k.weights + f * n,
                            k.bias + f, direct ? to : k.sums + f * padded, padded, length);
        }
        if (one_by_one && !direct)
            NAME(join)(filters, to, s->y_step[WIDTH], k.sums, padded, u.columns);
        for (Int m = 0; !one_by_one && m < u.images * u.rows; m++)
            NAME(join)(filters, (T *)t->y + y_offset(s, line_of(&u, m), u.column) + u.block * t->filters,
                       s->y_step[WIDTH], k.sums + m / u.rows * k.image + m % u.rows * k.pitch, padded,
                       u.columns);
    }
}

/* ---- depthwise: lanes are channels ---- */

typedef struct {
    char *packed;
    Int *rows;
    const T **taps; /* what one output sees, or where the kernel rows of four begin */
    T *zeros, *weights, *bias, *several;
    int tiled;
} NAME(Depthwise);

static Int NAME(carve_depthwise)(const Task *t, uintptr_t room, void *found) {
    const Sizes *s = t->s;
    NAME(Depthwise) *k = found;
    Int c = s->channels, wide = 3 * s->stride[WIDTH] + extent(s, WIDTH);
    k->tiled = s->x_step[WIDTH] == c && wide <= 64; /* else a row of zeros would be long */
    uintptr_t start = room;
    k->packed = take(&room, 1);
    k->rows = take(&room, t->taps * (Int)sizeof(Int));
    k->taps = take(&room, t->taps * (Int)sizeof(T *));
    k->zeros = take(&room, (k->tiled ? wide : 1) * c * (Int)sizeof(T));
    k->weights = take(&room, t->taps * s->filters * (Int)sizeof(T));
    k->bias = take(&room, s->filters * (Int)sizeof(T));
    k->several = take(&room, 4 * s->filters * (Int)sizeof(T));
    return (Int)(room - start);
}

/* Four neighbours of a line, whose taps all lie inside. Where width and stride are constants, what they share
   stays in registers. */
INLINE void NAME(four)(const Int width, const Int stride, const Int dilation, const Sizes *s,
                       const T *const *rows, const T *w, const T *bias, T *y, Int y_step) {
    const Int c = s->channels, count = s->kernel[DEPTH] * s->kernel[HEIGHT];
    const Int next = dilation * c;
    for (Int k = 0; k < c; k += LANES) {
        k = least(k, c - LANES);
        const T *weight = w + k;
        V sum[4];
        UNROLL for (int q = 0; q < 4; q++)
            sum[q] = LOAD(bias + k);
        for (Int r = 0; r < count; r++) {
            const T *at = rows[r] + k;
            UNROLL for (Int j = 0; j < width; j++, weight += c) {
                V value = LOAD(weight);
                UNROLL for (int q = 0; q < 4; q++)
                    sum[q] += LOAD(at + j * next + q * stride * c) * value;
            }
        }
        UNROLL for (int q = 0; q < 4; q++)
            STORE(y + q * y_step + k) = sum[q];
    }
}
#define FOUR(name, width, stride, dilation)                                                            \
    __attribute__((noinline)) static void NAME(name)(const Sizes *s, const T *const *rows, const T *w, \
                                                     const T *bias, T *y, Int y_step) {                \
        NAME(four)(width, stride, dilation, s, rows, w, bias, y, y_step);                              \
    }
FOUR(four_any, s->kernel[WIDTH], s->stride[WIDTH], s->dilation[WIDTH])
FOUR(four_3_1, 3, 1, 1)
FOUR(four_3_2, 3, 2, 1)
FOUR(four_5_1, 5, 1, 1)

/* One output, each tap where its pointer says. */
static void NAME(one)(Int c, const T *const *at, Int taps, const T *w, const T *bias, T *y) {
    for (Int k = 0; k < c; k += LANES) {
        k = least(k, c - LANES);
        V sum = LOAD(bias + k);
        for (Int l = 0; l < taps; l++)
            sum += LOAD(at[l] + k) * LOAD(w + l * c + k);
        STORE(y + k) = sum;
    }
}

static void NAME(depthwise)(const Job *job, Int number, void *scratch) {
    const Task *t = (const Task *)job;
    const Sizes *s = t->s;
    Unit u = unit_of(t, number);
    NAME(Depthwise) k;
    NAME(carve_depthwise)(t, (uintptr_t)scratch, &k);
    Int c = s->channels, several = t->filters, kw = s->kernel[WIDTH], stride = s->stride[WIDTH],
        step = s->x_step[WIDTH];
    Int rows = s->kernel[DEPTH] * s->kernel[HEIGHT], wide = 3 * stride + extent(s, WIDTH),
        dense = s->dilation[WIDTH] == 1;
    void (*four)(const Sizes *, const T *const *, const T *, const T *, T *, Int) =
        dense && kw == 3 && stride == 1   ? NAME(four_3_1)
        : dense && kw == 3 && stride == 2 ? NAME(four_3_2)
        : dense && kw == 5 && stride == 1 ? NAME(four_5_1)
                                          : NAME(four_any);
    if (!*k.packed) { /* weights (several, taps, channels), once for each thread */
        memset(k.zeros, 0, (k.tiled ? wide : 1) * c * sizeof(T));
        for (Int m = 0; m < several; m++)
            for (Int tap = 0; tap < t->taps; tap++)
                for (Int l = 0; l < c; l++)
                    k.weights[(m * t->taps + tap) * c + l] =
                        ((const T *)t->w)[l * s->w_group + m * s->w_filter + w_offset(s, tap)];
        for (Int m = 0; m < several; m++)
            for (Int l = 0; l < c; l++)
                k.bias[m * c + l] = t->bias ? ((const T *)t->bias)[l * several + m] : 0;
        *k.packed = 1;
    }
    Int low = most(u.column, inside(s)),
        high = least(u.column + u.columns, outside(s)); /* what four at a time do */
    if (!k.tiled || high - low < 4)
        low = high = 0;
    for (Int m = 0; m < u.images * u.planes * u.rows; m++) {
        Line line = line_of(&u, m);
        rows_of(s, line, k.rows);
        for (Int q = u.column, some; q < u.column + u.columns; q += some) {
            some = q >= low && q < high ? 4 : 1;
            if (some == 4)
                q = least(q, high - 4);
            T *y = (T *)t->y + y_offset(s, line, q), *to = several == 1 ? y : k.several;
            Int y_step = several == 1 ? s->y_step[WIDTH] : c;
            for (Int l = 0; l < (some == 4 ? rows : t->taps); l++) {
                Int at = first(s, WIDTH, q), row = l;
                if (some == 1)
                    at = source(at + l % kw * s->dilation[WIDTH], s->in[WIDTH], s->mode), row = l / kw;
                int none = k.rows[row] == NOWHERE || (some == 1 && at < 0);
                k.taps[l] = none ? k.zeros : (const T *)t->x + k.rows[row] + at * step;
            }
            for (Int f = 0; f < several; f++, to += 4 * c) {
                const T *w = k.weights + f * t->taps * c, *bias = k.bias + f * c;
                if (some == 4)
                    four(s, k.taps, w, bias, to, y_step);
                else
                    NAME(one)(c, k.taps, t->taps, w, bias, to);
            }
            for (Int i = 0; several > 1 && i < some; i++)
                NAME(join)(several, y + i * s->y_step[WIDTH], several, k.several + i * c, 4 * c, c);
        }
    }
}

#undef LANES
#undef V
#undef Four
#undef SWEEP
#undef T
#undef INDEX
#else /* ---- With FROM, TO, ADD and KIND: what folding does to elements ---- */

/* `many` elements, `step` apart in X_col and `to_step` in x: each the sum, or the mean, of what `terms`
   pointers, moved along, point to. Many at a time, since one addition waits for another. */
INLINE void KINDS(sums)(const int many, const FROM *const *at, Int terms, Int offset, Int step, TO *to,
                        Int to_step, const int mean) {
    TO sum[8], low[8], high[8];
    UNROLL for (int i = 0; i < many; i++)
        low[i] = high[i] = sum[i] = (TO)at[0][offset + i * step];
    for (Int l = 1; l < terms; l++) {
        const FROM *from = at[l] + offset;
        UNROLL for (int i = 0; i < many; i++) {
            TO value = (TO)from[i * step];
            sum[i] = ADD(sum[i], value);
#ifdef MEAN
            low[i] = value < low[i] ? value : low[i], high[i] = value > high[i] ? value : high[i];
#endif
        }
    }
    UNROLL for (int i = 0; i < many; i++) {
#ifdef MEAN /* a mean of equal numbers is that number, whatever rounding or overflow does */
        TO found = sum[i] / (TO)terms;
        if (mean)
            sum[i] = found < low[i] ? low[i] : found > high[i] ? high[i] : found;
#endif
        to[i * to_step] = sum[i];
    }
    (void)mean, (void)low, (void)high;
}

/* n pixels of c channels, `to_step` apart; pointers move by `row` from one to the next. */
INLINE void KINDS(pixels)(const FROM *const *at, Int terms, Int n, Int row, Int c, Int c_step, TO *to,
                          Int to_step, const int mean) {
    Int p = 0, wide = c_step == 1 ? c / 8 * 8 : 0; /* channels together where they are many, else pixels */
    for (; wide && p < n; p++)
        for (Int k = 0; k < wide; k += 8)
            KINDS(sums)(8, at, terms, p * row + k, 1, to + p * to_step + k, 1, mean);
    for (p = 0; p + 8 <= n; p += 8)
        for (Int k = wide; k < c; k++)
            KINDS(sums)(8, at, terms, p * row + k * c_step, row, to + p * to_step + k, to_step, mean);
    for (; p < n; p++)
        for (Int k = wide; k < c; k++)
            KINDS(sums)(1, at, terms, p * row + k * c_step, row, to + p * to_step + k, to_step, mean);
}

static void KINDS(gather)(const void *at, Int terms, Int n, Int row, Int c, Int c_step, void *to, Int to_step,
                          int mean) {
    if (terms == 0)
        for (Int p = 0; p < n; p++)
            memset((TO *)to + p * to_step, 0, c * sizeof(TO));
#ifdef MEAN
    else if (mean)
        KINDS(pixels)(at, terms, n, row, c, c_step, to, to_step, 1);
#endif
    else
        KINDS(pixels)(at, terms, n, row, c, c_step, to, to_step, 0);
    (void)mean;
}

#undef FROM
#undef TO
#undef KIND
#endif
