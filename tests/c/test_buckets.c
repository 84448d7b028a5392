/* Buckets hold what a plain loop over all rows finds, whatever the shift, the place and the order in which they are
 * folded. */
#include "compiler.h"

#include "check.h"

#include <math.h>

#define ROWS 5000

static int64_t steps[ROWS];
static double values[ROWS];
static uint8_t valid[ROWS / 8 + 2];
static int32_t epochs[ROWS];
static int64_t times[ROWS];

static bool is_valid(uint64_t row, uint64_t offset) { return valid[(row + offset) >> 3] >> ((row + offset) & 7) & 1; }

static void make_rows(uint64_t seed, int64_t begin, unsigned wide) {
    uint64_t state = seed;
    for (unsigned i = 0; i < ROWS; i++) {
        steps[i] = begin + (int64_t)i * wide + (int64_t)(next_random(&state) % 3);
        double x = next_uniform(&state) * 2 - 1;
        switch (next_random(&state) % 40) {
        case 0: x = NAN; break;
        case 1: x = INFINITY; break;
        case 2: x = -INFINITY; break;
        case 3: x = 0x1.fffffffffffffp1023; break;
        case 4: x = -0x1.fffffffffffffp1023; break;
        default: break;
        }
        values[i] = x;
        epochs[i] = (int32_t)(i / 100);
        times[i] = (int64_t)i * 1000;
    }
    for (unsigned i = 0; i < sizeof valid; i++) valid[i] = (uint8_t)next_random(&state);
}

#define COLUMN(block, n, type, column) ((type *)((uint8_t *)(block) + advlog_bucket_offset((n), ADVLOG_BUCKET_##column)))

/* Against the rows themselves, bucket by bucket. */
static void check_block(void *block, uint64_t n, int64_t first, int32_t shift, uint64_t offset, bool masked) {
    double *mean = malloc(n * sizeof *mean);
    CHECK(mean != NULL);
    advlog_buckets_mean(block, n, mean);
    for (uint64_t k = 0; k < n; k++) {
        double low = INFINITY, high = -INFINITY;
        long double sum = 0;
        int64_t argmin = 0, argmax = 0;
        uint64_t count = 0, records = 0, nan = 0, posinf = 0, neginf = 0;
        for (uint64_t i = 0; i < ROWS; i++) {
            if (steps[i] >> shift != first + (int64_t)k) continue;
            records++;
            if (masked && !is_valid(i, offset)) continue;
            double x = values[i];
            if (isnan(x)) nan++;
            else if (isinf(x)) *(x > 0 ? &posinf : &neginf) += 1;
            else {
                count++;
                sum += x;
                if (x < low) low = x, argmin = steps[i];
                if (x > high) high = x, argmax = steps[i];
            }
        }
        CHECK_INT(records, COLUMN(block, n, uint64_t, RECORDS)[k]);
        CHECK_INT(count, COLUMN(block, n, uint64_t, COUNT)[k]);
        CHECK_INT(nan, COLUMN(block, n, uint32_t, NAN)[k]);
        CHECK_INT(posinf, COLUMN(block, n, uint32_t, POSINF)[k]);
        CHECK_INT(neginf, COLUMN(block, n, uint32_t, NEGINF)[k]);
        CHECK_DOUBLE(low, COLUMN(block, n, double, MIN)[k]);
        CHECK_DOUBLE(high, COLUMN(block, n, double, MAX)[k]);
        CHECK_INT(argmin, COLUMN(block, n, int64_t, ARGMIN)[k]);
        CHECK_INT(argmax, COLUMN(block, n, int64_t, ARGMAX)[k]);
        CHECK_INT(count ? 7 : -1, COLUMN(block, n, int32_t, RANK_MIN)[k]);
        if (!count) {
            CHECK_DOUBLE(0, mean[k]);
            continue;
        }
        CHECK(mean[k] >= low && mean[k] <= high);
        double expected = (double)(sum / count);
        /* Where large values have cancelled each other, the sum in long double has lost the small ones. */
        bool is_known = fabs(expected) >= 0x1p900 || (high < 0x1p900 && low > -0x1p900 && fabs(expected) > 1e-6);
        if (is_known) CHECK_NEAR(expected, mean[k], 1e-9);
    }
    free(mean);
}

static void *new_block(uint64_t n) {
    void *block = malloc(n * ADVLOG_BUCKET_BYTES + 8);
    CHECK(block != NULL);
    advlog_buckets_clear(block, n);
    return block;
}

static void rows_are_counted(uint64_t seed, int64_t begin, unsigned wide, int32_t shift) {
    make_rows(seed, begin, wide);
    for (unsigned masked = 0; masked < 2; masked++) {
        uint64_t offset = seed % 8;
        int64_t first = steps[0] >> shift;
        uint64_t n = (uint64_t)((steps[ROWS - 1] >> shift) - first) + 3;
        void *fine = new_block(n);
        /* In two pieces, as batches come. */
        uint64_t cut = 1234;
        advlog_buckets_add(fine, n, first, shift, 7, steps, values, masked ? valid : NULL, offset, cut);
        advlog_buckets_add(fine, n, first, shift, 7, steps + cut, values + cut, masked ? valid : NULL, offset + cut, ROWS - cut);
        check_block(fine, n, first, shift, offset, masked);
        for (int32_t coarser = 0; coarser < 5; coarser++) {
            int32_t above = shift + coarser;
            int64_t from = first >> coarser;
            uint64_t m = (uint64_t)(((first + (int64_t)n) >> coarser) - from) + 1;
            void *coarse = new_block(m);
            advlog_buckets_fold(coarse, m, from, above, fine, n, first, shift);
            check_block(coarse, m, from, above, offset, masked);
            free(coarse);
        }
        free(fine);
    }
}

static void rows_outside_are_passed_over(void) {
    make_rows(3, 1000, 1);
    void *block = new_block(4);
    int64_t ends[] = {INT64_MIN, INT64_MAX, 1015, 1032, 1016, 1031};
    double ones[] = {1, 1, 1, 1, 1, 1};
    advlog_buckets_add(block, 4, 1016 >> 2, 2, 0, ends, ones, NULL, 0, 6);
    uint64_t *records = COLUMN(block, 4, uint64_t, RECORDS);
    CHECK_INT(1, records[0]);
    CHECK_INT(0, records[1] + records[2]);
    CHECK_INT(1, records[3]);
    advlog_buckets_add_unresolved(block, 4, 1016 >> 2, 2, ends, 6);
    CHECK_INT(2, COLUMN(block, 4, uint32_t, UNRESOLVED)[0] + COLUMN(block, 4, uint32_t, UNRESOLVED)[3]);
    free(block);
}

static void counters_stay_at_their_greatest(void) {
    void *one = new_block(1), *sum = new_block(1);
    COLUMN(one, 1, uint32_t, NAN)[0] = UINT32_MAX - 1;
    for (unsigned i = 0; i < 3; i++) advlog_buckets_fold(sum, 1, 0, 0, one, 1, 0, 0);
    CHECK_INT(UINT32_MAX, COLUMN(sum, 1, uint32_t, NAN)[0]);
    free(one);
    free(sum);
}

static void clocks_are_merged(void) {
    make_rows(9, 0, 1);
    uint8_t clock[8 * ADVLOG_CLOCK_BYTES], coarse[4 * ADVLOG_CLOCK_BYTES];
    advlog_clock_clear(clock, 8);
    for (unsigned i = 0; i < ROWS; i++) steps[i] = i;
    memset(valid, 0xff, sizeof valid);
    advlog_clock_add(clock, 8, 0, 9, steps, times, epochs, valid, 0, ROWS);
    advlog_clock_clear(coarse, 4);
    advlog_clock_fold(coarse, 4, 0, 10, clock, 8, 0, 9);
    const int64_t *begins = (const int64_t *)coarse;
    CHECK_INT(0, begins[0]);
    CHECK_INT(1024000, begins[1]);
    CHECK_INT(1023000, begins[4]);
    const int32_t *first = (const int32_t *)(begins + 8);
    CHECK_INT(0, first[0]);
    CHECK_INT(10, first[4]);
}

static void steps_that_begin_again_are_found(void) {
    int64_t range[2] = {INT64_MAX, INT64_MIN};
    for (unsigned i = 0; i < ROWS; i++) steps[i] = i % 100;
    CHECK_INT(ROWS / 100 - 1, advlog_steps_restarts(steps, ROWS, range));
    range[0] = INT64_MAX, range[1] = INT64_MIN;
    /* Two records a step, and now and then one at step 0. */
    for (unsigned i = 0; i < ROWS; i++) steps[i] = i % 500 == 499 ? 0 : i / 2;
    CHECK_INT(0, advlog_steps_restarts(steps, ROWS, range));
    range[0] = INT64_MAX, range[1] = INT64_MIN;
    int64_t ends[] = {INT64_MAX, INT64_MIN, INT64_MIN, INT64_MAX, INT64_MIN, INT64_MIN};
    CHECK_INT(2, advlog_steps_restarts(ends, 6, range));
}

int main(void) {
    rows_are_counted(1, 0, 1, 0);
    rows_are_counted(2, 1000000, 1, 3);
    rows_are_counted(3, -7777, 3, 8);
    rows_are_counted(4, (int64_t)1 << 60, 4096, 12);
    rows_are_counted(5, INT64_MIN + 5, 1, 2);
    rows_outside_are_passed_over();
    counters_stay_at_their_greatest();
    clocks_are_merged();
    steps_that_begin_again_are_found();
    return 0;
}
