/* First pass over a spool: how many whole records, which names, which of them have
 * values, where it is torn.
 * A spool is what a disk gave back, so nothing in it is believed unchecked. */
#include "record.h"

#include <stdlib.h>

struct advlog_scan {
    advlog_spool_info info; /* info.slots: those of whole records only */
    bool begun;             /* the SPOOL slot was read */
    unsigned parts_read;    /* slots of the unfinished record; 0: a header comes next */
    advlog_slot header;     /* of the unfinished record */
    char text[3 * ADVLOG_PART_TEXT];
    uint8_t name_bytes[ADVLOG_MAX_NAMES]; /* 0: not named */
    char name[ADVLOG_MAX_NAMES][ADVLOG_MAX_NAME_BYTES];
    bool used[ADVLOG_MAX_NAMES];                 /* by a whole record */
    uint16_t id[UINT8_MAX * ADVLOG_PART_EXTRAS]; /* those of the unfinished record */
    unsigned ids;
};

_Static_assert(3 * ADVLOG_PART_TEXT >= ADVLOG_MAX_NAME_BYTES, "the text of a NAME record fits");
_Static_assert(ADVLOG_MAX_NAME_BYTES <= UINT8_MAX, "name_bytes holds any length");

advlog_scan *advlog_scan_new(void) { return calloc(1, sizeof(advlog_scan)); }

void advlog_scan_free(advlog_scan *scan) { free(scan); }

static bool begin_spool(advlog_scan *scan, const advlog_slot *slot) {
    if (slot->kind != ADVLOG_KIND_SPOOL) return false;
    advlog_spool_info *info = &scan->info;
    info->layout_version = slot->count;
    info->stream = slot->part;
    info->attempt = slot->epoch;
    info->rank = slot->batch;
    info->first_seq = slot->step;
    memcpy(info->run_id, slot->extra, sizeof info->run_id);
    scan->begun = true;
    bool readable = info->layout_version == ADVLOG_SPOOL_VERSION &&
                    (info->stream == ADVLOG_STREAM_METRICS || info->stream == ADVLOG_STREAM_SYSTEM);
    info->slots = readable;
    return readable;
}

/* Whether a record of this kind belongs into a spool of this stream. */
static bool kind_fits(unsigned kind, int32_t stream) {
    switch (kind) {
    case ADVLOG_KIND_NAME: return true;
    case ADVLOG_KIND_BATCH:
    case ADVLOG_KIND_METRICS: return stream == ADVLOG_STREAM_METRICS;
    case ADVLOG_KIND_MEMORY:
    case ADVLOG_KIND_PERFORMANCE: return stream == ADVLOG_STREAM_SYSTEM;
    default: return false;
    }
}

static void finish_record(advlog_scan *scan) {
    const advlog_slot *header = &scan->header;
    if (header->kind == ADVLOG_KIND_NAME) {
        uint32_t id = header->level;
        memcpy(scan->name[id], scan->text, header->count);
        scan->name_bytes[id] = (uint8_t)header->count;
        if (scan->info.names <= id) scan->info.names = id + 1;
    } else {
        for (unsigned i = 0; i < scan->ids; i++) {
            scan->used[scan->id[i]] = true;
            if (scan->info.ids <= scan->id[i]) scan->info.ids = scan->id[i] + 1u;
        }
        scan->info.records++;
    }
    scan->info.slots += scan->parts_read;
    scan->parts_read = 0;
}

/* Notes which metrics a slot of the unfinished record has, checked before. */
static void take_ids(advlog_scan *scan, unsigned part, const advlog_slot *slot) {
    const advlog_view only = {slot, 0, 0}; /* every part of it is this slot */
    record_extras extras = record_extras_of(&only, part);
    memcpy(&scan->id[scan->ids], extras.id, extras.count * sizeof *extras.id);
    scan->ids += extras.count;
}

/* False: no drain writes this slot here. */
static bool take_slot(advlog_scan *scan, const advlog_slot *slot) {
    if (!scan->begun) return begin_spool(scan, slot);
    advlog_slot *header = &scan->header;
    unsigned part = scan->parts_read;
    if (part == 0) {
        if (record_slots(slot) == 0 || !kind_fits(slot->kind, scan->info.stream)) return false;
        memcpy(header, slot, sizeof *header);
        scan->ids = 0;
    } else {
        /* Relaxed: no other thread has this copy. */
        if (load_relaxed(&slot->mark) != load_relaxed(&header->mark) + part) return false;
        if (!record_continues(header, part, slot)) return false;
        if (header->kind == ADVLOG_KIND_NAME) memcpy(scan->text + (part - 1) * ADVLOG_PART_TEXT, slot->text, slot->count);
    }
    if (kind_has_values(header->kind)) take_ids(scan, part, slot);
    scan->parts_read++;
    if (scan->parts_read == header->part) finish_record(scan);
    return true;
}

void advlog_scan_feed(advlog_scan *scan, const void *slots, uint64_t count) {
    const char *bytes = slots;
    for (uint64_t i = 0; i < count && !scan->info.damaged; i++) {
        advlog_slot slot; /* a copy, since the caller's bytes may lie anywhere */
        memcpy(&slot, bytes + i * ADVLOG_SLOT_BYTES, sizeof slot);
        if (!take_slot(scan, &slot)) scan->info.damaged = 1;
    }
}

void advlog_scan_info(const advlog_scan *scan, advlog_spool_info *out) { *out = scan->info; }

int advlog_scan_name(const advlog_scan *scan, uint32_t id, char *out) {
    if (id >= scan->info.names || scan->name_bytes[id] == 0) return -1;
    memcpy(out, scan->name[id], scan->name_bytes[id]);
    return scan->name_bytes[id];
}

bool advlog_scan_uses(const advlog_scan *scan, uint32_t id) { return id < ADVLOG_MAX_NAMES && scan->used[id]; }
