/* The byte layout of a slot: the fixed 128-byte cell of the ring and of a spool.
 *
 * A record is a header slot and, where it does not fit, continuation slots at
 * the positions right after it. All integers are little-endian (asserted in
 * ring.c), all floats IEEE-754 binary64.
 *
 *   every slot            0        8     9     10      12        14
 *                         | mark   |kind |part | count |deferred | level |
 *                           u64     u8    u8     u16     u16       u16
 *
 *   header (values)      16        24        28      32      36       40
 *                         |time_ns |present  |epoch  |batch  |total   |step   |
 *                           i64      u32       i32     i32     i32      i64
 *                        48                 96              120           126
 *                         | core[6]         | extra[3]      |extra_id[3]  |worker|
 *                           f64               f64             u16           u16
 *
 *   continuation (values) 16                                104           126
 *                         | value[11]                       |id[11]       |unused|
 *                           f64                               u16           u16
 *
 *   continuation (text)   16
 *                         | text[112], UTF-8, the pieces of one text in order  |
 *
 * mark      position + 1, stored with release once the payload is complete
 * part      header: slots in the record, 1..255; continuation: its index, 1..
 * count     header: extras in the record (values) or bytes of text (text);
 *           continuation: values or bytes in this slot
 * deferred  bit i: value i of this slot (header: core 0-5, extra 6-8) is not a
 *           number but a reference into the slab that an accelerator fills, or,
 *           once that is given up, an advlog_unresolved; in a spool always that
 * level     of a text, on the scale of Python's logging (INFO is 20)
 * present   bit i: core metric i was given; bits ADVLOG_HAS_*: the integers
 * worker    0 for the process itself; set by the drain for a child's record
 *
 * A text's header slot leaves bytes 24-127 unused but time_ns and worker. */
#pragma once

#include "atomics.h"

typedef struct {
    atomic_u64 mark;
    uint8_t kind;
    uint8_t part;
    uint16_t count;
    uint16_t deferred;
    uint16_t level;
    union {
        struct {
            int64_t time_ns;
            uint32_t present;
            int32_t epoch;
            int32_t batch;
            int32_t total_batches;
            int64_t step;
            double core[ADVLOG_CORE_METRICS];
            double extra[ADVLOG_HEADER_EXTRAS];
            uint16_t extra_id[ADVLOG_HEADER_EXTRAS];
            uint16_t worker;
        };
        struct {
            double value[ADVLOG_PART_EXTRAS];
            uint16_t id[ADVLOG_PART_EXTRAS];
            uint16_t unused;
        } more;
        char text[ADVLOG_PART_TEXT];
    };
} advlog_slot;

_Static_assert(sizeof(advlog_slot) == ADVLOG_SLOT_BYTES, "a slot is 128 bytes");
_Static_assert(offsetof(advlog_slot, time_ns) == 16, "the common part is 16 bytes");
_Static_assert(offsetof(advlog_slot, present) == 24 && offsetof(advlog_slot, step) == 40, "integers at 24");
_Static_assert(offsetof(advlog_slot, core) == 48 && offsetof(advlog_slot, extra) == 96, "metrics at 48 and 96");
_Static_assert(offsetof(advlog_slot, extra_id) == 120 && offsetof(advlog_slot, worker) == 126, "ids at 120");
_Static_assert(offsetof(advlog_slot, more.id) == 104, "continuation ids at 104");

/* One record in an array of slots, wherever it lies: in the ring (mask = slots - 1)
 * or in a spool read into memory (mask = UINT64_MAX). */
typedef struct {
    const advlog_slot *slots;
    uint64_t mask;
    uint64_t pos;
} advlog_view;

/* Slot `part` of the record: 0 is its header. */
static inline const advlog_slot *view_slot(const advlog_view *v, unsigned part) { return &v->slots[(v->pos + part) & v->mask]; }
