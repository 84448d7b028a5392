/* Running moments agree with a two-pass reference in long double, merged or not, and only finite values enter them. */
#include "stats.h"

#include "check.h"

static const stat_where WHERE = {.seq = 97,
                                 .step = 12,
                                 .time_ns = 500,
                                 .epoch = 3,
                                 .batch = 7,
                                 .present = ADVLOG_HAS_EPOCH | ADVLOG_HAS_BATCH | ADVLOG_HAS_STEP};

static void check_moments(const double *values, int count, const advlog_stat *stat) {
    long double sum = 0, squares = 0;
    double min = values[0], max = values[0];
    for (int i = 0; i < count; i++) {
        sum += values[i];
        if (values[i] < min) min = values[i];
        if (values[i] > max) max = values[i];
    }
    long double mean = sum / count;
    for (int i = 0; i < count; i++) squares += (values[i] - mean) * (values[i] - mean);
    CHECK_INT(count, stat->count);
    CHECK_NEAR((double)mean, stat->mean, 1e-12);
    CHECK_NEAR((double)squares, stat->m2, 1e-9);
    CHECK_DOUBLE(min, stat->min);
    CHECK_DOUBLE(max, stat->max);
}

static void moments_and_merge(void) {
    enum { COUNT = 100000 };
    double *values = malloc(COUNT * sizeof *values);
    CHECK(values != NULL);
    uint64_t state = 4;
    for (int i = 0; i < COUNT; i++) values[i] = 1e4 + next_uniform(&state) + next_uniform(&state);
    advlog_stat whole;
    advlog_stat_init(&whole);
    for (int i = 0; i < COUNT; i++) advlog_stat_add(&whole, values[i]);
    check_moments(values, COUNT, &whole);

    advlog_stat merged;
    advlog_stat_init(&merged);
    for (int at = 0, pieces = 0; at < COUNT; pieces++) {
        advlog_stat piece;
        advlog_stat_init(&piece);
        int size = pieces % 7 * 997; /* empty ones among them */
        for (int i = 0; i < size && at < COUNT; i++) advlog_stat_add(&piece, values[at++]);
        advlog_stat_merge(&merged, &piece);
    }
    check_moments(values, COUNT, &merged);
    CHECK_DOUBLE(values[COUNT - 1], merged.last);

    advlog_stat_merge(&merged, &merged);
    CHECK_INT(2 * COUNT, merged.count);
    CHECK_NEAR(2 * whole.m2, merged.m2, 1e-9);
    free(values);
}

static void no_values(void) {
    advlog_stat stat;
    advlog_stat_init(&stat);
    CHECK(isnan(stat.min) && isnan(stat.max) && isnan(stat.last));
    CHECK_INT(0, stat.count);
    CHECK_INT(-1, stat.bad_seq);
    advlog_stat_merge(&stat, &stat);
    CHECK_INT(0, stat.count);
    CHECK(isnan(stat.min));
}

static void nonfinite_values(void) {
    advlog_stat stat;
    advlog_stat_init(&stat);
    stat_add_at(&stat, 2, &WHERE);
    CHECK_INT(0, stat.bad_class);
    stat_add_at(&stat, INFINITY, &WHERE);
    const stat_where later = {.seq = 98, .time_ns = 900};
    stat_add_at(&stat, NAN, &later);
    stat_add_at(&stat, -INFINITY, &later);
    stat_add_at(&stat, NAN, &later);
    CHECK(isnan(stat.last));
    stat_add_at(&stat, 4, &later);
    CHECK_INT(2, stat.count);
    CHECK_INT(2, stat.nan);
    CHECK_INT(1, stat.posinf);
    CHECK_INT(1, stat.neginf);
    CHECK_DOUBLE(3, stat.mean);
    CHECK_DOUBLE(2, stat.m2);
    CHECK_DOUBLE(2, stat.min);
    CHECK_DOUBLE(4, stat.max);
    CHECK_DOUBLE(4, stat.last);
    CHECK_INT(2, stat.bad_class);
    CHECK_INT(97, stat.bad_seq);
    CHECK_INT(12, stat.bad_step);
    CHECK_INT(500, stat.bad_time_ns);
    CHECK_INT(3, stat.bad_epoch);
    CHECK_INT(7, stat.bad_batch);
    CHECK_INT(WHERE.present, stat.bad_present);
}

static void unknown_place(void) {
    advlog_stat stat;
    advlog_stat_init(&stat);
    advlog_stat_add(&stat, -INFINITY);
    CHECK_INT(3, stat.bad_class);
    CHECK_INT(-1, stat.bad_seq);
    CHECK_INT(0, stat.bad_present);
    CHECK(isnan(stat.min));
}

static void merge_keeps_the_earlier_bad_value(void) {
    const stat_where early = {.seq = 5, .time_ns = 100}, late = {.seq = 3, .time_ns = 200};
    advlog_stat a, b, clean;
    advlog_stat_init(&a);
    advlog_stat_init(&b);
    advlog_stat_init(&clean);
    stat_add_at(&a, NAN, &late);
    stat_add_at(&b, INFINITY, &early);
    advlog_stat_merge(&clean, &a);
    CHECK_INT(3, clean.bad_seq);
    advlog_stat_merge(&clean, &b);
    CHECK_INT(5, clean.bad_seq);
    CHECK_INT(2, clean.bad_class);
    advlog_stat_merge(&clean, &a);
    CHECK_INT(5, clean.bad_seq);
    CHECK_INT(2, clean.nan);
    CHECK_INT(1, clean.posinf);
}

/* Differences beyond the range of double: the mean stays a number. */
static void huge_values(void) {
    advlog_stat a, b;
    advlog_stat_init(&a);
    advlog_stat_init(&b);
    for (int i = 0; i < 10; i++) {
        advlog_stat_add(&a, 1.7e308);
        advlog_stat_add(&a, -1.7e308);
        advlog_stat_add(&b, 1.7e308);
    }
    CHECK_INT(20, a.count);
    CHECK(fabs(a.mean) < 1e307 && !isnan(a.m2));
    CHECK_DOUBLE(-1.7e308, a.min);
    CHECK_INT(0, a.bad_class);
    advlog_stat c = a;
    advlog_stat_merge(&c, &b);
    CHECK_NEAR(1.7e308 / 3, c.mean, 0.1);
    CHECK(!isnan(c.m2));
}

int main(void) {
    moments_and_merge();
    no_values();
    nonfinite_values();
    unknown_place();
    merge_keeps_the_earlier_bad_value();
    huge_values();
    return 0;
}
