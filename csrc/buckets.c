/* Values of a metric into buckets of steps: least, greatest, mean and counts of each, with the steps of the extremes.
 *
 * One pass over Arrow buffers. The columns of a block lie apart, so that each is an Arrow array as it is; the rows of a
 * run come in the order of their steps, so the cache lines of one bucket stay hot for all of its rows. */
#include "compiler.h"

#include <math.h>
#include <string.h>

#define LARGE 0x1p960
#define SCALE 0x1p-64

typedef struct {
    double *min, *max, *sum, *large;
    int64_t *argmin, *argmax;
    uint64_t *count, *records;
    uint32_t *nan, *posinf, *neginf, *unresolved;
    int32_t *rank_min, *rank_max;
} columns;

static const uint8_t width_of[ADVLOG_BUCKET_COLUMNS] = {8, 8, 8, 8, 8, 8, 8, 8, 4, 4, 4, 4, 4, 4};

uint64_t advlog_bucket_offset(uint64_t n, int32_t column) {
    uint64_t bytes = 0;
    for (int32_t i = 0; i < column && i < ADVLOG_BUCKET_COLUMNS; i++) bytes += width_of[i];
    return bytes * n;
}

static columns columns_of(void *block, uint64_t n) {
    uint8_t *at[ADVLOG_BUCKET_COLUMNS];
    for (int32_t i = 0; i < ADVLOG_BUCKET_COLUMNS; i++) at[i] = (uint8_t *)block + advlog_bucket_offset(n, i);
    return (columns){
        (double *)at[0],    (double *)at[1],    (double *)at[2],   (double *)at[3],   (int64_t *)at[4],
        (int64_t *)at[5],   (uint64_t *)at[6],  (uint64_t *)at[7], (uint32_t *)at[8], (uint32_t *)at[9],
        (uint32_t *)at[10], (uint32_t *)at[11], (int32_t *)at[12], (int32_t *)at[13],
    };
}

/* A counter that would begin again at 0 would say that nothing happened. */
static void count_up(uint32_t *counter, uint32_t by) { *counter = by > UINT32_MAX - *counter ? UINT32_MAX : *counter + by; }

static bool bit_is_set(const uint8_t *bits, uint64_t at) { return bits[at >> 3] >> (at & 7) & 1; }

/* The bucket of a step, or n where it lies outside. Without a difference that overflows. */
static uint64_t bucket_of(int64_t step, int64_t first, int32_t shift, uint64_t n) {
    int64_t at = step >> (shift < 63 ? shift : 63); /* beyond, a shift is undefined */
    if (at < first) return n;
    uint64_t behind = (uint64_t)at - (uint64_t)first;
    return behind < n ? behind : n;
}

void advlog_buckets_clear(void *block, uint64_t n) {
    columns c = columns_of(block, n);
    memset(block, 0, n * ADVLOG_BUCKET_BYTES);
    for (uint64_t i = 0; i < n; i++) {
        c.min[i] = INFINITY;
        c.max[i] = -INFINITY;
        c.rank_min[i] = c.rank_max[i] = -1;
    }
}

void advlog_buckets_add(void *block, uint64_t n, int64_t first, int32_t shift, int32_t rank, const int64_t *steps,
                        const double *values, const uint8_t *valid, uint64_t offset, uint64_t rows) {
    columns c = columns_of(block, n);
    for (uint64_t i = 0; i < rows; i++) {
        uint64_t k = bucket_of(steps[i], first, shift, n);
        if (k == n) continue;
        c.records[k]++;
        if (valid != NULL && !bit_is_set(valid, offset + i)) continue;
        double x = values[i];
        if (isfinite(x)) {
            c.count[k]++;
            if (x < c.min[k]) {
                c.min[k] = x;
                c.argmin[k] = steps[i];
                c.rank_min[k] = rank;
            }
            if (x > c.max[k]) {
                c.max[k] = x;
                c.argmax[k] = steps[i];
                c.rank_max[k] = rank;
            }
            if (fabs(x) < LARGE) c.sum[k] += x;
            else c.large[k] += x * SCALE;
        } else if (isnan(x)) {
            count_up(&c.nan[k], 1);
        } else {
            count_up(x > 0 ? &c.posinf[k] : &c.neginf[k], 1);
        }
    }
}

void advlog_buckets_add_unresolved(void *block, uint64_t n, int64_t first, int32_t shift, const int64_t *steps, uint64_t rows) {
    columns c = columns_of(block, n);
    for (uint64_t i = 0; i < rows; i++) {
        uint64_t k = bucket_of(steps[i], first, shift, n);
        if (k < n) count_up(&c.unresolved[k], 1);
    }
}

void advlog_buckets_fold(void *block, uint64_t n, int64_t first, int32_t shift, const void *other, uint64_t other_n,
                         int64_t other_first, int32_t other_shift) {
    columns to = columns_of(block, n);
    columns from = columns_of((void *)other, other_n);
    int32_t coarser = shift - other_shift;
    for (uint64_t i = 0; i < other_n; i++) {
        uint64_t k = bucket_of((int64_t)((uint64_t)other_first + i), first, coarser, n);
        if (k == n) continue;
        to.records[k] += from.records[i];
        count_up(&to.unresolved[k], from.unresolved[i]);
        count_up(&to.nan[k], from.nan[i]);
        count_up(&to.posinf[k], from.posinf[i]);
        count_up(&to.neginf[k], from.neginf[i]);
        if (from.count[i] == 0) continue;
        if (from.min[i] < to.min[k]) {
            to.min[k] = from.min[i];
            to.argmin[k] = from.argmin[i];
            to.rank_min[k] = from.rank_min[i];
        }
        if (from.max[i] > to.max[k]) {
            to.max[k] = from.max[i];
            to.argmax[k] = from.argmax[i];
            to.rank_max[k] = from.rank_max[i];
        }
        to.count[k] += from.count[i];
        to.sum[k] += from.sum[i];
        to.large[k] += from.large[i];
    }
}

void advlog_buckets_mean(const void *block, uint64_t n, double *mean) {
    columns c = columns_of((void *)block, n);
    for (uint64_t i = 0; i < n; i++) {
        double count = (double)c.count[i];
        /* The division first: the sum of large values times 2^64 may be no number, their mean is one. */
        double large = c.large[i] == 0 ? 0 : c.large[i] / count / SCALE;
        double sum = isfinite(c.sum[i]) ? c.sum[i] / count : c.sum[i];
        double found = c.count[i] == 0 ? 0 : sum + large;
        /* The last rounding may leave the range that the values have. */
        mean[i] = c.count[i] == 0 ? 0 : fmin(fmax(found, c.min[i]), c.max[i]);
    }
}

typedef struct {
    int64_t *begins, *ends;
    int32_t *epoch_first, *epoch_last;
} clock_columns;

static clock_columns clock_of(void *block, uint64_t n) {
    int64_t *times = block;
    int32_t *epochs = (int32_t *)(times + 2 * n);
    return (clock_columns){times, times + n, epochs, epochs + n};
}

void advlog_clock_clear(void *block, uint64_t n) {
    clock_columns c = clock_of(block, n);
    for (uint64_t i = 0; i < n; i++) {
        c.begins[i] = INT64_MAX;
        c.ends[i] = INT64_MIN;
        c.epoch_first[i] = INT32_MAX;
        c.epoch_last[i] = INT32_MIN;
    }
}

static void widen_clock(clock_columns c, uint64_t k, int64_t begins, int64_t ends, int32_t first, int32_t last) {
    if (begins < c.begins[k]) c.begins[k] = begins;
    if (ends > c.ends[k]) c.ends[k] = ends;
    if (first < c.epoch_first[k]) c.epoch_first[k] = first;
    if (last > c.epoch_last[k]) c.epoch_last[k] = last;
}

void advlog_clock_add(void *block, uint64_t n, int64_t first, int32_t shift, const int64_t *steps, const int64_t *times,
                      const int32_t *epochs, const uint8_t *valid, uint64_t offset, uint64_t rows) {
    clock_columns c = clock_of(block, n);
    for (uint64_t i = 0; i < rows; i++) {
        uint64_t k = bucket_of(steps[i], first, shift, n);
        if (k == n) continue;
        bool has_epoch = valid == NULL || bit_is_set(valid, offset + i);
        widen_clock(c, k, times[i], times[i], has_epoch ? epochs[i] : INT32_MAX, has_epoch ? epochs[i] : INT32_MIN);
    }
}

void advlog_clock_fold(void *block, uint64_t n, int64_t first, int32_t shift, const void *other, uint64_t other_n,
                       int64_t other_first, int32_t other_shift) {
    clock_columns to = clock_of(block, n);
    clock_columns from = clock_of((void *)other, other_n);
    int32_t coarser = shift - other_shift;
    for (uint64_t i = 0; i < other_n; i++) {
        uint64_t k = bucket_of((int64_t)((uint64_t)other_first + i), first, coarser, n);
        if (k < n) widen_clock(to, k, from.begins[i], from.ends[i], from.epoch_first[i], from.epoch_last[i]);
    }
}

uint64_t advlog_steps_restarts(const int64_t *steps, uint64_t rows, int64_t range[2]) {
    uint64_t restarts = 0;
    for (uint64_t i = 0; i < rows; i++) {
        int64_t step = steps[i];
        if (i > 0 && step < steps[i - 1] && i + 1 < rows) {
            uint64_t half = ((uint64_t)range[1] - (uint64_t)range[0]) / 2;
            int64_t after = steps[i + 1];
            bool falls = (uint64_t)steps[i - 1] - (uint64_t)step > half;
            bool stays = after < steps[i - 1] && (uint64_t)steps[i - 1] - (uint64_t)after > half;
            if (falls && stays) restarts++;
        }
        if (step < range[0]) range[0] = step;
        if (step > range[1]) range[1] = step;
    }
    return restarts;
}
