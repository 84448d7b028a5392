/* The kinds of sinks: what each takes of the records, and how it writes them. A new kind is one entry of the table at the
 * end, and one in engine/outputs.py. */
#include "drain.h"

/* ---- lines ---- */

/* Where the digits of the record at this position are, or are to be. */
static advlog_digits *digits_of(const advlog_drain *d, uint64_t position) {
    if (!d->digits) return NULL;
    advlog_digits *digits = &d->digits[position % PASS_SLOTS];
    if (digits->position != position) {
        digits->position = position;
        memset(digits->length, 0, sizeof digits->length);
    }
    return digits;
}

static size_t line_bound(const advlog_drain *d, const drain_sink *s, const advlog_view *view) {
    (void)s;
    return format_bound(view, d->labels);
}

static bool text_leaves_out(drain_sink *s, const advlog_slot *h) {
    if (h->kind == ADVLOG_KIND_EVENT) return h->level < s->options.level;
    const int batch_level = 20; /* INFO, on the scale of Python's logging */
    return batch_level < s->options.level || s->lines++ % s->options.every != 0;
}

static size_t text_format(advlog_drain *d, drain_sink *s, const advlog_view *view, char *out) {
    d->line.digits = digits_of(d, s->next.position);
    return format_text(out, view, d->labels, &d->line);
}

static size_t jsonl_format(advlog_drain *d, drain_sink *s, const advlog_view *view, char *out) {
    const advlog_identity *identity = &d->ring->header->identity;
    d->line.digits = digits_of(d, s->next.position);
    return format_jsonl(out, view, d->labels, &d->line, identity->attempt, identity->rank, s->next.next_seq);
}

/* ---- spools ---- */

static size_t put_slots(char *out, const advlog_slot *header, unsigned parts, const advlog_view *view) {
    memcpy(out, (const void *)header, ADVLOG_SLOT_BYTES);
    for (unsigned part = 1; part < parts; part++)
        memcpy(out + part * ADVLOG_SLOT_BYTES, (const void *)view_slot(view, part), ADVLOG_SLOT_BYTES);
    return (size_t)parts * ADVLOG_SLOT_BYTES;
}

static size_t put_spool_begin(const advlog_drain *d, const drain_sink *s, char *out) {
    const advlog_identity *identity = &d->ring->header->identity;
    advlog_slot h = {.kind = ADVLOG_KIND_SPOOL, .part = (uint8_t)s->options.stream, .count = ADVLOG_LAYOUT_VERSION};
    h.time_ns = advlog_wall_ns();
    h.epoch = identity->attempt;
    h.batch = identity->rank;
    h.step = s->next.next_seq;
    memcpy(h.extra, identity->run_id, sizeof identity->run_id);
    return put_slots(out, &h, 1, NULL);
}

static size_t put_spool_name(const advlog_drain *d, uint32_t id, char *out) {
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

/* A record's slots, before them whatever the file lacks to be read by itself. */
static size_t spool_bound(const advlog_drain *d, const drain_sink *s, const advlog_view *view) {
    size_t names = d->totals.sum.names - s->names_written;
    size_t slots = 1 + names * ring_slots_for_text(ADVLOG_MAX_NAME_BYTES) + view_slot(view, 0)->part;
    return slots * ADVLOG_SLOT_BYTES;
}

static size_t spool_format(advlog_drain *d, drain_sink *s, const advlog_view *view, char *out) {
    const advlog_slot *header = view_slot(view, 0);
    char *p = out;
    if (!s->begun) p += put_spool_begin(d, s, p);
    if (!s->begun) FAILPOINT("spool_begun");
    for (uint32_t id = s->names_written; id < d->totals.sum.names; id++) p += put_spool_name(d, id, p);
    p += put_slots(p, header, header->part, view);
    return (size_t)(p - out);
}

/* ---- the table ---- */

static const sink_kind KINDS[] = {
    [ADVLOG_SINK_TEXT] =
        {.takes_events = true, .writes_digits = true, .leaves_out = text_leaves_out, .bound = line_bound, .format = text_format},
    [ADVLOG_SINK_JSONL] = {.writes_digits = true, .bound = line_bound, .format = jsonl_format},
    [ADVLOG_SINK_SPOOL] = {.splits_at_gap = true, .bound = spool_bound, .format = spool_format},
};

const sink_kind *sink_kind_of(int kind) {
    if (kind < 0 || (size_t)kind >= sizeof KINDS / sizeof *KINDS || !KINDS[kind].format) return NULL;
    return &KINDS[kind];
}
