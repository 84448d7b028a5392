/* The kinds of sinks: what each takes of the records, and how it writes them. A new kind is a number in
 * advlog_api.h, a formatter, and an entry of the table at the end; ARCHITECTURE.md lists what it is in Python. */
#include "drain.h"

/* What became of a record. */
enum taken { TAKEN, FILTERED, NO_ROOM };

/* Formats a record behind what the buffer holds, and says its bytes. */
typedef enum taken put_record(advlog_drain *d, drain_sink *s, const advlog_view *view, size_t *bytes);

/* ---- lines ---- */

static bool text_leaves_out(drain_sink *s, const advlog_slot *h) {
    if (h->kind == ADVLOG_KIND_EVENT) return h->level < s->options.level;
    const int batch_level = 20; /* INFO, on the scale of Python's logging */
    return batch_level < s->options.level || s->lines++ % s->options.every != 0;
}

static inline enum taken put_text(advlog_drain *d, drain_sink *s, const advlog_view *view, size_t *bytes) {
    if (text_leaves_out(s, view_slot(view, 0))) return FILTERED;
    if (!sink_has_room(s, format_bound(view, d->labels))) return NO_ROOM;
    *bytes = format_text(s->buffer + s->used, view, d->labels, &d->line, s->options.digits);
    return TAKEN;
}

static inline enum taken put_jsonl(advlog_drain *d, drain_sink *s, const advlog_view *view, size_t *bytes) {
    if (!sink_has_room(s, format_bound(view, d->labels))) return NO_ROOM;
    const advlog_identity *identity = &d->ring->header->identity;
    *bytes = format_jsonl(s->buffer + s->used, view, d->labels, &d->line, identity->attempt, identity->rank, s->next.next_seq);
    return TAKEN;
}

/* ---- spools ---- */

static ADVLOG_COLD size_t put_spool_begin(const advlog_drain *d, const drain_sink *s, char *out) {
    const advlog_identity *identity = &d->ring->header->identity;
    advlog_slot h = {.kind = ADVLOG_KIND_SPOOL, .part = (uint8_t)s->options.stream, .count = ADVLOG_SPOOL_VERSION};
    h.time_ns = advlog_wall_ns();
    h.epoch = identity->attempt;
    h.batch = identity->rank;
    h.step = s->next.next_seq;
    memcpy(h.extra, identity->run_id, sizeof identity->run_id);
    memcpy(out, &h, sizeof h);
    return sizeof h;
}

static ADVLOG_COLD size_t put_spool_name(const advlog_drain *d, uint32_t id, char *out) {
    char name[ADVLOG_MAX_NAME_BYTES];
    int length = advlog_name_get(d->ring, id, name);
    if (length < 0) return 0; /* a damaged table: the id stays without a name */
    uint32_t bytes = (uint32_t)length;
    unsigned parts = (unsigned)ring_slots_for_text(bytes);
    advlog_slot h = {.kind = ADVLOG_KIND_NAME, .part = (uint8_t)parts, .count = (uint16_t)bytes, .level = (uint16_t)id};
    store_relaxed(&h.mark, 1); /* relaxed: no thread shares a spool's slots */
    memcpy(out, &h, sizeof h);
    for (unsigned part = 1; part < parts; part++) {
        uint32_t first = (part - 1) * ADVLOG_PART_TEXT;
        uint32_t n = bytes - first < ADVLOG_PART_TEXT ? bytes - first : ADVLOG_PART_TEXT;
        advlog_slot p = {.kind = ADVLOG_KIND_PART_TEXT, .part = (uint8_t)part, .count = (uint16_t)n};
        store_relaxed(&p.mark, part + 1); /* relaxed: no thread shares a spool's slots */
        memcpy(p.text, name + first, n);
        memcpy(out + part * sizeof p, &p, sizeof p);
    }
    return (size_t)parts * ADVLOG_SLOT_BYTES;
}

static inline bool is_named(const drain_sink *s, uint32_t id) { return s->named[id / 64] >> id % 64 & 1; }

/* The ids of the record that its file does not name yet. */
static unsigned count_unnamed(const drain_sink *s, const advlog_view *view) {
    unsigned slots = view_slot(view, 0)->part, unnamed = 0;
    for (unsigned part = 0; part < slots; part++) {
        record_extras extras = record_extras_of(view, part);
        for (unsigned i = 0; i < extras.count; i++) unnamed += !is_named(s, extras.id[i]);
    }
    return unnamed;
}

static ADVLOG_COLD char *put_spool_names(const advlog_drain *d, const drain_sink *s, const advlog_view *view, char *out) {
    unsigned slots = view_slot(view, 0)->part;
    for (unsigned part = 0; part < slots; part++) {
        record_extras extras = record_extras_of(view, part);
        for (unsigned i = 0; i < extras.count; i++)
            if (!is_named(s, extras.id[i])) out += put_spool_name(d, extras.id[i], out);
    }
    return out;
}

/* The record is in the buffer, and with it the names of its ids. */
static ADVLOG_COLD void note_named(drain_sink *s, const advlog_view *view) {
    unsigned slots = view_slot(view, 0)->part;
    for (unsigned part = 0; part < slots; part++) {
        record_extras extras = record_extras_of(view, part);
        for (unsigned i = 0; i < extras.count; i++) s->named[extras.id[i] / 64] |= UINT64_C(1) << extras.id[i] % 64;
    }
}

/* A record's slots, before them whatever the file lacks to be read by itself. */
static inline enum taken put_spool(advlog_drain *d, drain_sink *s, const advlog_view *view, size_t *bytes) {
    const advlog_slot *header = view_slot(view, 0);
    unsigned unnamed = header->count ? count_unnamed(s, view) : 0;
    size_t slots = 1 + unnamed * ring_slots_for_text(ADVLOG_MAX_NAME_BYTES) + header->part;
    if (!sink_has_room(s, slots * ADVLOG_SLOT_BYTES)) return NO_ROOM;
    char *out = s->buffer + s->used;
    if (!s->begun) out += put_spool_begin(d, s, out);
    if (!s->begun) FAILPOINT("spool_begun");
    if (ADVLOG_UNLIKELY(unnamed)) out = put_spool_names(d, s, view, out);
    for (unsigned part = 0; part < header->part; part++, out += ADVLOG_SLOT_BYTES)
        memcpy(out, (const void *)view_slot(view, part), ADVLOG_SLOT_BYTES);
    *bytes = (size_t)(out - (s->buffer + s->used));
    return TAKEN;
}

/* ---- records into the buffer ---- */

/* Whether the record must go to the next file: by its bytes, its number, or a gap before it. */
static inline bool file_is_full(const drain_sink *s, size_t bytes) {
    if (s->next.length == 0) return false;
    if (s->gap && s->kind->splits_at_gap) return true;
    return s->next.length + bytes > s->options.max_bytes ||
           (s->options.max_records && s->next_file_records >= s->options.max_records);
}

/* Formats the next record into the buffer, unless the sink leaves it out. False: the file is
 * full (*full) or the buffer is, and the record comes again. */
static inline bool take_record(advlog_drain *d, drain_sink *s, const advlog_view *view, put_record *put, bool *full) {
    uint64_t lines = s->lines;
    size_t bytes = 0;
    enum taken taken = put(d, s, view, &bytes);
    *full = taken == TAKEN && file_is_full(s, bytes);
    if (taken == NO_ROOM || *full) {
        s->lines = lines;
        return false;
    }
    if (taken == TAKEN) {
        if (!s->next_file_records) {
            s->info.file_first_seq = s->next.next_seq;
            s->gap = false;
        }
        s->used += bytes;
        s->next.length += bytes;
        s->next_file_records++;
        s->begun = true;
        if (s->kind->names_ids && view_slot(view, 0)->count) note_named(s, view);
    } else {
        s->next_filtered++;
    }
    s->next.written++;
    s->next.next_seq++;
    return true;
}

/* Formats records until the buffer is full, the file is, or `end` is reached.
 * True where the file is full. */
static inline bool fill(advlog_drain *d, drain_sink *s, uint64_t end, put_record *put) {
    bool full = false;
    while (s->next.position != end) {
        advlog_view view = {d->ring->slots, d->ring->mask, s->next.position};
        const advlog_slot *header = view_slot(&view, 0);
        if (sink_takes(s, kind_stream(header->kind)) && !take_record(d, s, &view, put, &full)) break;
        s->next.position += header->part;
    }
    return full;
}

/* Each with its own copy of the loop: calls through a pointer for each record cost an eighth more. */
static bool fill_text(advlog_drain *d, drain_sink *s, uint64_t end) { return fill(d, s, end, put_text); }
static bool fill_jsonl(advlog_drain *d, drain_sink *s, uint64_t end) { return fill(d, s, end, put_jsonl); }
static bool fill_spool(advlog_drain *d, drain_sink *s, uint64_t end) { return fill(d, s, end, put_spool); }

/* ---- the table ---- */

static const sink_kind KINDS[ADVLOG_SINK_KINDS] = {
    [ADVLOG_SINK_TEXT] = {.takes_events = true, .fill = fill_text},
    [ADVLOG_SINK_JSONL] = {.fill = fill_jsonl},
    [ADVLOG_SINK_SPOOL] = {.splits_at_gap = true, .names_ids = true, .fill = fill_spool},
};

const sink_kind *sink_kind_of(int kind) {
    if (kind < 0 || kind >= ADVLOG_SINK_KINDS || !KINDS[kind].fill) return NULL;
    return &KINDS[kind];
}
