/* What a record's slots hold, read one slot at a time. Slots that a disk or a
 * dead process may have damaged are checked here before use. */
#pragma once

#include "ring.h"

/* The values beyond the core metrics that one slot holds. */
typedef struct {
    const double *value;
    const uint16_t *id;
    unsigned count;
    unsigned deferred; /* bit i: value[i] never came; its bits are an advlog_unresolved */
} record_extras;

/* The extras in slot `part` of a record, 0 being its header. A damaged count is
 * cut to what a slot can hold. */
static inline record_extras record_extras_of(const advlog_view *view, unsigned part) {
    const advlog_slot *slot = view_slot(view, part);
    if (part == 0) {
        unsigned count = slot->count < ADVLOG_HEADER_EXTRAS ? slot->count : ADVLOG_HEADER_EXTRAS;
        return (record_extras){slot->extra, slot->extra_id, count, (unsigned)slot->deferred >> ADVLOG_CORE_METRICS};
    }
    unsigned count = slot->count < ADVLOG_PART_EXTRAS ? slot->count : ADVLOG_PART_EXTRAS;
    return (record_extras){slot->more.value, slot->more.id, count, slot->deferred};
}

/* Why a value that never came is missing; 0 where its bits name no reason. */
static inline unsigned record_unresolved(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits <= ADVLOG_UNRESOLVED_KILLED ? (unsigned)bits : 0;
}

static inline bool kind_has_values(unsigned kind) { return kind >= ADVLOG_KIND_BATCH && kind <= ADVLOG_KIND_PERFORMANCE; }

/* Whether a value of the record is still to come, or never came. */
static inline bool record_defers(const advlog_view *view) {
    const advlog_slot *header = view_slot(view, 0);
    if (!kind_has_values(header->kind)) return false;
    unsigned deferred = header->deferred;
    for (unsigned part = 1; part < header->part; part++) deferred |= view_slot(view, part)->deferred;
    return deferred != 0;
}

static inline bool record_ids_valid(const uint16_t *id, unsigned count) {
    for (unsigned i = 0; i < count; i++)
        if (id[i] >= ADVLOG_MAX_NAMES) return false;
    return true;
}

/* The slots of the record that this header begins; 0 where no producer and no
 * drain writes such a header. */
static inline unsigned record_slots(const advlog_slot *header) {
    unsigned count = header->count;
    uint64_t slots = 0;
    if (kind_has_values(header->kind)) {
        unsigned here = count < ADVLOG_HEADER_EXTRAS ? count : ADVLOG_HEADER_EXTRAS;
        if (record_ids_valid(header->extra_id, here)) slots = ring_slots_for(count);
    } else if (header->kind == ADVLOG_KIND_EVENT) {
        if (count <= ADVLOG_MAX_TEXT_BYTES) slots = ring_slots_for_text(count);
    } else if (header->kind == ADVLOG_KIND_NAME) {
        bool named = header->level < ADVLOG_MAX_NAMES && count > 0 && count <= ADVLOG_MAX_NAME_BYTES;
        if (named) slots = ring_slots_for_text(count);
    }
    return slots == header->part ? header->part : 0;
}

/* Whether `slot` can be slot `part` (1 or more) of the record that a header,
 * one with record_slots() > part, begins. Marks are the caller's to check. */
static inline bool record_continues(const advlog_slot *header, unsigned part, const advlog_slot *slot) {
    bool values = kind_has_values(header->kind);
    unsigned room = values ? ADVLOG_PART_EXTRAS : ADVLOG_PART_TEXT;
    unsigned before = (values ? ADVLOG_HEADER_EXTRAS : 0) + (part - 1) * room;
    unsigned left = header->count - before;
    if (slot->kind != (values ? ADVLOG_KIND_PART : ADVLOG_KIND_PART_TEXT)) return false;
    if (slot->part != part || slot->count != (left < room ? left : room)) return false;
    return !values || record_ids_valid(slot->more.id, slot->count);
}
