#include "epochs.h"

#include "stats.h"

#include <string.h>

static void begin(advlog_epoch *epoch, const advlog_slot *h, int32_t total) {
    *epoch = (advlog_epoch){.epoch = h->epoch, .seen = 1, .total = total, .first_ns = h->time_ns, .last_ns = h->time_ns};
    advlog_stat_init(&epoch->loss);
    advlog_stat_init(&epoch->accuracy);
}

static bool is_of(const advlog_epoch *epoch, const advlog_slot *h, int32_t total) {
    return epoch->seen && epoch->epoch == h->epoch && (epoch->total == total || total < 0);
}

/* The epoch of the record, first in the list; a record without one belongs to the latest. An evaluation within an epoch has
 * its number, and another total. */
static advlog_epoch *find(epoch_course *course, const advlog_slot *h) {
    advlog_epoch *of = course->of;
    int32_t total = h->present & ADVLOG_HAS_TOTAL ? h->total_batches : -1;
    if (!(h->present & ADVLOG_HAS_EPOCH) || is_of(&of[0], h, total)) {
        if (!of[0].seen) begin(&of[0], h, total);
        return &of[0];
    }
    int at = 1;
    while (at < ADVLOG_EPOCHS - 1 && of[at].seen && !is_of(&of[at], h, total)) at++;
    advlog_epoch found = of[at];
    course->began_here = of[0].seen;
    if (!is_of(&found, h, total)) begin(&found, h, total);
    memmove(&of[1], &of[0], (size_t)at * sizeof *of);
    of[0] = found;
    return &of[0];
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* How many batches of its epoch are done with this one. */
static int64_t done(const epoch_course *course, int64_t batch) { return batch + (course->from_zero ? 1 : 0); }

/* The first record of an epoch stands for all batches up to it. Not that of the process's first epoch, which may be resumed in
 * its middle, and not where the numbers begin again: these stand for as many as lie between two others. */
static int64_t weigh_first(const epoch_course *course, int64_t batch, bool whole) {
    int64_t up_to = done(course, batch);
    int64_t first = whole ? up_to : least(up_to, course->stride);
    return first > 1 ? first : 1;
}

/* A record stands for the batches since the one before, unless that is further than two others lie apart: several threads may
 * log one epoch. What comes twice in a row is how far they do. */
static int64_t weigh_next(epoch_course *course, advlog_epoch *epoch, int64_t since, int64_t before) {
    int64_t weight = least(since, course->stride);
    if (course->stride == 0) {
        /* Until now the first one counted as one batch. */
        int64_t first = least(done(course, before), since);
        if (epoch->batches == 1 && first > 1) {
            epoch->batches = epoch->first_batches = (uint64_t)first;
            epoch->samples *= (double)first;
            epoch->tokens *= (double)first;
        }
        course->stride = (int32_t)least(since, INT32_MAX);
        weight = since;
    } else if (since != course->stride && since == epoch->latest_stride) {
        weight = since + (since > course->stride ? since - course->stride : 0);
        course->stride = (int32_t)least(since, INT32_MAX);
    }
    epoch->latest_stride = (int32_t)least(since, INT32_MAX);
    epoch->moved = 1;
    return weight;
}

static int64_t weigh(epoch_course *course, advlog_epoch *epoch, const advlog_slot *h) {
    int of = h->worker != 0;
    bool known = epoch->has_batch[of];
    int64_t before = epoch->last_batch[of], since = (int64_t)h->batch - before;
    epoch->has_batch[of] = 1;
    epoch->last_batch[of] = h->batch;
    if (!known) return weigh_first(course, h->batch, course->began_here && of == 0);
    if (since > 0) return weigh_next(course, epoch, since, before);
    if (since == 0) return 0;
    epoch->moved = 1;
    epoch->latest_stride = 0;
    return weigh_first(course, h->batch, false);
}

advlog_epoch *epochs_add(epoch_course *course, const advlog_slot *h) {
    bool has_batch = h->present & ADVLOG_HAS_BATCH;
    if (has_batch && h->batch == 0) course->from_zero = true;
    advlog_epoch *epoch = find(course, h);
    uint64_t weight = has_batch ? (uint64_t)weigh(course, epoch, h) : 1;
    /* What is logged again of a batch has samples of its own. */
    course->weight = weight ? weight : 1;
    if (epoch->records == 0) {
        epoch->first_batches = weight;
        epoch->moved = weight > 1;
    }
    epoch->records++;
    epoch->batches += weight;
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
