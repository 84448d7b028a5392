/* Running statistics of metrics: moments with merge, and a quantile sketch. */
#include "stats.h"

/* gamma = 1.01 / 0.99: the middle of a bucket is within 1 % of all it holds. */
#define SKETCH_GAMMA (1.01 / 0.99)
#define SKETCH_LOG_GAMMA 0.020000666706669524
/* ceil(log(1e-9) / log(gamma)): the exponent of the first bucket's upper bound. */
#define SKETCH_FIRST (-1036)

void advlog_stat_init(advlog_stat *stat) { *stat = (advlog_stat){.min = NAN, .max = NAN, .last = NAN, .bad_seq = -1}; }

void stat_add_rare(advlog_stat *stat, double value, const stat_where *where) {
    if (isfinite(value)) {
        double n = (double)++stat->count;
        stat->mean = stat->mean * ((n - 1) / n) + value / n;
        stat->m2 = INFINITY; /* the square of such a distance is no double */
        if (!(value >= stat->min)) stat->min = value;
        if (!(value <= stat->max)) stat->max = value;
        return;
    }
    int class = isnan(value) ? ADVLOG_NAN : value > 0 ? ADVLOG_POSINF : ADVLOG_NEGINF;
    if (class == ADVLOG_NAN) stat->nan++;
    else if (class == ADVLOG_POSINF) stat->posinf++;
    else stat->neginf++;
    if (stat->bad_class != 0) return;
    stat->bad_class = class;
    stat->bad_seq = where->seq;
    stat->bad_step = where->step;
    stat->bad_time_ns = where->time_ns;
    stat->bad_epoch = where->epoch;
    stat->bad_batch = where->batch;
    stat->bad_present = where->present;
}

void advlog_stat_add(advlog_stat *stat, double value) {
    static const stat_where unknown = {.seq = -1};
    stat_add_at(stat, value, &unknown);
}

static void merge_moments(advlog_stat *into, const advlog_stat *other) {
    if (other->count == 0) return;
    double a = (double)into->count;
    double b = (double)other->count;
    double delta = other->mean - into->mean;
    if (into->count == 0) {
        into->mean = other->mean;
        into->m2 = other->m2;
    } else if (isfinite(delta)) {
        into->mean += delta * (b / (a + b));
        into->m2 += other->m2 + delta * delta * (a / (a + b) * b);
    } else {
        into->mean = into->mean * (a / (a + b)) + other->mean * (b / (a + b));
        into->m2 = INFINITY;
    }
    into->count += other->count;
    if (!(other->min >= into->min)) into->min = other->min;
    if (!(other->max <= into->max)) into->max = other->max;
}

void advlog_stat_merge(advlog_stat *into, const advlog_stat *other) {
    const advlog_stat from = *other; /* `other` may be `into` itself */
    if (from.count + from.nan + from.posinf + from.neginf == 0) return;
    merge_moments(into, &from);
    into->last = from.last;
    into->nan += from.nan;
    into->posinf += from.posinf;
    into->neginf += from.neginf;
    if (from.bad_class != 0 && (into->bad_class == 0 || from.bad_time_ns < into->bad_time_ns)) {
        into->bad_class = from.bad_class;
        into->bad_seq = from.bad_seq;
        into->bad_step = from.bad_step;
        into->bad_time_ns = from.bad_time_ns;
        into->bad_epoch = from.bad_epoch;
        into->bad_batch = from.bad_batch;
        into->bad_present = from.bad_present;
    }
}

void advlog_sketch_add(advlog_sketch *sketch, double value) {
    if (ADVLOG_UNLIKELY(!isfinite(value))) return;
    sketch->count++;
    if (value <= 0) {
        if (value < 0) sketch->below++;
        else sketch->zero++;
        return;
    }
    /* A finite positive double has |log| < 746, so the index is a small int. */
    int index = (int)ceil(log(value) * (1 / SKETCH_LOG_GAMMA)) - SKETCH_FIRST;
    if (index < 0) sketch->tiny++;
    else if (index >= ADVLOG_SKETCH_BUCKETS) sketch->above++;
    else sketch->bucket[index]++;
}

void advlog_sketch_add_all(advlog_sketch *sketch, const double *values, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) advlog_sketch_add(sketch, values[i]);
}

void advlog_sketch_merge(advlog_sketch *into, const advlog_sketch *other) {
    into->count += other->count;
    into->below += other->below;
    into->zero += other->zero;
    into->tiny += other->tiny;
    into->above += other->above;
    for (int i = 0; i < ADVLOG_SKETCH_BUCKETS; i++) into->bucket[i] += other->bucket[i];
}

double advlog_sketch_quantile(const advlog_sketch *sketch, double q) {
    if (sketch->count == 0 || isnan(q)) return NAN;
    q = q < 0 ? 0 : q > 1 ? 1 : q;
    double nearest = ceil(q * (double)sketch->count);
    uint64_t rank = nearest > 1 ? (uint64_t)nearest : 1; /* counted from 1 */
    uint64_t up_to = sketch->below;
    if (rank <= up_to) return NAN;
    if (rank <= (up_to += sketch->zero)) return 0;
    if (rank <= (up_to += sketch->tiny)) return NAN;
    for (int i = 0; i < ADVLOG_SKETCH_BUCKETS; i++)
        if (rank <= (up_to += sketch->bucket[i])) return 2 * exp((SKETCH_FIRST + i) * SKETCH_LOG_GAMMA) / (SKETCH_GAMMA + 1);
    return NAN;
}
