/* What a dead process left in its ring, checked and made whole. */
#include "slab.h"

typedef struct {
    advlog_ring *ring;
    uint64_t end;
} dead_ring;

static bool published(const dead_ring *dead, uint64_t position) {
    /* Relaxed: its writer is dead, and its lock was taken since. */
    return load_relaxed(&ring_slot(dead->ring, position)->mark) == position + 1;
}

/* The slots of the whole record that begins at `position`; 0 where none does. A
 * producer publishes the header last, so a header without its parts is damage. */
static unsigned whole_record(const dead_ring *dead, uint64_t position, bool *damaged) {
    const advlog_slot *header = ring_slot(dead->ring, position);
    if (!published(dead, position) || header->kind >= ADVLOG_KIND_PART) return 0;
    unsigned slots = header->kind == ADVLOG_KIND_LOST ? header->part : record_slots(header);
    if (slots == 0 || dead->end - position < slots || header->kind == ADVLOG_KIND_SPOOL || header->kind == ADVLOG_KIND_NAME) {
        *damaged = true;
        return 0;
    }
    for (unsigned part = 1; part < slots && header->kind != ADVLOG_KIND_LOST; part++) {
        if (published(dead, position + part) && record_continues(header, part, ring_slot(dead->ring, position + part))) continue;
        *damaged = true;
        return 0;
    }
    return slots;
}

/* Makes `slots` positions a record that every sink passes over. */
static void mark_lost(const dead_ring *dead, uint64_t position, uint64_t slots) {
    while (slots) {
        unsigned here = slots < 255 ? (unsigned)slots : 255;
        advlog_slot *s = ring_slot(dead->ring, position);
        /* It may be a published part of the lost record: half changed, it must not be taken for anything. */
        store_relaxed(&s->mark, position); /* relaxed: the fence below */
        fence_full();
        s->kind = ADVLOG_KIND_LOST;
        s->part = (uint8_t)here;
        FAILPOINT("repair_marking");
        s->count = 0;
        s->deferred = 0;
        ring_publish(s, position);
        FAILPOINT("repair_marked");
        position += here;
        slots -= here;
    }
}

/* The values that an accelerator had brought are put into the record; no other will come. */
static void settle(advlog_ring *ring, uint64_t position) {
    const advlog_view view = {ring->slots, ring->mask, position};
    int64_t since_ns;
    if (record_defers(&view)) slab_settle(ring, position, ADVLOG_UNRESOLVED_KILLED, NULL, &since_ns);
}

/* What a drain counts with: nothing here may overflow on the way to the ring's end. */
static bool cursor_counts(const advlog_cursor *c) {
    const uint64_t many = UINT64_C(1) << 60;
    return c->written < many && c->dropped < many && c->length < many && c->file_number < many &&
           (uint64_t)c->next_seq == c->written + c->dropped + 1;
}

static bool cursors_fit(const advlog_ring *ring, uint64_t start, uint64_t end) {
    bool last = false;
    for (int i = 0; i < ADVLOG_MAX_SINKS; i++) {
        int kind = ring->header->cursor[i].kind, stream = ring->header->cursor[i].stream;
        advlog_cursor c;
        if (kind == 0) {
            last = true;
            continue;
        }
        if (last || kind < 0 || kind >= ADVLOG_SINK_KINDS || stream < 0 || stream > ADVLOG_STREAM_SYSTEM) return false;
        advlog_ring_cursor(ring, i, &c);
        if (c.position - start > end - start || !cursor_counts(&c)) return false;
    }
    return true;
}

/* The sinks whose cursors lie at `position`, a bit each. */
static uint32_t cursors_at(const advlog_ring *ring, uint64_t position) {
    uint32_t found = 0;
    for (int i = 0; i < ADVLOG_MAX_SINKS; i++) {
        advlog_cursor c;
        if (!ring->header->cursor[i].kind) continue;
        advlog_ring_cursor(ring, i, &c);
        if (c.position == position) found |= 1u << i;
    }
    return found;
}

int advlog_ring_repair(advlog_ring *ring, bool dry, advlog_repair *out) {
    memset(out, 0, sizeof *out);
    uint64_t start = advlog_ring_read_pos(ring);
    dead_ring dead = {ring, advlog_ring_write_pos(ring)};
    out->end = dead.end;
    if (dead.end - start > ring->count || !cursors_fit(ring, start, dead.end)) return ADVLOG_RING_BAD_LAYOUT;
    if (!dry) advlog_ring_close(ring);

    uint32_t sinks = 0, met = 0;
    for (int i = 0; i < ADVLOG_MAX_SINKS; i++) sinks |= (uint32_t)(ring->header->cursor[i].kind != 0) << i;
    /* A drain follows marks: none may lead it past the end. */
    bool damaged = published(&dead, dead.end), in_hole = false;
    for (uint64_t p = start; p != dead.end;) {
        met |= cursors_at(ring, p);
        uint64_t first = p;
        unsigned slots = whole_record(&dead, p, &damaged);
        int stream = slots ? kind_stream(ring_slot(ring, p)->kind) : -1;
        if (stream >= 0 && !dry) settle(ring, p);
        p += slots;
        while (!slots && p != dead.end && !whole_record(&dead, p, &damaged) && !damaged) p++;
        if (damaged) return ADVLOG_RING_BAD_LAYOUT;
        if (stream >= 0) {
            out->records[stream]++;
            in_hole = false;
            continue;
        }
        out->lost += !in_hole; /* what an earlier repair had marked when it died is the same run */
        in_hole = true;
        out->lost_slots += p - first;
        if (!slots && !dry) mark_lost(&dead, first, p - first);
    }
    met |= cursors_at(ring, dead.end);
    FAILPOINT("repair_done");
    return met == sinks && !damaged ? 0 : ADVLOG_RING_BAD_LAYOUT;
}

int advlog_ring_sink_kind(const advlog_ring *ring, int sink) { return ring->header->cursor[sink].kind; }
int advlog_ring_sink_stream(const advlog_ring *ring, int sink) { return ring->header->cursor[sink].stream; }
uint64_t advlog_ring_expired(const advlog_ring *ring, int sink) {
    return load_relaxed(&ring->header->cursor[sink].expired); /* relaxed: a count */
}
uint64_t advlog_ring_vanished(const advlog_ring *ring, int sink) {
    return load_relaxed(&ring->header->cursor[sink].vanished); /* relaxed: a count */
}
void advlog_ring_set_gone(advlog_ring *ring, int sink, uint64_t expired, uint64_t vanished) {
    store_relaxed(&ring->header->cursor[sink].expired, expired); /* relaxed: counts */
    store_relaxed(&ring->header->cursor[sink].vanished, vanished);
}
const advlog_identity *advlog_ring_identity(const advlog_ring *ring) { return &ring->header->identity; }

void advlog_ring_set_home(advlog_ring *ring, const char *path, uint64_t bytes) {
    if (bytes <= sizeof ring->header->home) memcpy(ring->header->home, path, bytes);
}
uint64_t advlog_ring_home(const advlog_ring *ring, char *out) {
    memcpy(out, ring->header->home, sizeof ring->header->home);
    return strnlen(out, sizeof ring->header->home);
}
