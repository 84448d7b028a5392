/* Whatever bytes a spool holds, scan and columns neither crash nor disagree: every byte flipped, and random slots. */
#include "build_slots.h"

/* Both passes over `count` slots; what the scan found whole, the columns must read. */
static void read_spool(const void *slots, uint64_t count) {
    advlog_scan *scan = advlog_scan_new();
    CHECK(scan != NULL);
    advlog_scan_feed(scan, slots, count / 2);
    advlog_scan_feed(scan, (const char *)slots + count / 2 * ADVLOG_SLOT_BYTES, count - count / 2);
    advlog_spool_info info;
    advlog_scan_info(scan, &info);
    CHECK(info.slots <= count && info.names <= ADVLOG_MAX_NAMES);
    char name[ADVLOG_MAX_NAME_BYTES];
    for (uint32_t id = 0; id < info.names; id++) CHECK(advlog_scan_name(scan, id, name) <= ADVLOG_MAX_NAME_BYTES);
    advlog_scan_free(scan);

    const int32_t column_of[] = {0, -1, 1};
    advlog_columns *columns = advlog_columns_new(16, column_of, 3, 2, 0);
    CHECK(columns != NULL);
    uint64_t at = 0, rows = 0;
    for (;;) {
        at += advlog_columns_feed(columns, (const char *)slots + at * ADVLOG_SLOT_BYTES, info.slots - at);
        advlog_column_buffers buffers;
        advlog_columns_buffers(columns, &buffers);
        CHECK(buffers.extra_offsets[buffers.rows] >= 0);
        for (uint32_t row = 0; row < buffers.rows; row++) {
            CHECK(buffers.extra_offsets[row] <= buffers.extra_offsets[row + 1]);
            CHECK(buffers.unresolved_offsets[row] <= buffers.unresolved_offsets[row + 1]);
        }
        for (int32_t i = 0; i < buffers.extra_offsets[buffers.rows]; i++) CHECK(buffers.extra_ids[i] < ADVLOG_MAX_NAMES);
        rows += buffers.rows;
        if (buffers.stop != ADVLOG_COLUMNS_FULL) break;
        advlog_columns_reset(columns);
    }
    CHECK_INT(info.slots, at);
    CHECK_INT(info.records, rows);
    /* And without the scan's word for it: all that there is. */
    advlog_columns_reset(columns);
    advlog_columns_feed(columns, slots, count);
    advlog_columns_free(columns);
}

static void build_spool(slot_list *list) {
    slots_add_spool(list, ADVLOG_STREAM_METRICS, 1, 0, 0);
    slots_add_name(list, 1, "one");
    for (unsigned r = 0; r < 3; r++) {
        uint64_t at = slots_add_values(list, ADVLOG_KIND_BATCH, SAMPLE_NS, r * 9, 0, value_of_id);
        list->slots[at].present = 0x3ff;
        list->slots[at].deferred = (uint16_t)(r << 5);
    }
    slots_add_name(list, 2, "a name of more than one slot a name of more than one slot a name of more than one slot a name of more than one slot");
    slots_add_values(list, ADVLOG_KIND_METRICS, SAMPLE_NS, 1, 2, value_of_id);
}

int main(void) {
    slot_list list = {0};
    build_spool(&list);
    uint64_t bytes = list.count * ADVLOG_SLOT_BYTES;
    /* Exactly as large as the spool, so that ASan sees a read past it. */
    uint8_t *copy = malloc(bytes);
    CHECK(copy != NULL);
    static const uint8_t flips[] = {0xff, 0x01, 0x80, 0x10};
    for (uint64_t at = 0; at < bytes; at++) {
        for (size_t i = 0; i < sizeof flips; i++) {
            memcpy(copy, list.slots, bytes);
            copy[at] ^= flips[i];
            read_spool(copy, list.count);
        }
    }
    uint64_t state = 7;
    for (int round = 0; round < 3000; round++) {
        memcpy(copy, list.slots, bytes);
        for (int i = 0; i < 4; i++) copy[next_random(&state) % bytes] = (uint8_t)next_random(&state);
        read_spool(copy, list.count - next_random(&state) % 3);
    }
    for (int round = 0; round < 3000; round++) {
        /* Slots in any order: each is valid, the whole seldom. */
        for (uint64_t i = 0; i < list.count; i++)
            memcpy(copy + i * ADVLOG_SLOT_BYTES, &list.slots[i && round % 2 ? next_random(&state) % list.count : i], ADVLOG_SLOT_BYTES);
        for (uint64_t i = ADVLOG_SLOT_BYTES; round % 2 == 0 && i < bytes; i++) copy[i] = (uint8_t)(next_random(&state) % 18);
        read_spool(copy, list.count);
    }
    free(copy);
    slots_free(&list);
    return 0;
}
