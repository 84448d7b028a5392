/* Any rows into blocks of any place and shift, folded into each other: what a block counts is what its rows are, and
 * nothing is written outside of it. */
#include "compiler.h"
#include "fuzz.h"

#include <math.h>

#define ROWS 64
#define MOST 40

static int64_t take_step(fuzz_input *in) {
    int64_t step = 0;
    switch (take_byte(in) % 4) {
    case 0: return take_byte(in);
    case 1: return (int64_t)1 << (take_byte(in) % 63);
    case 2: return -(int64_t)take_short(in);
    default:
        for (unsigned i = 0; i < 8; i++) step = (int64_t)((uint64_t)step << 8 | take_byte(in));
        return step;
    }
}

static double take_value(fuzz_input *in) {
    uint64_t bits = 0;
    for (unsigned i = 0; i < 8; i++) bits = bits << 8 | take_byte(in);
    return double_of(bits);
}

static void *block_of(uint64_t n, uint64_t bytes) {
    void *block = malloc(n * bytes + 1);
    CHECK(block != NULL);
    return block;
}

#define COLUMN(block, n, type, column) ((type *)((uint8_t *)(block) + advlog_bucket_offset((n), ADVLOG_BUCKET_##column)))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_input in = {data, data + size};
    int64_t steps[ROWS];
    double values[ROWS];
    int64_t times[ROWS];
    int32_t epochs[ROWS];
    uint8_t valid[ROWS / 8 + 2];
    uint64_t n = 1 + take_byte(&in) % MOST, m = 1 + take_byte(&in) % MOST;
    int32_t shift = (int32_t)(take_byte(&in) % 63), coarser = (int32_t)(take_byte(&in) % 63);
    if (coarser < shift) coarser = shift;
    int64_t first = take_step(&in) >> shift, from = take_step(&in) >> coarser;
    uint64_t rows = take_byte(&in) % (ROWS + 1), offset = take_byte(&in) % 8;
    for (uint64_t i = 0; i < sizeof valid; i++) valid[i] = (uint8_t)take_byte(&in);
    for (uint64_t i = 0; i < rows; i++) {
        steps[i] = take_step(&in);
        values[i] = take_value(&in);
        times[i] = take_step(&in);
        epochs[i] = (int32_t)take_short(&in);
    }
    void *fine = block_of(n, ADVLOG_BUCKET_BYTES), *coarse = block_of(m, ADVLOG_BUCKET_BYTES);
    double *mean = block_of(n, sizeof *mean);
    advlog_buckets_clear(fine, n);
    advlog_buckets_clear(coarse, m);
    advlog_buckets_add(fine, n, first, shift, 3, steps, values, valid, offset, rows);
    advlog_buckets_add_unresolved(fine, n, first, shift, steps, rows);
    advlog_buckets_mean(fine, n, mean);
    advlog_buckets_fold(coarse, m, from, coarser, fine, n, first, shift);
    uint64_t told = 0, in_block = 0, folded = 0;
    for (uint64_t i = 0; i < rows; i++) {
        int64_t at = steps[i] >> shift;
        in_block += at >= first && (uint64_t)at - (uint64_t)first < n;
    }
    for (uint64_t k = 0; k < n; k++) {
        uint64_t count = COLUMN(fine, n, uint64_t, COUNT)[k];
        told += COLUMN(fine, n, uint64_t, RECORDS)[k];
        CHECK(count <= COLUMN(fine, n, uint64_t, RECORDS)[k]);
        CHECK(COLUMN(fine, n, uint64_t, RECORDS)[k] == COLUMN(fine, n, uint32_t, UNRESOLVED)[k]);
        if (count == 0) continue;
        double low = COLUMN(fine, n, double, MIN)[k], high = COLUMN(fine, n, double, MAX)[k];
        CHECK(isfinite(low) && isfinite(high) && low <= mean[k] && mean[k] <= high);
        CHECK(COLUMN(fine, n, int64_t, ARGMIN)[k] >> shift == COLUMN(fine, n, int64_t, ARGMAX)[k] >> shift);
    }
    CHECK(told == in_block);
    for (uint64_t k = 0; k < m; k++) folded += COLUMN(coarse, m, uint64_t, RECORDS)[k];
    CHECK(folded <= told);
    void *clock = block_of(n, ADVLOG_CLOCK_BYTES), *slow = block_of(m, ADVLOG_CLOCK_BYTES);
    advlog_clock_clear(clock, n);
    advlog_clock_clear(slow, m);
    advlog_clock_add(clock, n, first, shift, steps, times, epochs, valid, offset, rows);
    advlog_clock_fold(slow, m, from, coarser, clock, n, first, shift);
    int64_t range[2] = {INT64_MAX, INT64_MIN};
    CHECK(advlog_steps_restarts(steps, rows, range) < ROWS);
    free(fine);
    free(coarse);
    free(mean);
    free(clock);
    free(slow);
    return 0;
}
