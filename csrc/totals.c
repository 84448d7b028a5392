#include "totals.h"

#include <stdlib.h>

bool totals_init(running_totals *t, uint64_t position) {
    memset(t, 0, sizeof *t);
    t->sum.position = position;
    for (int i = 0; i < ADVLOG_CORE_METRICS; i++) {
        advlog_stat_init(&t->sum.core[i]);
        advlog_stat_init(&t->sum.system_core[i]);
    }
    advlog_stat_init(&t->sum.step_interval);
    t->epochs.of = t->sum.epoch;
    t->samples_id = t->tokens_id = -1;
    for (int stream = 0; stream < 2; stream++) {
        t->named[stream] = malloc(ADVLOG_MAX_NAMES * sizeof(advlog_stat));
        if (!t->named[stream]) return false;
    }
    return true;
}

void totals_free(running_totals *t) {
    free(t->named[0]);
    free(t->named[1]);
}

static void add_amount(const running_totals *t, double *of_batches, double *logged, double value) {
    if (!__builtin_isfinite(value)) return;
    *of_batches += value * (double)t->epochs.weight;
    *logged += value;
}

static bool is_name(advlog_ring *ring, uint32_t id, const char *wanted) {
    char name[ADVLOG_MAX_NAME_BYTES];
    int bytes = advlog_name_get(ring, id, name);
    return bytes >= 0 && (size_t)bytes == strlen(wanted) && memcmp(name, wanted, (size_t)bytes) == 0;
}

void totals_names(running_totals *t, advlog_ring *ring) {
    for (uint32_t count = names_count(ring); t->sum.names < count; t->sum.names++) {
        uint32_t id = t->sum.names;
        advlog_stat_init(&t->named[0][id]);
        advlog_stat_init(&t->named[1][id]);
        if (is_name(ring, id, "samples")) t->samples_id = (int32_t)id;
        if (is_name(ring, id, "tokens")) t->tokens_id = (int32_t)id;
    }
}

/* Whether `value` is the first of its metric that is not finite. */
static bool add(advlog_stat *stat, double value, const stat_where *where) {
    bool unseen = stat->bad_class == 0;
    stat_add_at(stat, value, where);
    return unseen && stat->bad_class != 0;
}

/* The statistics of each core metric that the record has. times: the sketches of batch_time and data_time. */
static bool add_core(advlog_stat *stats, advlog_sketch *times, const advlog_slot *h, const stat_where *where) {
    bool first = false;
    uint32_t given = h->present & ~(uint32_t)h->deferred & ((1u << ADVLOG_CORE_METRICS) - 1);
    for (uint32_t left = given; left; left &= left - 1) {
        int i = __builtin_ctz(left);
        first |= add(&stats[i], h->core[i], where);
    }
    if (given & (1u << ADVLOG_BATCH_TIME)) advlog_sketch_add(&times[0], h->core[ADVLOG_BATCH_TIME]);
    if (given & (1u << ADVLOG_DATA_TIME)) advlog_sketch_add(&times[1], h->core[ADVLOG_DATA_TIME]);
    return first;
}

static advlog_epoch *add_batch(running_totals *t, const advlog_slot *h) {
    advlog_totals *sum = &t->sum;
    bool has_epoch = h->present & ADVLOG_HAS_EPOCH;
    advlog_epoch *epoch = epochs_add(&t->epochs, h);

    /* A child's records come at other times than its parent's; between two epochs lies a validation. */
    int of = h->worker != 0;
    bool follows =
        t->previous_ns[of] != 0 && (!has_epoch || t->previous_epoch == h->epoch) && !t->jumps_now && !t->spans_jump[of];
    if (!(h->present & (1u << ADVLOG_BATCH_TIME)) && follows && h->time_ns >= t->previous_ns[of]) {
        /* Unsigned: between two times that a damaged ring holds, int64 may not reach. */
        double interval = (double)((uint64_t)h->time_ns - (uint64_t)t->previous_ns[of]) * 1e-9;
        advlog_stat_add(&sum->step_interval, interval);
        advlog_sketch_add(&sum->sketch[ADVLOG_SKETCH_STEP_INTERVAL], interval);
    }
    t->spans_jump[of] = false;
    t->previous_ns[of] = h->time_ns;
    if (has_epoch) t->previous_epoch = h->epoch;
    return epoch;
}

/* Where the training stands, as the latest record says it. */
static void add_place(running_totals *t, const advlog_slot *h) {
    advlog_totals *sum = &t->sum;
    sum->last_ns = h->time_ns;
    /* A child may log under numbers of its own: they count where the process itself says nothing. */
    if (h->worker != 0 && t->has_own_place) return;
    if (h->worker == 0 && !t->has_own_place) {
        t->has_own_place = true;
        sum->last_present = 0; /* what a child said before counts no more */
    }
    if (h->present & ADVLOG_HAS_STEP && (!(sum->last_present & ADVLOG_HAS_STEP) || h->step > sum->max_step))
        sum->max_step = h->step;
    sum->last_present |= h->present & (ADVLOG_HAS_EPOCH | ADVLOG_HAS_BATCH | ADVLOG_HAS_TOTAL | ADVLOG_HAS_STEP);
    if (h->present & ADVLOG_HAS_EPOCH) sum->last_epoch = h->epoch;
    if (h->present & ADVLOG_HAS_BATCH) sum->last_batch = h->batch;
    if (h->present & ADVLOG_HAS_TOTAL) sum->last_total = h->total_batches;
    if (h->present & ADVLOG_HAS_STEP) sum->last_step = h->step;
}

static bool add_metrics_record(running_totals *t, const advlog_slot *h, const stat_where *where) {
    advlog_totals *sum = &t->sum;
    uint32_t given = h->present & ~(uint32_t)h->deferred;
    bool first = add_core(sum->core, &sum->sketch[ADVLOG_SKETCH_BATCH_TIME], h, where);
    if (h->kind == ADVLOG_KIND_BATCH) {
        advlog_epoch *epoch = add_batch(t, h);
        if (given & (1u << ADVLOG_LOSS)) stat_add_at(&epoch->loss, h->core[ADVLOG_LOSS], where);
        if (given & (1u << ADVLOG_ACCURACY)) stat_add_at(&epoch->accuracy, h->core[ADVLOG_ACCURACY], where);
    }
    add_place(t, h);
    return first;
}

/* The statistics of each metric beyond the core ones. */
static bool add_named(running_totals *t, const advlog_view *view, int stream, const stat_where *where) {
    const advlog_slot *h = view_slot(view, 0);
    advlog_totals *sum = &t->sum;
    advlog_stat *named = t->named[stream];
    advlog_epoch *epoch = &sum->epoch[0]; /* that of this record, if it is a batch */
    bool first = false;
    for (unsigned part = 0; part < h->part; part++) {
        record_extras extras = record_extras_of(view, part);
        for (unsigned i = 0; i < extras.count; i++) {
            if (extras.id[i] >= sum->names || extras.deferred >> i & 1) continue;
            first |= add(&named[extras.id[i]], extras.value[i], where);
            if (h->kind != ADVLOG_KIND_BATCH) continue;
            if (extras.id[i] == t->samples_id) add_amount(t, &epoch->samples, &epoch->logged_samples, extras.value[i]);
            if (extras.id[i] == t->tokens_id) add_amount(t, &epoch->tokens, &epoch->logged_tokens, extras.value[i]);
        }
    }
    return first;
}

/* By their reasons, the values that never came. */
static ADVLOG_COLD void add_unresolved(advlog_totals *sum, const advlog_view *view) {
    const advlog_slot *h = view_slot(view, 0);
    for (unsigned i = 0; i < ADVLOG_CORE_METRICS; i++)
        if (h->present & h->deferred & 1u << i) sum->unresolved[record_unresolved(h->core[i])]++;
    for (unsigned part = 0; part < h->part; part++) {
        record_extras extras = record_extras_of(view, part);
        for (unsigned i = 0; i < extras.count; i++)
            if (extras.deferred >> i & 1) sum->unresolved[record_unresolved(extras.value[i])]++;
    }
}

bool totals_add(running_totals *t, const advlog_view *view) {
    const advlog_slot *h = view_slot(view, 0);
    advlog_totals *sum = &t->sum;
    int stream = kind_stream(h->kind);
    if (stream < 0) return false;
    uint64_t seq = ++sum->records[stream];
    if (stream == ADVLOG_STREAM_EVENTS) return false;
    if (ADVLOG_UNLIKELY(record_defers(view))) add_unresolved(sum, view);

    stat_where where = {
        .seq = (int64_t)seq, .step = h->step, .time_ns = h->time_ns, .epoch = h->epoch, .batch = h->batch, .present = h->present};
    bool first = stream == ADVLOG_STREAM_METRICS
                     ? add_metrics_record(t, h, &where)
                     : add_core(sum->system_core, &sum->sketch[ADVLOG_SKETCH_SYSTEM_BATCH_TIME], h, &where);
    return (h->count && add_named(t, view, stream, &where)) || first;
}

#define JUMP_NS 500000000

void totals_look_at_clock(running_totals *t) {
    int64_t now = advlog_wall_ns() - advlog_boot_ns();
    int64_t moved = now - t->clock_ns;
    t->jumps_now = t->clock_ns != 0 && (moved > JUMP_NS || moved < -JUMP_NS);
    t->clock_ns = now;
    if (!t->jumps_now) return;
    epochs_move(&t->epochs, moved);
    /* Not yet reported, a former one is of the same records or of those just before. */
    int64_t before = t->jump.kind ? t->jump.moved_ns : 0;
    int64_t first = t->jump.kind ? t->jump.first_seq : (int64_t)t->sum.records[ADVLOG_STREAM_METRICS] + 1;
    t->jump = (advlog_finding){.kind = ADVLOG_FINDING_CLOCK, .moved_ns = before + moved, .first_seq = first};
}

bool totals_end_pass(running_totals *t) {
    if (!t->jumps_now) return false;
    /* It may also lie behind the last of them. */
    t->jumps_now = false;
    t->spans_jump[0] = t->spans_jump[1] = true;
    t->jump.last_seq = (int64_t)t->sum.records[ADVLOG_STREAM_METRICS] + 1;
    return true;
}

static bool is_new_finding(const advlog_stat *stat, bool reported) { return stat->bad_class != 0 && !reported; }

bool totals_next_finding(running_totals *t, advlog_finding *out) {
    if (t->jump.kind) {
        *out = t->jump;
        t->jump.kind = 0;
        return true;
    }
    *out = (advlog_finding){.kind = ADVLOG_FINDING_NONFINITE, .stream = ADVLOG_STREAM_METRICS};
    for (int i = 0; i < ADVLOG_CORE_METRICS; i++) {
        if (!is_new_finding(&t->sum.core[i], t->core_reported[i])) continue;
        t->core_reported[i] = true;
        out->metric = -1 - i;
        out->stat = t->sum.core[i];
        return true;
    }
    /* From where the latest was found: many metrics may cease to be finite at once. */
    for (uint32_t looked = 0; looked < t->sum.names; looked++) {
        uint32_t id = t->next_name < t->sum.names ? t->next_name : 0;
        t->next_name = id + 1;
        uint64_t bit = UINT64_C(1) << id % 64;
        if (!is_new_finding(&t->named[ADVLOG_STREAM_METRICS][id], t->name_reported[id / 64] & bit)) continue;
        t->name_reported[id / 64] |= bit;
        out->metric = (int32_t)id;
        out->stat = t->named[ADVLOG_STREAM_METRICS][id];
        return true;
    }
    return false;
}
