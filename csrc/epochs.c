#include "epochs.h"

#include "stats.h"

#include <string.h>

static void begin(advlog_epoch *epoch, const advlog_slot *h, int32_t total) {
    *epoch = (advlog_epoch){.epoch = h->epoch, .seen = 1, .total = total, .first_ns = h->time_ns, .last_ns = h->time_ns};
    advlog_stat_init(&epoch->loss);
    advlog_stat_init(&epoch->accuracy);
}

static bool has_number(const advlog_epoch *epoch, const advlog_slot *h) { return epoch->seen && epoch->epoch == h->epoch; }

/* Whether the record is the next of an epoch whose total it does not have: a stream may bring another total with each batch. */
static bool goes_on(const epoch_course *course, const advlog_epoch *epoch, const advlog_slot *h) {
    int who = h->worker != 0;
    int64_t since = (int64_t)h->batch - epoch->last_batch[who];
    if (!has_number(epoch, h) || !(h->present & ADVLOG_HAS_BATCH) || !epoch->has_batch[who]) return false;
    return since > 0 && (course->stride == 0 || since <= course->stride);
}

/* Where the epoch of a record stands in the list; ADVLOG_EPOCHS where it is a new one. An evaluation within an epoch has its
 * number and another total, and counts from its start again. */
static int place(const epoch_course *course, const advlog_slot *h, int32_t total) {
    const advlog_epoch *of = course->of;
    for (int at = 0; at < ADVLOG_EPOCHS; at++)
        if (has_number(&of[at], h) && of[at].total == total) return at;
    for (int at = 0; at < ADVLOG_EPOCHS; at++)
        if (goes_on(course, &of[at], h)) return at;
    for (int at = 0; at < ADVLOG_EPOCHS && total < 0; at++)
        if (has_number(&of[at], h)) return at;
    return ADVLOG_EPOCHS;
}

/* The epoch of the record, which then stands first; begun where it is a new one. A record without one belongs to the latest. */
static advlog_epoch *touch(epoch_course *course, const advlog_slot *h) {
    advlog_epoch *of = course->of;
    int32_t total = h->present & ADVLOG_HAS_TOTAL ? h->total_batches : -1;
    int at = h->present & ADVLOG_HAS_EPOCH ? place(course, h, total) : 0;
    if (at > 0) {
        bool is_new = at == ADVLOG_EPOCHS;
        if (is_new) at--; /* the one that was used longest ago goes */
        advlog_epoch found = of[at];
        course->has_earlier = of[0].seen;
        memmove(&of[1], &of[0], (size_t)at * sizeof *of);
        of[0] = found;
        if (is_new) of[0].seen = 0;
    }
    if (!of[0].seen) begin(&of[0], h, total);
    if (total >= 0) of[0].total = total;
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

/* Whether the record is the first one behind the batch from which the process goes on. */
static bool goes_on_behind(const epoch_course *course, const advlog_epoch *epoch, const advlog_slot *h) {
    if (!course->resumed || course->has_earlier || epoch->records > 0) return false;
    return epoch->epoch == course->resumed_epoch && epoch->total == course->resumed_total && h->batch > course->resumed_batch;
}

/* Whether the process logs the epoch from its start. */
static bool is_whole(const epoch_course *course, const advlog_epoch *epoch) {
    return course->has_earlier || (course->resumed && epoch->epoch > course->resumed_epoch);
}

static int64_t take_batch(epoch_course *course, advlog_epoch *epoch, const advlog_slot *h) {
    int who = h->worker != 0;
    bool known = epoch->has_batch[who];
    int64_t before = epoch->last_batch[who], since = (int64_t)h->batch - before;
    epoch->has_batch[who] = 1;
    epoch->last_batch[who] = h->batch;
    if (!known && who == 0 && goes_on_behind(course, epoch, h)) {
        epoch->moved = 1;
        return (int64_t)h->batch - course->resumed_batch;
    }
    if (!known) return weigh_first(course, h->batch, is_whole(course, epoch) && who == 0);
    if (since > 0) return weigh_next(course, epoch, since, before);
    if (since == 0) return 0;
    epoch->moved = 1;
    epoch->latest_stride = 0;
    return weigh_first(course, h->batch, false);
}

advlog_epoch *epochs_add(epoch_course *course, const advlog_slot *h) {
    bool has_batch = h->present & ADVLOG_HAS_BATCH;
    if (has_batch && h->batch == 0) course->from_zero = true;
    advlog_epoch *epoch = touch(course, h);
    uint64_t weight = has_batch ? (uint64_t)take_batch(course, epoch, h) : 1;
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

void epochs_resume(epoch_course *course, int32_t epoch, int32_t batch, int32_t total) {
    course->resumed = true;
    course->resumed_epoch = epoch;
    course->resumed_batch = batch;
    course->resumed_total = total;
}

void epochs_move(epoch_course *course, int64_t ns) {
    for (int i = 0; i < ADVLOG_EPOCHS; i++) {
        /* Unsigned: a damaged ring may hold any time. */
        course->of[i].first_ns = (int64_t)((uint64_t)course->of[i].first_ns + (uint64_t)ns);
        course->of[i].last_ns = (int64_t)((uint64_t)course->of[i].last_ns + (uint64_t)ns);
    }
}
