/* Both passes over a spool, fed as a test likes, and what they must agree on. */
#pragma once

#include "build_slots.h"

/* The scan's pieces are 0 to `most` slots long, by turns. */
static inline void read_spool(const void *slots, uint64_t count, uint64_t most) {
    advlog_scan *scan = advlog_scan_new();
    CHECK(scan != NULL);
    for (uint64_t at = 0, piece = 0; at < count; at += piece) {
        piece = (piece + 1) % (most + 1);
        if (piece > count - at) piece = count - at;
        advlog_scan_feed(scan, (const char *)slots + at * ADVLOG_SLOT_BYTES, piece);
    }
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
