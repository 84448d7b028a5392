/* Running statistics: the update that the drain makes for every value. */
#pragma once

#include "compiler.h"

#include <math.h>

/* Which record a value belongs to; `present` says which of its integers are known. */
typedef struct {
    int64_t seq;
    int64_t step;
    int64_t time_ns;
    int32_t epoch;
    int32_t batch;
    uint32_t present; /* ADVLOG_HAS_EPOCH, _BATCH, _STEP */
} stat_where;

/* What the fast path leaves over: a value that is not finite, or one so far
 * from the mean that their difference overflows. */
ADVLOG_COLD void stat_add_rare(advlog_stat *stat, double value, const stat_where *where);

/* Welford's update. `where` is looked at only for a value that is not finite. */
static inline void stat_add_at(advlog_stat *stat, double value, const stat_where *where) {
    double delta = value - stat->mean;
    stat->last = value;
    /* The mean is always finite, so this one test covers value and delta. */
    if (ADVLOG_UNLIKELY(!isfinite(delta))) {
        stat_add_rare(stat, value, where);
        return;
    }
    stat->count++;
    stat->mean += delta / (double)stat->count;
    stat->m2 += delta * (value - stat->mean);
    /* Negated, so that the NaN of "no value yet" gives way. */
    if (!(value >= stat->min)) stat->min = value;
    if (!(value <= stat->max)) stat->max = value;
}
