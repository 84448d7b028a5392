/* Second pass over a spool: its records as Arrow buffers, a row each.
 *
 * All that has a fixed size for `capacity` rows lies in one block, allocated
 * once; only the lists of extras and unresolved values grow. The block is zero
 * wherever no value was stored, so an absent value costs nothing: its bit is 0
 * and its cell 0. */
#include "record.h"

#include <limits.h>
#include <stdlib.h>

/* An array of `rows` values that may be absent. */
typedef struct {
    uint8_t *valid;
    uint64_t present;
} presence;

typedef struct {
    double *values;
    presence presence;
} metric_column;

/* A list column's values: some for each row. */
typedef struct {
    int32_t *offsets; /* capacity + 1, in the block */
    int32_t *ids;
    double *values;   /* extras only */
    uint8_t *valid;   /* extras only */
    int32_t *reasons; /* unresolved only */
    uint64_t used;
    uint64_t room;
    uint64_t nulls;
} list_column;

struct advlog_columns {
    uint32_t capacity;
    uint32_t rows;
    uint32_t metrics; /* core metrics first, then the caller's columns */
    uint32_t names;
    int64_t next_seq;
    int32_t stop; /* enum advlog_columns_stop */
    bool begun;   /* a slot was consumed: no SPOOL slot may follow */
    void *block;
    int64_t *time_us;
    int64_t *seq;
    int64_t *step;
    int32_t *worker;
    int32_t *kind;
    int32_t *epoch;
    int32_t *batch;
    int32_t *total_batches;
    presence has_epoch;
    presence has_batch;
    presence has_total;
    presence has_step;
    list_column extra;
    list_column unresolved;
    int32_t column_of[ADVLOG_MAX_NAMES]; /* index into metric, or -1 */
    metric_column metric[ADVLOG_CORE_METRICS + ADVLOG_MAX_NAMES];
    advlog_slot record[UINT8_MAX]; /* the record being read, aligned */
};

/* ---- memory ---- */

#define BUFFER_ALIGN 64 /* what Arrow recommends */
#define LIST_ROOM 1024  /* at first */

static size_t bitmap_bytes(uint64_t bits) { return (bits + 7) / 8; }

/* The next `bytes` of the block at `base`; NULL, and only counted, while there is no block. */
static void *carve(char *base, size_t *used, size_t bytes) {
    void *at = base == NULL ? NULL : base + *used;
    *used += (bytes + BUFFER_ALIGN - 1) / BUFFER_ALIGN * BUFFER_ALIGN;
    return at;
}

/* Gives every fixed array its place; the bytes that all of them take. */
static size_t lay_out(advlog_columns *c, char *base) {
    size_t rows = c->capacity;
    size_t used = 0;
    int64_t **wide[] = {&c->time_us, &c->seq, &c->step};
    int32_t **narrow[] = {&c->worker, &c->kind, &c->epoch, &c->batch, &c->total_batches};
    presence *known[] = {&c->has_epoch, &c->has_batch, &c->has_total, &c->has_step};
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++) *wide[i] = carve(base, &used, rows * sizeof(int64_t));
    for (size_t i = 0; i < sizeof narrow / sizeof *narrow; i++) *narrow[i] = carve(base, &used, rows * sizeof(int32_t));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) known[i]->valid = carve(base, &used, bitmap_bytes(rows));
    c->extra.offsets = carve(base, &used, (rows + 1) * sizeof(int32_t));
    c->unresolved.offsets = carve(base, &used, (rows + 1) * sizeof(int32_t));
    for (uint32_t i = 0; i < c->metrics; i++) {
        c->metric[i].values = carve(base, &used, rows * sizeof(double));
        c->metric[i].presence.valid = carve(base, &used, bitmap_bytes(rows));
    }
    return used;
}

static bool grow(void **array, size_t bytes) {
    void *larger = realloc(*array, bytes);
    if (larger != NULL) *array = larger;
    return larger != NULL;
}

/* Room for `more` entries. Where memory is short, what was there stays. */
static bool list_reserve(list_column *list, uint64_t more, bool of_values) {
    uint64_t need = list->used + more;
    if (need <= list->room) return true;
    uint64_t room = list->room * 2 > need ? list->room * 2 : need;
    if (room < LIST_ROOM) room = LIST_ROOM;
    bool grown = grow((void **)&list->ids, room * sizeof(int32_t));
    if (of_values) {
        grown = grown && grow((void **)&list->values, room * sizeof(double));
        grown = grown && grow((void **)&list->valid, bitmap_bytes(room));
    } else {
        grown = grown && grow((void **)&list->reasons, room * sizeof(int32_t));
    }
    if (grown) list->room = room;
    return grown;
}

advlog_columns *advlog_columns_new(uint32_t capacity, const int32_t *column_of, uint32_t names, uint32_t columns,
                                   int64_t first_seq) {
    if (capacity == 0 || capacity > INT32_MAX || names > ADVLOG_MAX_NAMES || columns > ADVLOG_MAX_NAMES) return NULL;
    advlog_columns *c = calloc(1, sizeof *c);
    if (c == NULL) return NULL;
    c->capacity = capacity;
    c->metrics = ADVLOG_CORE_METRICS + columns;
    c->names = names;
    c->next_seq = first_seq;
    for (uint32_t id = 0; id < names; id++) {
        if (column_of[id] < -1 || column_of[id] >= (int64_t)columns) goto fail;
        c->column_of[id] = column_of[id] < 0 ? -1 : ADVLOG_CORE_METRICS + column_of[id];
    }
    c->block = calloc(1, lay_out(c, NULL));
    if (c->block == NULL) goto fail;
    lay_out(c, c->block);
    if (!list_reserve(&c->extra, 1, true) || !list_reserve(&c->unresolved, 1, false)) goto fail;
    return c;
fail:
    advlog_columns_free(c);
    return NULL;
}

void advlog_columns_free(advlog_columns *columns) {
    if (columns == NULL) return;
    list_column *lists[] = {&columns->extra, &columns->unresolved};
    for (int i = 0; i < 2; i++) {
        free(lists[i]->ids);
        free(lists[i]->values);
        free(lists[i]->valid);
        free(lists[i]->reasons);
    }
    free(columns->block);
    free(columns);
}

static void presence_reset(presence *p, uint32_t rows) {
    memset(p->valid, 0, bitmap_bytes(rows));
    p->present = 0;
}

void advlog_columns_reset(advlog_columns *c) {
    uint32_t rows = c->rows;
    /* time, seq, worker and kind are stored for every row; the rest must be zero. */
    memset(c->step, 0, rows * sizeof *c->step);
    memset(c->epoch, 0, rows * sizeof *c->epoch);
    memset(c->batch, 0, rows * sizeof *c->batch);
    memset(c->total_batches, 0, rows * sizeof *c->total_batches);
    presence_reset(&c->has_epoch, rows);
    presence_reset(&c->has_batch, rows);
    presence_reset(&c->has_total, rows);
    presence_reset(&c->has_step, rows);
    for (uint32_t i = 0; i < c->metrics; i++) {
        if (c->metric[i].presence.present == 0) continue;
        memset(c->metric[i].values, 0, rows * sizeof(double));
        presence_reset(&c->metric[i].presence, rows);
    }
    c->extra.used = c->extra.nulls = 0;
    c->unresolved.used = 0;
    c->rows = 0;
    c->stop = ADVLOG_COLUMNS_INPUT_END;
}

/* ---- rows ---- */

static inline void presence_set(presence *p, uint32_t row) {
    uint8_t bit = (uint8_t)(1u << (row & 7));
    p->present += !(p->valid[row >> 3] & bit);
    p->valid[row >> 3] |= bit;
}

static void add_unresolved(advlog_columns *c, int32_t id, double value) {
    list_column *list = &c->unresolved;
    list->ids[list->used] = id;
    list->reasons[list->used] = (int32_t)record_unresolved(value);
    list->used++;
}

static void add_extra(advlog_columns *c, uint16_t id, double value, bool known) {
    list_column *list = &c->extra;
    uint8_t bit = (uint8_t)(1u << (list->used & 7));
    uint8_t *valid = &list->valid[list->used >> 3];
    if ((list->used & 7) == 0) *valid = 0; /* fresh from realloc, or of rows long gone */
    if (known) *valid |= bit;
    list->nulls += !known;
    list->ids[list->used] = id;
    list->values[list->used] = known ? value : 0;
    list->used++;
}

/* column: index into metric, or -1. id: as `unresolved` names it. */
static inline void add_value(advlog_columns *c, int32_t column, int32_t id, double value, bool deferred) {
    if (ADVLOG_UNLIKELY(deferred)) add_unresolved(c, id, value);
    if (column < 0) {
        add_extra(c, (uint16_t)id, value, !deferred);
    } else if (!deferred) {
        c->metric[column].values[c->rows] = value;
        presence_set(&c->metric[column].presence, c->rows);
    }
}

static void add_integers(advlog_columns *c, const advlog_slot *header) {
    uint32_t row = c->rows;
    c->time_us[row] = header->time_ns / 1000 - (header->time_ns % 1000 < 0);
    c->seq[row] = c->next_seq;
    c->worker[row] = header->worker;
    c->kind[row] = header->kind;
    if (header->present & ADVLOG_HAS_EPOCH) {
        c->epoch[row] = header->epoch;
        presence_set(&c->has_epoch, row);
    }
    if (header->present & ADVLOG_HAS_BATCH) {
        c->batch[row] = header->batch;
        presence_set(&c->has_batch, row);
    }
    if (header->present & ADVLOG_HAS_TOTAL) {
        c->total_batches[row] = header->total_batches;
        presence_set(&c->has_total, row);
    }
    if (header->present & ADVLOG_HAS_STEP) {
        c->step[row] = header->step;
        presence_set(&c->has_step, row);
    }
}

/* The record in c->record as one more row, or why there can be none. */
static int32_t add_row(advlog_columns *c) {
    const advlog_slot *header = c->record;
    const advlog_view view = {header, UINT64_MAX, 0};
    uint64_t values = (uint64_t)header->count + ADVLOG_CORE_METRICS;
    if (c->rows == c->capacity) return ADVLOG_COLUMNS_FULL;
    /* Arrow's offsets are int32. */
    if (c->extra.used + values > INT32_MAX || c->unresolved.used + values > INT32_MAX) return ADVLOG_COLUMNS_FULL;
    if (!list_reserve(&c->extra, values, true) || !list_reserve(&c->unresolved, values, false)) {
        return ADVLOG_COLUMNS_NO_MEMORY;
    }
    add_integers(c, header);
    for (int32_t i = 0; i < ADVLOG_CORE_METRICS; i++) {
        if (header->present >> i & 1) add_value(c, i, -1 - i, header->core[i], header->deferred >> i & 1);
    }
    for (unsigned part = 0; part < header->part; part++) {
        record_extras extras = record_extras_of(&view, part);
        for (unsigned i = 0; i < extras.count; i++) {
            uint16_t id = extras.id[i];
            add_value(c, id < c->names ? c->column_of[id] : -1, id, extras.value[i], extras.deferred >> i & 1);
        }
    }
    c->rows++;
    c->next_seq++;
    c->extra.offsets[c->rows] = (int32_t)c->extra.used;
    c->unresolved.offsets[c->rows] = (int32_t)c->unresolved.used;
    return ADVLOG_COLUMNS_INPUT_END;
}

/* Copies the record at `bytes` to c->record and checks it. Its slots; 0: no whole
 * record is left; -1: damaged. */
static int copy_record(advlog_columns *c, const char *bytes, uint64_t count) {
    advlog_slot *header = c->record;
    memcpy(header, bytes, sizeof *header);
    if (header->kind == ADVLOG_KIND_SPOOL) return c->begun ? -1 : 1;
    unsigned slots = record_slots(header);
    if (slots == 0 || header->kind == ADVLOG_KIND_EVENT) return -1;
    if (slots > count) return 0;
    for (unsigned part = 1; part < slots; part++) {
        advlog_slot *slot = &c->record[part];
        memcpy(slot, bytes + (size_t)part * ADVLOG_SLOT_BYTES, sizeof *slot);
        /* Relaxed: no other thread has these copies. */
        if (load_relaxed(&slot->mark) != load_relaxed(&header->mark) + part) return -1;
        if (!record_continues(header, part, slot)) return -1;
    }
    return (int)slots;
}

uint64_t advlog_columns_feed(advlog_columns *c, const void *slots, uint64_t count) {
    const char *bytes = slots;
    uint64_t consumed = 0;
    c->stop = ADVLOG_COLUMNS_INPUT_END;
    while (consumed < count) {
        int record = copy_record(c, bytes + consumed * ADVLOG_SLOT_BYTES, count - consumed);
        if (record == 0) break;
        if (record < 0) c->stop = ADVLOG_COLUMNS_DAMAGED;
        else if (kind_has_values(c->record->kind)) c->stop = add_row(c);
        if (c->stop != ADVLOG_COLUMNS_INPUT_END) break;
        c->begun = true;
        consumed += (uint64_t)record;
    }
    return consumed;
}

/* ---- what the caller sees ---- */

/* The bitmap as Arrow wants it: none where nothing is null. */
static const uint8_t *bitmap_of(const advlog_columns *c, const presence *p, uint64_t *nulls) {
    *nulls = c->rows - p->present;
    return *nulls == 0 ? NULL : p->valid;
}

void advlog_columns_buffers(const advlog_columns *c, advlog_column_buffers *out) {
    *out = (advlog_column_buffers){
        .rows = c->rows,
        .stop = c->stop,
        .time_us = c->time_us,
        .seq = c->seq,
        .worker = c->worker,
        .kind = c->kind,
        .epoch = c->epoch,
        .batch = c->batch,
        .total_batches = c->total_batches,
        .step = c->step,
        .extra_offsets = c->extra.offsets,
        .extra_ids = c->extra.ids,
        .extra_values = c->extra.values,
        .extra_valid = c->extra.nulls == 0 ? NULL : c->extra.valid,
        .extra_nulls = c->extra.nulls,
        .unresolved_offsets = c->unresolved.offsets,
        .unresolved_ids = c->unresolved.ids,
        .unresolved_reasons = c->unresolved.reasons,
    };
    out->epoch_valid = bitmap_of(c, &c->has_epoch, &out->epoch_nulls);
    out->batch_valid = bitmap_of(c, &c->has_batch, &out->batch_nulls);
    out->total_valid = bitmap_of(c, &c->has_total, &out->total_nulls);
    out->step_valid = bitmap_of(c, &c->has_step, &out->step_nulls);
}

uint64_t advlog_columns_metric(const advlog_columns *c, int32_t column, const double **values, const uint8_t **valid) {
    int64_t index = column < 0 ? -1 - (int64_t)column : ADVLOG_CORE_METRICS + (int64_t)column;
    bool known = column < 0 ? index < ADVLOG_CORE_METRICS : index < c->metrics;
    *values = NULL;
    *valid = NULL;
    if (!known) return c->rows;
    uint64_t nulls;
    *values = c->metric[index].values;
    *valid = bitmap_of(c, &c->metric[index].presence, &nulls);
    return nulls;
}
