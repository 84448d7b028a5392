/* Child rings: the records of child processes, copied into their parent's ring.
 *
 * A child process logs into a small ring of its own. Its producers are the child's threads; its one
 * consumer is the parent's drain, which is at the same time a producer of its own
 * ring, one that never waits. For each record of the child, lying from `from` to
 * `next` there, the drain does in this order:
 *
 *   1  reserves positions from `to` on in its own ring
 *   2  stores handoff.position = to, then handoff.until = next, in the child's ring
 *   3  publishes the copy, its header last
 *   4  stores the child's read_pos = next, which frees the slots there
 *
 * Between 2 and 4 `until` is ahead of read_pos, and the drain does nothing else:
 * neither its own ring's read_pos nor a sink's cursor moves. So a recovery that finds
 * the two rings after a SIGKILL at any point knows what is where: while `until` is not ahead,
 * the record at read_pos is in the child alone; else the mark at `position` tells
 * whether it is in the ring too, and if not, the positions are reserved for it. Killed
 * between 1 and 2, a hole is left, which a repair counts as any other (lost in flight);
 * the record is still in the child and comes later, neither lost nor doubled.
 *
 * Neither ring need be sound: a child is checked before it is believed, so that
 * what a child's stray store did stays with the child. */
#include "drain.h"

#include <stdlib.h>

/* Slots taken from one child in one pass, so that none waits for another long. */
#define TURN_SLOTS 512
#define NO_ID UINT16_MAX
#define FIRST_IDS 1024

typedef struct drain_child {
    advlog_ring *ring;
    uint64_t from; /* the position of the next record; its read_pos, which the child may write too */
    advlog_child_info info;
    uint16_t *id_of; /* name id of the child: that of the drain's ring, or NO_ID ... */
    uint32_t ids;    /* ... for so many; others are not known yet */
} drain_child;

static void child_init(drain_child *w, advlog_ring *ring) {
    w->ring = ring;
    w->from = load_relaxed(&ring->header->read_pos); /* relaxed: stored by the drain alone, this one or one before it */
    w->info = (advlog_child_info){.number = load_once64(&ring->header->handoff.number)};
    w->id_of = NULL;
    w->ids = 0;
}

static void child_free(drain_child *w) {
    free(w->id_of);
    free(w);
}

/* ---- one record ---- */

/* A record of a child, copied out of its ring: the child may write there while it is looked at, so what is checked, and
 * then published, is the copy. */
typedef struct {
    unsigned slots; /* in the child's ring */
    unsigned kind;
    advlog_slot slot[ADVLOG_MAX_RECORD_SLOTS]; /* as it is to be in the drain's, in slot[0].part slots */
} record_copy;

static void copy_slot(advlog_slot *to, const advlog_slot *from) {
    const size_t rest = offsetof(advlog_slot, kind); /* all but the mark, which is each ring's own */
    memcpy((char *)to + rest, (const char *)from + rest, sizeof *to - rest);
}

/* Copies the next record; false where none is published yet, or it is damaged. */
static bool next_record(drain_child *w, record_copy *r) {
    const advlog_ring *ring = w->ring;
    const advlog_slot *header = ring_slot(ring, w->from);
    if (load_acquire(&header->mark) != w->from + 1) return false; /* pairs with ring_publish:a */
    copy_slot(&r->slot[0], header);
    r->kind = r->slot[0].kind;
    bool lost = r->kind == ADVLOG_KIND_LOST;
    unsigned slots = lost ? r->slot[0].part : r->kind == ADVLOG_KIND_NAME ? 0 : record_slots(&r->slot[0]);
    if (advlog_ring_write_pos(ring) - w->from < slots) slots = 0; /* more than was ever reserved */
    for (unsigned part = 1; !lost && part < slots; part++) {
        const advlog_slot *slot = ring_slot(ring, w->from + part);
        copy_slot(&r->slot[part], slot);
        /* Relaxed: the header came last, and its mark was acquired. */
        if (load_relaxed(&slot->mark) != w->from + part + 1 || !record_continues(&r->slot[0], part, &r->slot[part])) slots = 0;
    }
    r->slots = slots;
    if (slots == 0) w->info.damaged = 1;
    return slots != 0;
}

/* How a name of the child's becomes one of `ring`'s: advlog_name_intern, or name_find. */
typedef int name_id(advlog_ring *ring, const char *utf8, uint64_t bytes);

/* An id of the child's as one of `ring`'s; NO_ID: it has no room for the name, or the child has no such name. */
static uint16_t translated(advlog_ring *ring, drain_child *w, uint16_t id, name_id *id_of_name) {
    if (id < w->ids && w->id_of[id] != NO_ID) return w->id_of[id];
    if (id >= w->ids) {
        uint32_t ids = (id / FIRST_IDS + 1u) * FIRST_IDS;
        uint16_t *more = realloc(w->id_of, ids * sizeof *more);
        if (!more) return NO_ID;
        for (; w->ids < ids; w->ids++) more[w->ids] = NO_ID;
        w->id_of = more;
    }
    char name[ADVLOG_MAX_NAME_BYTES];
    int bytes = advlog_name_get(w->ring, id, name); /* the mark of the record that uses it was acquired */
    int found = bytes >= 0 ? id_of_name(ring, name, (uint64_t)bytes) : -1;
    return found < 0 ? NO_ID : (w->id_of[id] = (uint16_t)found);
}

/* Where value n of a record lies, of those under names. */
static uint16_t *extra_id(record_copy *r, unsigned n) {
    if (n < ADVLOG_HEADER_EXTRAS) return &r->slot[0].extra_id[n];
    n -= ADVLOG_HEADER_EXTRAS;
    return &r->slot[1 + n / ADVLOG_PART_EXTRAS].more.id[n % ADVLOG_PART_EXTRAS];
}

static double *extra_value(record_copy *r, unsigned n) {
    if (n < ADVLOG_HEADER_EXTRAS) return &r->slot[0].extra[n];
    n -= ADVLOG_HEADER_EXTRAS;
    return &r->slot[1 + n / ADVLOG_PART_EXTRAS].more.value[n % ADVLOG_PART_EXTRAS];
}

/* Gives the copy the ids of `ring`, and closes the gaps of values for whose names it has no room; how many those are. */
static unsigned translate(advlog_ring *ring, drain_child *w, record_copy *r, name_id *id_of_name) {
    if (!kind_has_values(r->kind)) return 0;
    advlog_slot *header = &r->slot[0];
    unsigned count = header->count, kept = 0;
    for (unsigned n = 0; n < count; n++) {
        uint16_t id = translated(ring, w, *extra_id(r, n), id_of_name);
        if (id == NO_ID) continue;
        *extra_id(r, kept) = id;
        *extra_value(r, kept++) = *extra_value(r, n);
    }
    if (kept == count) return 0;
    header->count = (uint16_t)kept;
    header->part = (uint8_t)ring_slots_for(kept);
    for (unsigned part = 1, left = kept > ADVLOG_HEADER_EXTRAS ? kept - ADVLOG_HEADER_EXTRAS : 0; part < header->part; part++) {
        unsigned here = left < ADVLOG_PART_EXTRAS ? left : ADVLOG_PART_EXTRAS;
        r->slot[part].count = (uint16_t)here;
        left -= here;
    }
    return count - kept;
}

/* Whether values were left out, and they were all that the record had. */
static bool is_empty(const record_copy *r, unsigned left_out) {
    const uint32_t core = (1u << ADVLOG_CORE_METRICS) - 1;
    const advlog_slot *header = &r->slot[0];
    return left_out && r->kind != ADVLOG_KIND_BATCH && !header->count && !(header->present & core);
}

/* Step 3. */
static void publish_copy(advlog_ring *ring, uint64_t to, const drain_child *w, const record_copy *r) {
    for (unsigned part = r->slot[0].part; part-- > 0;) {
        advlog_slot *s = ring_slot(ring, to + part);
        copy_slot(s, &r->slot[part]);
        s->deferred = 0; /* a child defers no value; what a stray store made must name no entry here */
        if (part == 0) s->worker = (uint16_t)w->info.number;
        ring_publish(s, to + part);
        FAILPOINT("handoff_slot");
    }
}

/* Step 4. */
static void set_taken(drain_child *w, uint64_t position) {
    w->from = position;
    store_release(&w->ring->header->read_pos, position); /* set_taken:a */
}

/* True: nothing more is to be done with the record. False: the ring has no room now. */
static bool take_record(advlog_ring *ring, drain_child *w, record_copy *r) {
    advlog_handoff *taking = &w->ring->header->handoff;
    if (r->kind == ADVLOG_KIND_LOST) return true;
    unsigned left_out = translate(ring, w, r, advlog_name_intern);
    if (is_empty(r, left_out)) {
        add_relaxed(&ring->left_out, left_out); /* relaxed: a count */
        return true;
    }
    if (r->slot[0].part > ring_record_limit(ring)) {
        advlog_ring_count_drop(ring, ADVLOG_DROP_FULL);
        w->info.dropped++;
        return true;
    }
    uint64_t to;
    if (ring_try_reserve(ring, r->slot[0].part, &to) != ADVLOG_OK) return false;
    add_relaxed(&ring->left_out, left_out); /* relaxed: a count */
    FAILPOINT("handoff_reserved");
    /* In this order: a SIGKILL must not find `until` without its position. No thread acquires them. */
    store_release(&taking->position, to);
    store_release(&taking->until, w->from + r->slots);
    FAILPOINT("handoff_noted");
    publish_copy(ring, to, w, r);
    add_relaxed(&ring->header->accepted_push[kind_stream((int)r->kind)], 1); /* relaxed: a count */
    w->info.taken++;
    return true;
}

static bool child_advance(advlog_ring *ring, drain_child *w) {
    uint64_t start = w->from;
    record_copy r;
    while (!w->info.damaged && w->from - start < TURN_SLOTS) {
        if (!next_record(w, &r) || !take_record(ring, w, &r)) break;
        set_taken(w, w->from + r.slots);
        FAILPOINT("handoff_taken");
    }
    return w->from != start;
}

bool children_advance(advlog_drain *d) {
    bool progress = false;
    for (unsigned i = 0; i < d->child_count; i++) progress |= child_advance(d->ring, d->children[i]);
    return progress;
}

/* ---- which children there are ---- */

static drain_child **find(const advlog_drain *d, const advlog_ring *child) {
    for (unsigned i = 0; i < d->child_count; i++)
        if (d->children[i]->ring == child) return &d->children[i];
    return NULL;
}

static uint64_t next_number(advlog_ring_header *header) {
    return header->children++ % UINT16_MAX + 1; /* after 65,535 children the first number again */
}

int advlog_drain_add_child(advlog_drain *d, advlog_ring *child) {
    drain_child **children = realloc(d->children, (d->child_count + 1) * sizeof *children);
    if (children) d->children = children;
    drain_child *w = children ? malloc(sizeof *w) : NULL;
    if (!w) return -1;
    if (!child->header->handoff.number) child->header->handoff.number = next_number(d->ring->header);
    child_init(w, child);
    d->children[d->child_count++] = w;
    return 0;
}

void advlog_drain_remove_child(advlog_drain *d, advlog_ring *child) {
    drain_child **at = find(d, child);
    if (!at) return;
    for (int reason = 0; reason < ADVLOG_DROP_REASONS; reason++)
        add_relaxed(&d->ring->header->dropped[reason], advlog_ring_dropped(child, reason)); /* relaxed: a count */
    child_free(*at);
    *at = d->children[--d->child_count];
}

void advlog_drain_child(const advlog_drain *d, const advlog_ring *child, advlog_child_info *out) {
    drain_child **at = find(d, child);
    *out = at ? (*at)->info : (advlog_child_info){0};
}

void children_free(advlog_drain *d) {
    for (unsigned i = 0; i < d->child_count; i++) child_free(d->children[i]);
    free(d->children);
}

/* ---- after a SIGKILL ---- */

/* Whether a repair has given up what was reserved at `to`, alone or within a run of lost slots. */
static bool given_up(const advlog_ring *ring, uint64_t to) {
    uint64_t p = advlog_ring_read_pos(ring);
    for (;;) {
        const advlog_slot *slot = ring_slot(ring, p);
        /* Relaxed: its writer is dead. */
        bool lost = load_relaxed(&slot->mark) == p + 1 && slot->kind == ADVLOG_KIND_LOST;
        uint64_t next = p + (lost && slot->part ? slot->part : 1);
        if (next - p > to - p) return lost;
        p = next;
    }
}

int advlog_child_ring_settle(advlog_ring *ring, advlog_ring *child) {
    advlog_handoff *taking = &child->header->handoff;
    /* Relaxed: their writer is dead. */
    uint64_t from = load_relaxed(&child->header->read_pos);
    uint64_t until = load_relaxed(&taking->until), to = load_relaxed(&taking->position);
    if ((int64_t)(until - from) <= 0) return 0;
    drain_child w;
    record_copy r;
    child_init(&w, child);
    w.from = from;
    unsigned taken = next_record(&w, &r) ? r.slots : 0;
    /* No name is added: what had no room before would now make the record longer than the positions that it has. */
    if (taken) translate(ring, &w, &r, name_find);
    unsigned slots = taken ? r.slot[0].part : 0;
    uint64_t first = advlog_ring_read_pos(ring), reserved = advlog_ring_write_pos(ring) - first;
    bool fits = taken != 0 && until - from == taken && reserved <= ring->count && to - first < reserved &&
                reserved - (to - first) >= slots;
    if (fits && given_up(ring, to)) {
        until = from; /* it is still to come */
    } else if (fits && load_relaxed(&ring_slot(ring, to)->mark) != to + 1) { /* relaxed: its writer is dead */
        publish_copy(ring, to, &w, &r);
    }
    free(w.id_of);
    if (!fits) return ADVLOG_RING_BAD_LAYOUT;
    store_relaxed(&taking->until, until); /* relaxed: no thread shares it */
    set_taken(&w, until);
    return 0;
}
