/* Each record of a child's ring comes into its parent's once, under the child's number and the names that it had
 * there: while threads of both push, and whatever step of the copy, or of a recovery from that, a SIGKILL ends. */
#include "build_drain.h"

static void stopped_here(void);
#undef FAILPOINT
#define FAILPOINT(name) stopped_here()
#include "../../csrc/child_ring.c"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define RECORDS_A_THREAD 3000
#else
#define RECORDS_A_THREAD 30000
#endif
#define CHILD_STEP 1000000000 /* the steps of a child's records begin here */

/* ---- a kill at every step: what both rings hold then is recovered, in a copy of them ---- */

#define SLOTS 1024
#define RECORDS 60

static struct {
    test_ring parent, child;
} now;
static int depth;
static const advlog_ring *scribbled; /* the ring of a child whose stray stores come at each step */
static uint64_t seed = 7, stops;

static test_ring copy_of(const test_ring *t, uint64_t slots) {
    uint64_t bytes = test_ring_bytes(slots);
    test_ring copy = {.memory = aligned_alloc(ADVLOG_PAGE_BYTES, bytes)};
    CHECK(copy.memory != NULL);
    memcpy(copy.memory, t->memory, bytes);
    int error = 0;
    copy.ring = advlog_ring_attach(copy.memory, bytes, &error);
    CHECK(copy.ring != NULL);
    return copy;
}

/* A record of n and of its metrics, each named by its value. Every third is a line of text. */
static void push_numbered(test_ring *t, int64_t step, unsigned extras) {
    uint16_t ids[40];
    double values[40];
    for (unsigned i = 0; i < extras; i++) {
        char name[16];
        uint64_t which = next_random(&seed) % 50;
        int bytes = snprintf(name, sizeof name, "m%02d", (int)which);
        int id = advlog_name_intern(t->ring, name, (uint64_t)bytes);
        CHECK(id >= 0);
        ids[i] = (uint16_t)id;
        values[i] = (double)which;
    }
    advlog_record record = {.time_ns = step,
                            .step = step,
                            .present = ADVLOG_HAS_STEP,
                            .kind = ADVLOG_KIND_METRICS,
                            .extras = (uint16_t)extras,
                            .extra_ids = ids,
                            .extra_values = values};
    CHECK_INT(ADVLOG_OK, advlog_push(t->ring, &record));
}

static void push_text(test_ring *t, int64_t step) {
    char text[400];
    int bytes = snprintf(text, sizeof text, "%0*" PRId64, (int)(1 + next_random(&seed) % 300), step);
    CHECK_INT(ADVLOG_OK, advlog_push_text(t->ring, 20, step, text, (uint64_t)bytes));
}

/* That the record is what was pushed; its step. */
static int64_t check_record(advlog_ring *ring, uint64_t position, uint64_t number) {
    const advlog_view view = {ring->slots, ring->mask, position};
    const advlog_slot *h = view_slot(&view, 0);
    CHECK_INT(h->time_ns >= CHILD_STEP ? number : 0, h->worker);
    CHECK_INT(h->part, record_slots(h));
    for (unsigned part = 1; part < h->part; part++) {
        CHECK_INT(position + part + 1, load_relaxed(&view_slot(&view, part)->mark));
        CHECK(record_continues(h, part, view_slot(&view, part)));
    }
    if (h->kind == ADVLOG_KIND_EVENT) {
        char text[401] = {0};
        for (unsigned part = 1; part < h->part; part++)
            memcpy(text + (part - 1) * ADVLOG_PART_TEXT, view_slot(&view, part)->text, view_slot(&view, part)->count);
        CHECK_INT(h->time_ns, strtoll(text, NULL, 10));
        return h->time_ns;
    }
    CHECK_INT(h->time_ns, h->step);
    for (unsigned part = 0; part < h->part; part++) {
        record_extras extras = record_extras_of(&view, part);
        for (unsigned i = 0; i < extras.count; i++) {
            char name[ADVLOG_MAX_NAME_BYTES], wanted[16];
            snprintf(wanted, sizeof wanted, "m%02d", (int)extras.value[i]);
            CHECK_TEXT(wanted, name, (size_t)advlog_name_get(ring, extras.id[i], name));
        }
    }
    return h->step;
}

/* That each record lies in the parent's ring once, in the order of whoever pushed it. */
static void check_all(advlog_ring *ring, uint64_t start, uint64_t number) {
    int64_t own = 0, childs = CHILD_STEP;
    for (uint64_t p = start, end = advlog_ring_write_pos(ring); p != end; p += ring_slot(ring, p)->part) {
        CHECK_INT(p + 1, load_relaxed(&ring_slot(ring, p)->mark));
        if (ring_slot(ring, p)->kind == ADVLOG_KIND_LOST) continue;
        int64_t step = check_record(ring, p, number);
        int64_t *of = step >= CHILD_STEP ? &childs : &own;
        CHECK_INT(*of + 1, step);
        *of = step;
    }
    CHECK_INT(RECORDS, own);
    CHECK_INT(CHILD_STEP + RECORDS, childs);
}

static void recover_here(void) {
    advlog_repair repair;
    uint64_t start = advlog_ring_read_pos(now.parent.ring);
    CHECK_INT(0, advlog_child_ring_settle(now.parent.ring, now.child.ring));
    CHECK_INT(0, advlog_ring_repair(now.parent.ring, false, &repair));
    CHECK(repair.lost <= 1 + (unsigned)depth); /* a hole for each kill at most */
    CHECK_INT(0, advlog_ring_repair(now.child.ring, false, &repair));
    CHECK_INT(0, repair.lost);
    advlog_ring_reopen(now.parent.ring);
    CHECK(!advlog_ring_closed(now.parent.ring));
    /* Not run: what it would free is looked at here. */
    advlog_drain *drain = advlog_drain_new(now.parent.ring);
    CHECK_INT(0, advlog_drain_add_child(drain, now.child.ring));
    while (children_advance(drain)) {}
    advlog_child_info info;
    advlog_drain_child(drain, now.child.ring, &info);
    CHECK(info.number == 1 && !info.damaged && info.dropped == 0);
    CHECK_INT(advlog_ring_write_pos(now.child.ring), advlog_ring_read_pos(now.child.ring));
    check_all(now.parent.ring, start, 1);
    advlog_drain_free(drain);
}

static void scribble(const advlog_ring *ring) {
    uint64_t end = advlog_ring_write_pos(ring);
    for (uint64_t p = load_relaxed(&ring->header->read_pos); p != end; p++) { /* relaxed: there is one thread */
        uint8_t *payload = (uint8_t *)ring_slot(ring, p) + offsetof(advlog_slot, kind);
        for (size_t i = 0; i < sizeof(advlog_slot) - offsetof(advlog_slot, kind); i++) payload[i] = (uint8_t)next_random(&seed);
    }
}

static void stopped_here(void) {
    if (scribbled) scribble(scribbled);
    if (scribbled || !now.parent.ring || depth == 3 || (depth > 0 && next_random(&seed) % 16)) return;
    test_ring parent = now.parent, child = now.child;
    now.parent = copy_of(&parent, SLOTS);
    now.child = copy_of(&child, SLOTS);
    depth++;
    stops++;
    recover_here();
    depth--;
    test_ring_free(&now.parent);
    test_ring_free(&now.child);
    now.parent = parent;
    now.child = child;
}

static void killed_at_every_step_nothing_is_lost_or_doubled(uint64_t start) {
    test_ring parent = test_ring_at(SLOTS, start, 3, 2), child = test_ring_at(SLOTS, start * 3, 3, 2);
    advlog_drain *drain = advlog_drain_new(parent.ring);
    CHECK_INT(0, advlog_drain_add_child(drain, child.ring));
    for (int i = 1; i <= RECORDS; i++) {
        if (i % 3) push_numbered(&child, CHILD_STEP + i, (unsigned)(next_random(&seed) % 40));
        else push_text(&child, CHILD_STEP + i);
        if (i == RECORDS / 2) {
            now.parent.ring = NULL; /* not all is pushed: nothing to compare with */
            CHECK(children_advance(drain));
        }
        if (i % 3) push_numbered(&parent, i, (unsigned)(next_random(&seed) % 40));
        else push_text(&parent, i);
    }
    now.parent = parent;
    now.child = child;
    CHECK(children_advance(drain));
    now.parent.ring = NULL;
    check_all(parent.ring, start, 1);
    advlog_drain_free(drain);
    test_ring_free(&parent);
    test_ring_free(&child);
}

/* ---- both at work ---- */

typedef struct {
    rig *r;
    advlog_ring *ring;
    int64_t first;
} logging;

static void *log_much(void *of) {
    const logging *l = of;
    for (int64_t i = 0; i < RECORDS_A_THREAD; i++) {
        uint16_t ids[20];
        double values[20];
        unsigned extras = (unsigned)(i % 20);
        for (unsigned k = 0; k < extras; k++) {
            char name[16];
            /* New names come all the time, of threads and of the drain: any thread may bring one. */
            int bytes = snprintf(name, sizeof name, "n%d", (int)((i / 100 + k) % 300));
            int id = advlog_name_intern(l->ring, name, (uint64_t)bytes);
            CHECK(id >= 0);
            ids[k] = (uint16_t)id;
            values[k] = (double)k;
        }
        int64_t n = l->first + i;
        advlog_record record = {.time_ns = n,
                                .step = SAMPLE_STEP + n,
                                .core = {(double)n},
                                .present = 1u << ADVLOG_LOSS | ADVLOG_HAS_STEP,
                                .kind = ADVLOG_KIND_BATCH,
                                .extras = (uint16_t)extras,
                                .extra_ids = ids,
                                .extra_values = values};
        int status;
        while ((status = advlog_push(l->ring, &record)) == ADVLOG_FULL)
            CHECK_INT(ADVLOG_OK, advlog_wait_room(l->ring, 4, FOREVER));
        CHECK_INT(ADVLOG_OK, status);
    }
    return NULL;
}

static void four_threads_of_two_children_and_two_of_the_parent_log_at_once(void) {
    rig r = rig_new(1024, -UINT64_C(512));
    int jsonl = rig_add(&r, ADVLOG_SINK_JSONL, ADVLOG_STREAM_METRICS, NO_LIMIT, 0);
    int spool = rig_add(&r, ADVLOG_SINK_SPOOL, ADVLOG_STREAM_METRICS, NO_LIMIT, 0);
    test_ring child[2] = {test_ring_at(256, 256, 3, 2), test_ring_at(256, -UINT64_C(300), 3, 2)};
    for (int i = 0; i < 2; i++) CHECK_INT(0, advlog_drain_add_child(r.drain, child[i].ring));
    pthread_t drain, thread[6];
    logging of[6];
    CHECK_INT(0, pthread_create(&drain, NULL, rig_drain_thread, &r));
    for (int i = 0; i < 6; i++) {
        of[i] = (logging){&r, i < 2 ? r.t.ring : child[i % 2].ring, (int64_t)i * RECORDS_A_THREAD};
        CHECK_INT(0, pthread_create(&thread[i], NULL, log_much, &of[i]));
    }
    for (int i = 0; i < 6; i++) CHECK_INT(0, pthread_join(thread[i], NULL));
    for (int i = 0; i < 2; i++) {
        uint64_t end = advlog_ring_close(child[i].ring);
        while (advlog_ring_read_pos(child[i].ring) != end) usleep(100);
    }
    advlog_ring_close(r.t.ring);
    CHECK_INT(0, pthread_join(drain, NULL));
    rig_settle(&r);

    const int64_t all = 6 * RECORDS_A_THREAD;
    CHECK_INT(all, advlog_ring_accepted(r.t.ring, ADVLOG_STREAM_METRICS));
    CHECK_INT(all, rig_info(&r, jsonl).cursor.written);
    CHECK_INT(all, spool_records(rig_path(&r, spool, 1), 1, advlog_name_count(r.t.ring)));
    int64_t last = 0;
    CHECK_INT(all, jsonl_lines(rig_path(&r, jsonl, 1), &last, true));
    content c = content_of(rig_path(&r, jsonl, 1));
    uint8_t *seen = calloc(1, (size_t)all);
    for (char *line = c.bytes; *line; line = strchr(line, '\n') + 1) {
        int64_t n = strtoll(strstr(line, "\"step\":") + 7, NULL, 10) - SAMPLE_STEP;
        char *end = strchr(line, '\n'), *worker = strstr(line, "\"worker\":");
        int64_t thread_of = n / RECORDS_A_THREAD;
        CHECK(n >= 0 && n < all && !seen[n]++);
        CHECK_INT(thread_of < 2 ? 0 : 1 + thread_of % 2, worker && worker < end ? strtol(worker + 9, NULL, 10) : 0);
    }
    free(seen);
    free(c.bytes);
    for (int i = 0; i < 2; i++) {
        advlog_child_info info;
        advlog_drain_child(r.drain, child[i].ring, &info);
        CHECK(info.number == 1 + (uint64_t)i && info.taken == 2 * RECORDS_A_THREAD && !info.dropped && !info.damaged);
        advlog_drain_remove_child(r.drain, child[i].ring);
        test_ring_free(&child[i]);
    }
    rig_free(&r);
}

/* ---- what a child may leave ---- */

static void a_damaged_child_is_left_alone_from_there_on(void) {
    for (int what = 0; what < 6; what++) {
        test_ring parent = test_ring_new(3, 2), child = test_ring_new(3, 2);
        advlog_drain *drain = advlog_drain_new(parent.ring);
        CHECK_INT(0, advlog_drain_add_child(drain, child.ring));
        push_numbered(&child, CHILD_STEP + 1, 0);
        uint64_t at = advlog_ring_write_pos(child.ring);
        push_numbered(&child, CHILD_STEP + 2, 9);
        push_numbered(&child, CHILD_STEP + 3, 0);
        advlog_slot *header = ring_slot(child.ring, at), *part = ring_slot(child.ring, at + 1);
        if (what == 0) header->kind = 99;
        if (what == 1) header->part = 200;
        if (what == 2) header->count = 60000;
        if (what == 3) part->part = 7;
        if (what == 4) part->more.id[0] = UINT16_MAX;
        if (what == 5) header->kind = ADVLOG_KIND_NAME;
        while (children_advance(drain)) {}
        advlog_child_info info;
        advlog_drain_child(drain, child.ring, &info);
        CHECK(info.damaged && info.taken == 1);
        CHECK_INT(at, advlog_ring_read_pos(child.ring));
        advlog_drain_free(drain);
        test_ring_free(&parent);
        test_ring_free(&child);
    }
}

static void what_a_dead_child_had_not_finished_is_passed_over(void) {
    test_ring parent = test_ring_new(3, 2), child = test_ring_new(3, 2);
    uint64_t hole;
    push_numbered(&child, CHILD_STEP + 1, 5);
    CHECK_INT(ADVLOG_OK, ring_try_reserve(child.ring, 2, &hole));
    push_numbered(&child, CHILD_STEP + 2, 5);
    advlog_drain *drain = advlog_drain_new(parent.ring);
    CHECK_INT(0, advlog_drain_add_child(drain, child.ring));
    while (children_advance(drain)) {}
    CHECK_INT(hole, advlog_ring_read_pos(child.ring)); /* it may yet come */
    advlog_repair repair;
    CHECK_INT(0, advlog_ring_repair(child.ring, false, &repair));
    CHECK_INT(1, repair.lost);
    while (children_advance(drain)) {}
    CHECK_INT(advlog_ring_write_pos(child.ring), advlog_ring_read_pos(child.ring));
    CHECK_INT(2, advlog_ring_accepted(parent.ring, ADVLOG_STREAM_METRICS));
    advlog_drain_free(drain);
    test_ring_free(&parent);
    test_ring_free(&child);
}

/* A recovery that could not settle first gave the copy's positions up, and those before them in the same run. */
static void a_copy_that_was_given_up_is_made_anew(void) {
    for (unsigned before = 0; before < 3; before++) {
        test_ring parent = test_ring_new(3, 2), child = test_ring_new(3, 2);
        uint64_t start = advlog_ring_write_pos(parent.ring), from = advlog_ring_read_pos(child.ring), hole, to;
        push_numbered(&child, CHILD_STEP + 1, 5);
        uint64_t slots = advlog_ring_write_pos(child.ring) - from;
        if (before)
            CHECK_INT(ADVLOG_OK, ring_try_reserve(parent.ring, before, &hole)); /* a thread's that was killed with the drain */
        CHECK_INT(ADVLOG_OK, ring_try_reserve(parent.ring, slots, &to));
        store_relaxed(&child.ring->header->handoff.position, to); /* relaxed: one thread */
        store_relaxed(&child.ring->header->handoff.until, from + slots);
        child.ring->header->handoff.number = 1;
        advlog_repair repair;
        CHECK_INT(0, advlog_ring_repair(parent.ring, false, &repair));
        CHECK_INT(1, repair.lost);
        CHECK_INT(0, advlog_child_ring_settle(parent.ring, child.ring));
        CHECK_INT(0, advlog_ring_repair(parent.ring, false, &repair));
        advlog_ring_reopen(parent.ring);
        advlog_drain *drain = advlog_drain_new(parent.ring);
        CHECK_INT(0, advlog_drain_add_child(drain, child.ring));
        while (children_advance(drain)) {}
        unsigned found = 0;
        for (uint64_t p = start, end = advlog_ring_write_pos(parent.ring); p != end; p += ring_slot(parent.ring, p)->part)
            if (ring_slot(parent.ring, p)->kind != ADVLOG_KIND_LOST) found += check_record(parent.ring, p, 1) == CHILD_STEP + 1;
        CHECK_INT(1, found);
        advlog_drain_free(drain);
        test_ring_free(&parent);
        test_ring_free(&child);
    }
}

/* How many of a record's values are under names that the parent knows. */
static unsigned known_values(advlog_ring *child, uint64_t position) {
    const advlog_view view = {child->slots, child->mask, position};
    unsigned known = 0;
    for (unsigned part = 0; part < view_slot(&view, 0)->part; part++) {
        record_extras extras = record_extras_of(&view, part);
        for (unsigned i = 0; i < extras.count; i++) known += extras.value[i] < 25;
    }
    return known;
}

static void a_name_that_finds_no_room_costs_its_value_which_is_counted(void) {
    test_ring parent = test_ring_of(advlog_ring_bytes(64, ADVLOG_SLAB_ENTRIES), 64, 64, 3, 2), child = test_ring_new(3, 2);
    char name[16];
    for (int i = 0; i < ADVLOG_MAX_NAMES; i++) {
        snprintf(name, sizeof name, i < 25 ? "m%02d" : "full%d", i);
        test_ring_name(&parent, name);
    }
    advlog_drain *drain = advlog_drain_new(parent.ring);
    CHECK_INT(0, advlog_drain_add_child(drain, child.ring));
    uint64_t position = advlog_ring_write_pos(parent.ring), left_out = 0;
    for (int64_t round = 0; round < 500; round++) {
        unsigned extras = (unsigned)(1 + next_random(&seed) % 40);
        uint64_t from = advlog_ring_write_pos(child.ring);
        push_numbered(&child, CHILD_STEP + round, extras);
        unsigned known = known_values(child.ring, from);
        left_out += extras - known;
        while (children_advance(drain)) {}
        CHECK_INT(left_out, advlog_ring_left_out(parent.ring));
        uint64_t end = advlog_ring_write_pos(parent.ring);
        CHECK_INT(known > 0, end != position);
        if (end != position) {
            CHECK_INT(CHILD_STEP + round, check_record(parent.ring, position, 1));
            CHECK_INT(known, ring_slot(parent.ring, position)->count);
            CHECK_INT(end, position + ring_slot(parent.ring, position)->part);
        }
        position = end;
        store_relaxed(&parent.ring->header->read_pos, position); /* relaxed: there is one thread */
        store_relaxed(&parent.ring->header->cached_read_pos, position);
    }
    CHECK_INT(0, advlog_ring_dropped(parent.ring, ADVLOG_DROP_FULL));
    advlog_ring_count_drop(child.ring, ADVLOG_DROP_CLOSED);
    advlog_drain_remove_child(drain, child.ring);
    CHECK_INT(1, advlog_ring_dropped(parent.ring, ADVLOG_DROP_CLOSED));
    advlog_drain_free(drain);
    test_ring_free(&parent);
    test_ring_free(&child);
}

/* A parent that is killed within the copy of such a record: the next one ends the copy in the positions that it has. */
static void a_shortened_copy_is_ended_in_its_place(void) {
    test_ring parent = test_ring_of(advlog_ring_bytes(64, ADVLOG_SLAB_ENTRIES), 64, 64, 3, 2), child = test_ring_new(3, 2);
    char name[16];
    for (int i = 0; i < ADVLOG_MAX_NAMES; i++) {
        snprintf(name, sizeof name, i < 25 ? "m%02d" : "full%d", i);
        test_ring_name(&parent, name);
    }
    uint64_t to, from = advlog_ring_write_pos(child.ring);
    push_numbered(&child, CHILD_STEP + 1, 40);
    unsigned known = known_values(child.ring, from), slots = (unsigned)ring_slots_for(known);
    CHECK(slots < ring_slots_for(40));
    CHECK_INT(ADVLOG_OK, ring_try_reserve(parent.ring, slots, &to));
    store_relaxed(&child.ring->header->handoff.position, to); /* relaxed: there is one thread */
    store_relaxed(&child.ring->header->handoff.until, advlog_ring_write_pos(child.ring));
    CHECK_INT(0, advlog_child_ring_settle(parent.ring, child.ring));
    CHECK_INT(CHILD_STEP + 1, check_record(parent.ring, to, child.ring->header->handoff.number));
    CHECK_INT(slots, ring_slot(parent.ring, to)->part);
    CHECK_INT(known, ring_slot(parent.ring, to)->count);
    CHECK_INT(advlog_ring_write_pos(child.ring), load_relaxed(&child.ring->header->read_pos));
    test_ring_free(&parent);
    test_ring_free(&child);
}

/* A stray store of the child's, at every step between the check of its record and the end of the copy. */
static void what_a_child_writes_while_it_is_copied_reaches_nobody(void) {
    test_ring parent = test_ring_new(3, 2), child = test_ring_at(SLOTS, SLOTS, 3, 2);
    advlog_drain *drain = advlog_drain_new(parent.ring);
    CHECK_INT(0, advlog_drain_add_child(drain, child.ring));
    uint64_t position = advlog_ring_write_pos(parent.ring);
    for (int64_t round = 0; round < 2000; round++) {
        if (next_random(&seed) % 3) push_numbered(&child, CHILD_STEP + round, (unsigned)(next_random(&seed) % 40));
        else push_text(&child, CHILD_STEP + round);
        scribbled = child.ring;
        while (children_advance(drain)) {}
        scribbled = NULL;
        for (uint64_t end = advlog_ring_write_pos(parent.ring); position != end;) {
            const advlog_slot *h = ring_slot(parent.ring, position);
            CHECK_INT(position + 1, load_relaxed(&h->mark));
            CHECK(check_record(parent.ring, position, 1) == CHILD_STEP + round);
            position += h->part;
        }
        store_relaxed(&parent.ring->header->read_pos, position); /* relaxed: there is one thread */
        store_relaxed(&parent.ring->header->cached_read_pos, position);
    }
    CHECK_INT(2000,
              advlog_ring_accepted(parent.ring, ADVLOG_STREAM_METRICS) + advlog_ring_accepted(parent.ring, ADVLOG_STREAM_EVENTS));
    advlog_drain_free(drain);
    test_ring_free(&parent);
    test_ring_free(&child);
}

int main(void) {
    killed_at_every_step_nothing_is_lost_or_doubled(SLOTS);
    killed_at_every_step_nothing_is_lost_or_doubled(-UINT64_C(100));
    CHECK(stops > 300);
    four_threads_of_two_children_and_two_of_the_parent_log_at_once();
    a_damaged_child_is_left_alone_from_there_on();
    what_a_dead_child_had_not_finished_is_passed_over();
    a_copy_that_was_given_up_is_made_anew();
    a_name_that_finds_no_room_costs_its_value_which_is_counted();
    a_shortened_copy_is_ended_in_its_place();
    what_a_child_writes_while_it_is_copied_reaches_nobody();
    return 0;
}
