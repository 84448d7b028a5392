/* Quantiles of the sketch lie within 1 % of the true ones from 1e-9 to 5e8, merged or not. */
#include "stats.h"

#include "check.h"

#define ONE_PERCENT (0.01 + 1e-9)

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int nearest(double q, int count) {
    int rank = (int)ceil(q * count);
    return rank > 1 ? rank - 1 : 0;
}

static void check_quantiles(double *values, int count, const advlog_sketch *sketch) {
    qsort(values, (size_t)count, sizeof *values, compare);
    CHECK_INT(count, sketch->count);
    for (int percent = 0; percent <= 100; percent++) {
        double q = percent / 100.0;
        CHECK_NEAR(values[nearest(q, count)], advlog_sketch_quantile(sketch, q), ONE_PERCENT);
    }
}

static void random_values(void) {
    enum { COUNT = 50000 };
    static double values[COUNT];
    static advlog_sketch whole, halves[2];
    uint64_t state = 5;
    for (int i = 0; i < COUNT; i++) {
        values[i] = 0.01 * exp(4 * next_uniform(&state) - 2);
        advlog_sketch_add(&whole, values[i]);
        advlog_sketch_add(&halves[i % 2], values[i]);
    }
    check_quantiles(values, COUNT, &whole);
    advlog_sketch_merge(&halves[0], &halves[1]);
    CHECK(memcmp(&whole, &halves[0], sizeof whole) == 0);
}

/* Each bucket of the range, alone: what it reports is near what it was given. */
static void whole_range(void) {
    for (double value = 1e-9; value < 5e8; value *= 1.003) {
        static advlog_sketch one;
        memset(&one, 0, sizeof one);
        advlog_sketch_add(&one, value);
        CHECK_NEAR(value, advlog_sketch_quantile(&one, 0.5), ONE_PERCENT);
    }
    static advlog_sketch ends;
    advlog_sketch_add(&ends, 1e-9);
    advlog_sketch_add(&ends, 5e8);
    CHECK_INT(1, ends.bucket[0]);
    CHECK_INT(0, ends.bucket[ADVLOG_SKETCH_BUCKETS - 1]);
    CHECK_NEAR(5e8, advlog_sketch_quantile(&ends, 1), ONE_PERCENT);
    /* Outside nothing is known of a value but on which side it lies. */
    advlog_sketch_add(&ends, 5e-324);
    advlog_sketch_add(&ends, 1.7e308);
    CHECK_INT(1, ends.tiny);
    CHECK_INT(1, ends.above);
    CHECK(isnan(advlog_sketch_quantile(&ends, 0.25)));
    CHECK_NEAR(1e-9, advlog_sketch_quantile(&ends, 0.5), ONE_PERCENT);
    CHECK_NEAR(5e8, advlog_sketch_quantile(&ends, 0.75), ONE_PERCENT);
    CHECK(isnan(advlog_sketch_quantile(&ends, 1)));
}

static void values_without_a_logarithm(void) {
    static advlog_sketch sketch;
    CHECK(isnan(advlog_sketch_quantile(&sketch, 0.5)));
    advlog_sketch_add(&sketch, NAN);
    advlog_sketch_add(&sketch, INFINITY);
    advlog_sketch_add(&sketch, -INFINITY);
    CHECK_INT(0, sketch.count);
    advlog_sketch_add(&sketch, 0.0);
    advlog_sketch_add(&sketch, -3.0);
    advlog_sketch_add(&sketch, 2.0);
    CHECK_INT(3, sketch.count);
    CHECK_INT(1, sketch.below);
    CHECK_INT(1, sketch.zero);
    CHECK(isnan(advlog_sketch_quantile(&sketch, -1)));
    CHECK_DOUBLE(0, advlog_sketch_quantile(&sketch, 0.5));
    CHECK_NEAR(2, advlog_sketch_quantile(&sketch, 1), ONE_PERCENT);
}

/* Of few values the high quantiles are the greatest one. */
static void nearest_rank(void) {
    static advlog_sketch sketch;
    advlog_sketch_add(&sketch, 1);
    advlog_sketch_add(&sketch, 10);
    advlog_sketch_add(&sketch, 100);
    CHECK_NEAR(10, advlog_sketch_quantile(&sketch, 0.5), ONE_PERCENT);
    CHECK_NEAR(100, advlog_sketch_quantile(&sketch, 0.9), ONE_PERCENT);
    CHECK_NEAR(100, advlog_sketch_quantile(&sketch, 0.99), ONE_PERCENT);
}

int main(void) {
    random_values();
    whole_range();
    values_without_a_logarithm();
    nearest_rank();
    return 0;
}
