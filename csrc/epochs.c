#include "epochs.h"

#include "stats.h"

#include <string.h>

static void begin(advlog_epoch *epoch, const advlog_slot *h) {
    *epoch = (advlog_epoch){.epoch = h->epoch, .seen = 1, .first_ns = h->time_ns, .last_ns = h->time_ns};
    advlog_stat_init(&epoch->loss);
    advlog_stat_init(&epoch->accuracy);
}

/* The epoch of the record, first in the list; a record without one belongs to the latest. */
static advlog_epoch *find(epoch_course *course, const advlog_slot *h) {
    advlog_epoch *of = course->of;
    if (!(h->present & ADVLOG_HAS_EPOCH) || (of[0].seen && of[0].epoch == h->epoch)) {
        if (!of[0].seen) begin(&of[0], h);
        return &of[0];
    }
    int at = 1;
    while (at < ADVLOG_EPOCHS - 1 && of[at].seen && of[at].epoch != h->epoch) at++;
    advlog_epoch found = of[at];
    if (!found.seen || found.epoch != h->epoch) begin(&found, h);
    memmove(&of[1], &of[0], (size_t)at * sizeof *of);
    of[0] = found;
    return &of[0];
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* How many batches of its epoch are done with this one. */
static int64_t done(const epoch_course *course, int32_t batch) { return (int64_t)batch + (course->from_zero ? 1 : 0); }

/* For how many batches the record stands: those since the record before. Of the first, and where the numbers begin again, as
 * many as lie between two others, for a training may be resumed within an epoch. */
static int64_t weigh(epoch_course *course, advlog_epoch *epoch, const advlog_slot *h) {
    int of = h->worker != 0;
    bool known = epoch->has_batch[of];
    int64_t since = (int64_t)h->batch - epoch->last_batch[of];
    epoch->has_batch[of] = 1;
    epoch->last_batch[of] = h->batch;
    if (known && since == 0) return 0;
    if (known && since > 0) {
        /* The first one was counted as one batch while the stride was not known. */
        if (course->stride == 0 && epoch->batches == 1) {
            int64_t first = least(done(course, h->batch - (int32_t)since), since);
            double more = first > 1 ? (double)first : 1;
            epoch->batches = epoch->first_batches = (uint64_t)more;
            epoch->samples *= more;
            epoch->tokens *= more;
        }
        course->stride = (int32_t)least(since, INT32_MAX);
        epoch->moved = 1;
        return since;
    }
    if (known) epoch->moved = 1;
    int64_t first = least(done(course, h->batch), course->stride);
    return first > 1 ? first : 1;
}

advlog_epoch *epochs_add(epoch_course *course, const advlog_slot *h) {
    advlog_epoch *epoch = find(course, h);
    bool has_batch = h->present & ADVLOG_HAS_BATCH;
    if (has_batch && h->batch == 0) course->from_zero = true;
    course->weight = has_batch ? (uint64_t)weigh(course, epoch, h) : 1;
    if (epoch->records == 0) epoch->first_batches = course->weight;
    epoch->records++;
    epoch->batches += course->weight;
    epoch->last_ns = h->time_ns;
    /* What the last records leave out: less than a stride, before the end. */
    epoch->left = 0;
    if (has_batch && (h->present & ADVLOG_HAS_TOTAL) && h->worker == 0) {
        int64_t left = (int64_t)h->total_batches - done(course, h->batch);
        if (left > 0 && left < course->stride) epoch->left = (uint64_t)left;
    }
    return epoch;
}

void epochs_move(epoch_course *course, int64_t ns) {
    for (int i = 0; i < ADVLOG_EPOCHS; i++) {
        /* Unsigned: a damaged ring may hold any time. */
        course->of[i].first_ns = (int64_t)((uint64_t)course->of[i].first_ns + (uint64_t)ns);
        course->of[i].last_ns = (int64_t)((uint64_t)course->of[i].last_ns + (uint64_t)ns);
    }
}
