/* Columns hold, row by row and to the bit, what the spool's records hold, however small the pieces and the buffers. */
#include <math.h>

#include "build_slots.h"

#define NAMES 40
#define COLUMNS 2
#define RECORDS 400

static int32_t column_of[NAMES]; /* ids 1 and 30 are columns 0 and 1, the rest extras */

/* Record r of the spool has these; what is below is computed from them twice, once
 * into slots and once as the expectation. */
static unsigned extras_of(unsigned r) { return r % 5 == 0 ? r % 41 : r % 4; }
static unsigned first_id_of(unsigned r) { return r * 7 % 11; }
static bool extra_missing(unsigned r, unsigned i) { return (r + i) % 13 == 0; }
static double core_of(unsigned r, unsigned i) { return r % 17 == 3 ? NAN : r % 17 == 4 ? -0.0 : (double)r / (i + 1); }
static bool core_given(unsigned r, unsigned i) { return (r + i) % 3 != 0; }
static bool core_missing(unsigned r, unsigned i) { return core_given(r, i) && r % 19 == i; }
static uint32_t has_of(unsigned r) { return r % 2 ? ADVLOG_HAS_EPOCH | ADVLOG_HAS_STEP : ADVLOG_HAS_BATCH | ADVLOG_HAS_TOTAL; }
static int64_t time_of(unsigned r) { return (int64_t)r * 1000003 - 200000000; }

static void add_record(slot_list *list, unsigned r) {
    uint64_t at = slots_add_values(list, r % 2 ? ADVLOG_KIND_BATCH : ADVLOG_KIND_METRICS, time_of(r), extras_of(r),
                                   first_id_of(r), value_of_id);
    advlog_slot *header = &list->slots[at];
    header->present = has_of(r);
    header->epoch = (int32_t)r;
    header->batch = (int32_t)r + 1;
    header->total_batches = (int32_t)r + 2;
    header->step = INT64_MAX - r;
    header->worker = (uint16_t)(r % 3);
    for (unsigned i = 0; i < ADVLOG_CORE_METRICS; i++) {
        header->core[i] = core_of(r, i);
        if (core_given(r, i)) header->present |= 1u << i;
        if (!core_missing(r, i)) continue;
        header->core[i] = unresolved_timeout();
        header->deferred |= (uint16_t)(1u << i);
    }
    for (unsigned i = 0; i < extras_of(r); i++) {
        if (!extra_missing(r, i)) continue;
        if (i < ADVLOG_HEADER_EXTRAS) {
            header->extra[i] = double_of(ADVLOG_UNRESOLVED_KILLED);
            header->deferred |= (uint16_t)(1u << (ADVLOG_CORE_METRICS + i));
        } else {
            unsigned in_parts = i - ADVLOG_HEADER_EXTRAS;
            advlog_slot *slot = header + 1 + in_parts / ADVLOG_PART_EXTRAS;
            slot->more.value[in_parts % ADVLOG_PART_EXTRAS] = double_of(ADVLOG_UNRESOLVED_KILLED);
            slot->deferred |= (uint16_t)(1u << in_parts % ADVLOG_PART_EXTRAS);
        }
    }
}

static void build_spool(slot_list *list) {
    slots_add_spool(list, ADVLOG_STREAM_METRICS, 1, 0, 0);
    for (unsigned r = 0; r < RECORDS; r++) {
        if (r % 50 == 0) slots_add_name(list, r / 50, "name");
        add_record(list, r);
    }
}

static bool bit(const uint8_t *valid, uint64_t i) { return valid == NULL || (valid[i / 8] >> (i % 8) & 1); }

static void check_integer(bool present, int64_t expected, const uint8_t *valid, uint32_t row, int64_t got) {
    CHECK_INT(present, bit(valid, row));
    CHECK_INT(present ? expected : 0, got);
}

static void check_metric(const advlog_columns *columns, int32_t column, uint32_t row, bool present, double expected) {
    const double *values;
    const uint8_t *valid;
    uint64_t nulls = advlog_columns_metric(columns, column, &values, &valid);
    CHECK((nulls == 0) == (valid == NULL));
    CHECK_INT(present, bit(valid, row));
    CHECK_DOUBLE(present ? expected : 0.0, values[row]);
}

static void check_row(const advlog_columns *columns, const advlog_column_buffers *b, uint32_t row, unsigned r) {
    CHECK_INT(7000 + r, b->seq[row]);
    CHECK_INT((int64_t)floor((double)time_of(r) / 1000), b->time_us[row]);
    CHECK_INT(r % 3, b->worker[row]);
    CHECK_INT(r % 2 ? ADVLOG_KIND_BATCH : ADVLOG_KIND_METRICS, b->kind[row]);
    check_integer(has_of(r) & ADVLOG_HAS_EPOCH, (int32_t)r, b->epoch_valid, row, b->epoch[row]);
    check_integer(has_of(r) & ADVLOG_HAS_BATCH, (int32_t)r + 1, b->batch_valid, row, b->batch[row]);
    check_integer(has_of(r) & ADVLOG_HAS_TOTAL, (int32_t)r + 2, b->total_valid, row, b->total_batches[row]);
    check_integer(has_of(r) & ADVLOG_HAS_STEP, INT64_MAX - r, b->step_valid, row, b->step[row]);

    int32_t unresolved = b->unresolved_offsets[row];
    for (unsigned i = 0; i < ADVLOG_CORE_METRICS; i++) {
        check_metric(columns, -1 - (int32_t)i, row, core_given(r, i) && !core_missing(r, i), core_of(r, i));
        if (!core_missing(r, i)) continue;
        CHECK_INT(-1 - (int)i, b->unresolved_ids[unresolved]);
        CHECK_INT(ADVLOG_UNRESOLVED_TIMEOUT, b->unresolved_reasons[unresolved++]);
    }
    int32_t extra = b->extra_offsets[row];
    bool given[COLUMNS] = {false};
    for (unsigned i = 0; i < extras_of(r); i++) {
        unsigned id = first_id_of(r) + i;
        int32_t column = id < NAMES ? column_of[id] : -1;
        bool missing = extra_missing(r, i);
        if (missing) {
            CHECK_INT(id, b->unresolved_ids[unresolved]);
            CHECK_INT(ADVLOG_UNRESOLVED_KILLED, b->unresolved_reasons[unresolved++]);
        }
        if (column >= 0) {
            given[column] = true;
            check_metric(columns, column, row, !missing, value_of_id(id));
        } else {
            CHECK_INT(id, b->extra_ids[extra]);
            CHECK_INT(!missing, bit(b->extra_valid, (uint64_t)extra));
            CHECK_DOUBLE(missing ? 0.0 : value_of_id(id), b->extra_values[extra]);
            extra++;
        }
    }
    for (int32_t column = 0; column < COLUMNS; column++)
        if (!given[column]) check_metric(columns, column, row, false, 0);
    CHECK_INT(extra, b->extra_offsets[row + 1]);
    CHECK_INT(unresolved, b->unresolved_offsets[row + 1]);
}

static void check_nulls(const uint8_t *valid, uint64_t count, uint64_t nulls) {
    uint64_t zeros = 0;
    for (uint64_t i = 0; i < count; i++) zeros += !bit(valid, i);
    CHECK_INT(zeros, nulls);
    CHECK((nulls == 0) == (valid == NULL));
}

static void check_rows(const advlog_columns *columns, unsigned *r) {
    advlog_column_buffers buffers;
    advlog_columns_buffers(columns, &buffers);
    CHECK_INT(0, buffers.extra_offsets[0]);
    check_nulls(buffers.epoch_valid, buffers.rows, buffers.epoch_nulls);
    check_nulls(buffers.batch_valid, buffers.rows, buffers.batch_nulls);
    check_nulls(buffers.total_valid, buffers.rows, buffers.total_nulls);
    check_nulls(buffers.step_valid, buffers.rows, buffers.step_nulls);
    check_nulls(buffers.extra_valid, (uint64_t)buffers.extra_offsets[buffers.rows], buffers.extra_nulls);
    for (int32_t column = -ADVLOG_CORE_METRICS; column < COLUMNS; column++) {
        const double *values;
        const uint8_t *valid;
        uint64_t nulls = advlog_columns_metric(columns, column, &values, &valid);
        check_nulls(valid, buffers.rows, nulls);
    }
    for (uint32_t row = 0; row < buffers.rows; row++) check_row(columns, &buffers, row, (*r)++);
}

/* Feeds `piece` slots, at `shift` bytes from an aligned address, and re-feeds what is left. */
static void round_trip(const slot_list *list, uint32_t capacity, uint64_t piece, size_t shift) {
    advlog_columns *columns = advlog_columns_new(capacity, column_of, NAMES, COLUMNS, 7000);
    char *bytes = malloc(list->count * ADVLOG_SLOT_BYTES + shift);
    CHECK(columns != NULL && bytes != NULL);
    memcpy(bytes + shift, list->slots, list->count * ADVLOG_SLOT_BYTES);
    unsigned seen = 0;
    uint64_t at = 0, length = piece;
    while (at < list->count) {
        if (length > list->count - at) length = list->count - at;
        uint64_t consumed = advlog_columns_feed(columns, bytes + shift + at * ADVLOG_SLOT_BYTES, length);
        CHECK(consumed <= length);
        at += consumed;
        advlog_column_buffers buffers;
        advlog_columns_buffers(columns, &buffers);
        CHECK(buffers.stop == ADVLOG_COLUMNS_FULL || buffers.stop == ADVLOG_COLUMNS_INPUT_END);
        length = piece;
        if (buffers.stop == ADVLOG_COLUMNS_FULL) {
            CHECK_INT(capacity, buffers.rows);
            check_rows(columns, &seen);
            advlog_columns_reset(columns);
        } else if (consumed == 0) {
            length = piece + 255; /* the record is longer than the piece */
        }
    }
    check_rows(columns, &seen);
    CHECK_INT(RECORDS, seen);
    free(bytes);
    advlog_columns_free(columns);
}

static void nothing_null(void) {
    slot_list list = {0};
    slots_add_values(&list, ADVLOG_KIND_BATCH, 0, 1, 5, value_of_id);
    list.slots[0].present = 0x3ff;
    advlog_columns *columns = advlog_columns_new(8, NULL, 0, 0, 0);
    CHECK_INT(1, advlog_columns_feed(columns, list.slots, 1));
    advlog_column_buffers b;
    advlog_columns_buffers(columns, &b);
    CHECK(b.epoch_valid == NULL && b.batch_valid == NULL && b.total_valid == NULL && b.step_valid == NULL &&
          b.extra_valid == NULL);
    CHECK_INT(0, b.epoch_nulls + b.batch_nulls + b.total_nulls + b.step_nulls + b.extra_nulls);
    CHECK_INT(5, b.extra_ids[0]);
    const double *values;
    const uint8_t *valid;
    CHECK_INT(0, advlog_columns_metric(columns, -1, &values, &valid));
    CHECK(valid == NULL && values != NULL);
    CHECK_INT(1, advlog_columns_metric(columns, 0, &values, &valid)); /* there is no such column */
    CHECK(values == NULL);
    CHECK_INT(1, advlog_columns_metric(columns, -7, &values, &valid));
    CHECK(values == NULL);
    advlog_columns_free(columns);
    slots_free(&list);
}

static void bad_arguments(void) {
    const int32_t beyond = 1, below = -2;
    CHECK(advlog_columns_new(0, NULL, 0, 0, 0) == NULL);
    CHECK(advlog_columns_new(8, &beyond, 1, 1, 0) == NULL);
    CHECK(advlog_columns_new(8, &below, 1, 1, 0) == NULL);
    CHECK(advlog_columns_new(8, NULL, ADVLOG_MAX_NAMES + 1, 0, 0) == NULL);
    CHECK(advlog_columns_new(8, NULL, 0, ADVLOG_MAX_NAMES + 1, 0) == NULL);
    advlog_columns_free(NULL);
}

int main(void) {
    for (int id = 0; id < NAMES; id++) column_of[id] = id == 1 ? 0 : id == 30 ? 1 : -1;
    slot_list list = {0};
    build_spool(&list);
    const uint32_t capacities[] = {1, 7, 8, 64, 1000};
    for (size_t i = 0; i < sizeof capacities / sizeof *capacities; i++) {
        round_trip(&list, capacities[i], 1, 0);
        round_trip(&list, capacities[i], 5, 3);
        round_trip(&list, capacities[i], list.count, 0);
    }
    slots_free(&list);
    nothing_null();
    bad_arguments();
    return 0;
}
