/* What an accelerator owes to records comes into them, whole and in order, whenever and in whatever halves it lands; what
 * does not come is said, and comes to no other record. */
#include <math.h>

#include "build_drain.h"

static void stopped_here(void);
#undef FAILPOINT
#define FAILPOINT(name) stopped_here()
#include "../../csrc/slab.c"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define VALUES 20000
#else
#define VALUES 400000
#endif
#define SLOTS 1024

static uint64_t seed = 11;

/* A device: it stores the two halves of an entry, in this order or that. */
static void land(advlog_ring *ring, uint64_t reference, double value, int halves) {
    advlog_slab_entry *entry = &ring->slab[reference % ADVLOG_SLAB_ENTRIES];
    uint64_t bits = bits_of(value), check = bits ^ advlog_slab_key(ring, reference);
    if (halves & 1) store_relaxed(&entry->value, bits);
    if (halves & 2) store_relaxed(&entry->check, check);
}

static double of_reference(uint64_t reference) { return double_of(reference); }

static int push_deferred(advlog_ring *ring, int64_t step, unsigned extras, uint64_t reference) {
    uint16_t ids[64] = {0};
    double values[64];
    uint8_t deferred[8] = {0};
    for (unsigned i = 0; i < extras; i++) {
        values[i] = of_reference(reference + 1 + i);
        deferred[i / 8] |= (uint8_t)(1u << i % 8);
    }
    advlog_record record = {.time_ns = step,
                            .step = step,
                            .present = ADVLOG_HAS_STEP | 1,
                            .kind = ADVLOG_KIND_METRICS,
                            .core = {of_reference(reference)},
                            .core_deferred = 1,
                            .extras = (uint16_t)extras,
                            .extra_ids = ids,
                            .extra_values = values,
                            .extra_deferred = extras ? deferred : NULL};
    return advlog_push(ring, &record);
}

static void a_value_is_waited_for(void) {
    rig r = rig_new(SLOTS, SLOTS);
    advlog_ring *ring = r.t.ring;
    test_ring_name(&r.t, "m");
    uint64_t reference = advlog_slab_reserve(ring, 1);
    CHECK(is_reference(reference));
    CHECK_INT(ADVLOG_OK, push_deferred(ring, 1, 0, reference));
    rig_run(&r, 0);
    CHECK_INT(SLOTS, r.drain->frontier);
    land(ring, reference, 0.25, 1);
    rig_run(&r, 0);
    CHECK_INT(SLOTS, r.drain->frontier);
    land(ring, reference, 0.25, 2);
    rig_run(&r, 0);
    CHECK_INT(SLOTS + 1, r.drain->frontier);
    CHECK_DOUBLE(0.25, ring_slot(ring, SLOTS)->core[0]);
    CHECK_INT(0, ring_slot(ring, SLOTS)->deferred);
    CHECK_INT(0, advlog_slab_used(ring));
    rig_free(&r);
}

static void what_is_given_up_fills_no_later_record(void) {
    rig r = rig_new(SLOTS, SLOTS);
    advlog_ring *ring = r.t.ring;
    advlog_drain_set_deferred_timeout(r.drain, 0);
    uint64_t late = advlog_slab_reserve(ring, 1);
    CHECK_INT(ADVLOG_OK, push_deferred(ring, 1, 0, late));
    rig_run(&r, 0);
    CHECK_INT(SLOTS + 1, r.drain->frontier);
    CHECK_INT(ADVLOG_UNRESOLVED_TIMEOUT, record_unresolved(ring_slot(ring, SLOTS)->core[0]));
    CHECK_INT(1, ring_slot(ring, SLOTS)->deferred);
    advlog_totals totals;
    advlog_drain_totals(r.drain, &totals);
    CHECK_INT(1, totals.unresolved[ADVLOG_UNRESOLVED_TIMEOUT]);

    uint64_t next = advlog_slab_reserve(ring, 1);
    CHECK(next % ADVLOG_SLAB_ENTRIES != late % ADVLOG_SLAB_ENTRIES);
    advlog_drain_set_deferred_timeout(r.drain, FOREVER);
    CHECK_INT(ADVLOG_OK, push_deferred(ring, 2, 0, next));
    land(ring, late, 1.0, 3);
    rig_run(&r, 0);
    CHECK_INT(SLOTS + 1, r.drain->frontier);
    CHECK_INT(1, advlog_slab_used(ring)); /* the late one's is free again */
    land(ring, next, 2.0, 3);
    rig_run(&r, 0);
    CHECK_DOUBLE(2.0, ring_slot(ring, SLOTS + 1)->core[0]);
    CHECK_INT(0, advlog_slab_used(ring));
    rig_free(&r);
}

static void what_is_abandoned_is_free_once_it_came(void) {
    rig r = rig_new(SLOTS, SLOTS);
    advlog_ring *ring = r.t.ring;
    uint64_t reference = advlog_slab_reserve(ring, 3);
    for (uint64_t i = 0; i < 3; i++) slab_abandon(ring, reference + i);
    rig_run(&r, 0);
    CHECK_INT(3, advlog_slab_used(ring));
    land(ring, reference + 1, 5.0, 3);
    rig_run(&r, 0);
    CHECK_INT(2, advlog_slab_used(ring));
    land(ring, reference, 5.0, 3);
    land(ring, reference + 2, 5.0, 3);
    rig_run(&r, 0);
    CHECK_INT(0, advlog_slab_used(ring));
    rig_free(&r);
}

static void a_moment_ends_all_waiting(void) {
    rig r = rig_new(SLOTS, SLOTS);
    advlog_ring *ring = r.t.ring;
    for (int step = 1; step <= 10; step++) CHECK_INT(ADVLOG_OK, push_deferred(ring, step, 0, advlog_slab_reserve(ring, 1)));
    rig_run(&r, 0);
    CHECK_INT(SLOTS, r.drain->frontier);
    advlog_drain_give_up_at(r.drain, advlog_monotonic_ns());
    rig_run(&r, 0);
    CHECK_INT(SLOTS + 10, r.drain->frontier);
    rig_free(&r);
}

static void entries_are_counted(void) {
    rig r = rig_new(SLOTS, SLOTS);
    advlog_ring *ring = r.t.ring;
    CHECK_INT(0, advlog_slab_reserve(ring, 0));
    CHECK_INT(0, advlog_slab_reserve(ring, ADVLOG_SLAB_ENTRIES + 1));
    uint64_t all = advlog_slab_reserve(ring, ADVLOG_SLAB_ENTRIES - 1);
    CHECK_INT(0, all % ADVLOG_SLAB_ENTRIES);
    CHECK_INT(0, advlog_slab_reserve(ring, 2));
    uint64_t last = advlog_slab_reserve(ring, 1);
    CHECK_INT(ADVLOG_SLAB_ENTRIES - 1, last % ADVLOG_SLAB_ENTRIES);
    CHECK_INT(0, advlog_slab_reserve(ring, 1));
    CHECK(advlog_slab_key(ring, all) != advlog_slab_key(ring, last));
    CHECK(advlog_slab_key(ring, all) == advlog_slab_key(ring, all + 1));
    rig_free(&r);
}

/* What lies lowest is used again where it is free; else what was free for longest. */
static void entries_low_down_come_first(void) {
    rig r = rig_new(SLOTS, SLOTS);
    advlog_ring *ring = r.t.ring;
    uint64_t first = advlog_slab_reserve(ring, 3);
    CHECK_INT(0, first % ADVLOG_SLAB_ENTRIES);
    uint64_t second = advlog_slab_reserve(ring, 2);
    CHECK_INT(3, second % ADVLOG_SLAB_ENTRIES);
    slab_release(ring, first, 3);
    CHECK_INT(0, advlog_slab_reserve(ring, 2) % ADVLOG_SLAB_ENTRIES);
    CHECK_INT(5, advlog_slab_reserve(ring, 3) % ADVLOG_SLAB_ENTRIES); /* not the one at 2: three do not fit there */
    uint64_t rest = advlog_slab_reserve(ring, ADVLOG_SLAB_ENTRIES - 8);
    CHECK_INT(8, rest % ADVLOG_SLAB_ENTRIES);
    CHECK_INT(2, advlog_slab_reserve(ring, 1) % ADVLOG_SLAB_ENTRIES); /* the last one left */
    CHECK_INT(0, advlog_slab_reserve(ring, 1));
    CHECK_INT(0, advlog_slab_reserve(ring, 2)); /* said without another look */
    slab_release(ring, second, 2);
    CHECK_INT(0, advlog_slab_reserve(ring, 3));
    CHECK_INT(3, advlog_slab_reserve(ring, 2) % ADVLOG_SLAB_ENTRIES);
    rig_free(&r);
}

static void a_larger_slab_holds_more(void) {
    const advlog_identity identity = {.run_id = "0123456789abcde", .attempt = 1};
    const uint64_t bytes = advlog_ring_first_bytes(64, ADVLOG_MAX_SLAB_ENTRIES);
    CHECK_INT((ADVLOG_MAX_SLAB_ENTRIES - ADVLOG_SLAB_ENTRIES) * sizeof(advlog_slab_entry),
              bytes - advlog_ring_first_bytes(64, ADVLOG_SLAB_ENTRIES));
    void *memory = aligned_alloc(ADVLOG_PAGE_BYTES, bytes);
    memset(memory, 0, bytes);
    static const uint32_t wrong[] = {0, 1, ADVLOG_SLAB_ENTRIES / 2, ADVLOG_SLAB_ENTRIES + 1, 2 * ADVLOG_MAX_SLAB_ENTRIES};
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK_INT(ADVLOG_RING_TOO_SMALL, advlog_ring_init(memory, bytes, bytes, 64, wrong[i], 64, &identity));
    CHECK_INT(0, advlog_ring_init(memory, bytes, bytes, 64, ADVLOG_MAX_SLAB_ENTRIES, 64, &identity));
    int error = 0;
    advlog_ring *ring = advlog_ring_attach(memory, bytes, &error);
    CHECK_INT(0, error);
    CHECK_INT(ADVLOG_MAX_SLAB_ENTRIES, advlog_slab_entries(ring));
    uint64_t all = advlog_slab_reserve(ring, ADVLOG_MAX_SLAB_ENTRIES);
    CHECK(is_reference(all));
    CHECK_INT(0, advlog_slab_reserve(ring, 1));
    CHECK(advlog_slab_key(ring, all) == advlog_slab_key(ring, all + ADVLOG_MAX_SLAB_ENTRIES - 1));
    CHECK_INT(ADVLOG_MAX_SLAB_ENTRIES, advlog_slab_used(ring));
    slab_release(ring, all, ADVLOG_MAX_SLAB_ENTRIES);
    CHECK(advlog_slab_key(ring, all) != advlog_slab_key(ring, advlog_slab_reserve(ring, 1)));

    /* The last entry is waited for, given up and swept as any other. */
    uint64_t last = advlog_slab_reserve(ring, ADVLOG_MAX_SLAB_ENTRIES - 1) + ADVLOG_MAX_SLAB_ENTRIES - 2;
    CHECK_INT(ADVLOG_MAX_SLAB_ENTRIES - 1, last % ADVLOG_MAX_SLAB_ENTRIES);
    static slab_quarantine given_up;
    slab_abandon(ring, last);
    slab_sweep(ring, &given_up);
    CHECK_INT(ADVLOG_MAX_SLAB_ENTRIES, advlog_slab_used(ring));
    uint64_t bits = bits_of(3.5);
    ring->slab[ADVLOG_MAX_SLAB_ENTRIES - 1] = (advlog_slab_entry){bits, bits ^ advlog_slab_key(ring, last)};
    slab_sweep(ring, &given_up);
    CHECK_INT(ADVLOG_MAX_SLAB_ENTRIES - 1, advlog_slab_used(ring));
    advlog_ring_detach(ring);

    ((advlog_ring_header *)memory)->slab_entries = ADVLOG_SLAB_ENTRIES; /* does not fit what lies where */
    CHECK(!advlog_ring_attach(memory, bytes, &error) && error == ADVLOG_RING_BAD_LAYOUT);
    free(memory);
}

/* ---- a device that lands what it has in any order, half by half, while records are logged and drained ---- */

#define IN_FLIGHT 64

static struct {
    atomic_u64 reference[IN_FLIGHT]; /* 0: nothing there */
    double value[IN_FLIGHT];
    atomic_u32 stop;
} device;

static void *device_main(void *argument) {
    advlog_ring *ring = argument;
    uint64_t random = 5;
    int landed[IN_FLIGHT] = {0};
    while (!load32_acquire(&device.stop)) {
        unsigned at = (unsigned)(next_random(&random) % IN_FLIGHT);
        uint64_t reference = load_acquire(&device.reference[at]);
        if (!reference) continue;
        int half = 1 + (int)(next_random(&random) % 2);
        land(ring, reference, device.value[at], half);
        landed[at] |= half;
        if (landed[at] != 3) continue;
        landed[at] = 0;
        store_release(&device.reference[at], 0);
    }
    return NULL;
}

static void enqueue(uint64_t reference, double value) {
    static unsigned at;
    while (load_acquire(&device.reference[at % IN_FLIGHT])) at++;
    device.value[at % IN_FLIGHT] = value;
    store_release(&device.reference[at++ % IN_FLIGHT], reference);
}

static void *drain_main(void *argument) {
    rig *r = argument;
    while (!(rig_run(r, FOREVER) & ADVLOG_DRAIN_DONE)) continue;
    return NULL;
}

static double value_of(int64_t step, unsigned which) { return (double)step * 100 + which + 0.5; }

static void values_come_whole_and_in_order(void) {
    rig r = rig_new(SLOTS, SLOTS);
    advlog_ring *ring = r.t.ring;
    pthread_t drains, lands;
    int sink = rig_add(&r, ADVLOG_SINK_SPOOL, ADVLOG_STREAM_METRICS, NO_LIMIT, 0);
    test_ring_name(&r.t, "m");
    rig_serve(&r);
    CHECK_INT(0, pthread_create(&lands, NULL, device_main, ring));
    CHECK_INT(0, pthread_create(&drains, NULL, drain_main, &r));
    int64_t step = 0, values = 0;
    while (values < VALUES) {
        unsigned extras = (unsigned)(next_random(&seed) % 20);
        uint64_t reference;
        while (!(reference = advlog_slab_reserve(ring, extras + 1)))
            CHECK_INT(ADVLOG_OK, advlog_wait_room(ring, SLOTS / 2, FOREVER));
        step++;
        for (unsigned i = 0; i <= extras; i++) enqueue(reference + i, value_of(step, i));
        int status;
        while ((status = push_deferred(ring, step, extras, reference)) == ADVLOG_FULL)
            CHECK_INT(ADVLOG_OK, advlog_wait_room(ring, 3, FOREVER));
        CHECK_INT(ADVLOG_OK, status);
        values += extras + 1;
    }
    advlog_ring_close(ring);
    pthread_join(drains, NULL);
    store32_release(&device.stop, 1);
    pthread_join(lands, NULL);
    advlog_sink_info info = rig_info(&r, sink);
    CHECK_INT(step, info.cursor.written);

    advlog_totals totals;
    advlog_drain_totals(r.drain, &totals);
    for (int reason = 0; reason < ADVLOG_UNRESOLVED_REASONS; reason++) CHECK_INT(0, totals.unresolved[reason]);
    CHECK_INT(step, totals.core[0].count);
    CHECK_DOUBLE(value_of(1, 0), totals.core[0].min);
    CHECK_DOUBLE(value_of(step, 0), totals.core[0].max);

    FILE *spool = fopen(rig_path(&r, sink, 1), "rb");
    CHECK(spool != NULL);
    int64_t seen = 0;
    unsigned next = 0;
    advlog_slot slot;
    while (fread(&slot, sizeof slot, 1, spool) == 1) {
        if (slot.kind == ADVLOG_KIND_METRICS) {
            CHECK_INT(++seen, slot.step);
            CHECK_DOUBLE(value_of(seen, 0), slot.core[0]);
            next = 1;
            for (unsigned i = 0; i < slot.count && i < ADVLOG_HEADER_EXTRAS; i++)
                CHECK_DOUBLE(value_of(seen, next++), slot.extra[i]);
        } else if (slot.kind == ADVLOG_KIND_PART) {
            for (unsigned i = 0; i < slot.count; i++) CHECK_DOUBLE(value_of(seen, next++), slot.more.value[i]);
        } else {
            continue;
        }
        CHECK_INT(0, slot.deferred);
    }
    CHECK_INT(step, seen);
    fclose(spool);
    rig_free(&r);
}

/* ---- after a SIGKILL, between any value that is filled in and the bit that says so ---- */

static struct {
    const test_ring *ring; /* NULL: nobody looks */
    double value;
    int stops;
} watched;

static void check_landed(const advlog_ring *ring, double value) {
    const advlog_slot *first = ring_slot(ring, SLOTS), *more = ring_slot(ring, SLOTS + 1);
    CHECK_INT(0, first->deferred);
    CHECK_INT(0, more->deferred);
    CHECK_DOUBLE(value, first->core[0]);
    for (unsigned at = 0; at < ADVLOG_HEADER_EXTRAS; at++) CHECK_DOUBLE(value, first->extra[at]);
    for (unsigned at = 0; at < ADVLOG_PART_EXTRAS; at++) CHECK_DOUBLE(value, more->more.value[at]);
}

/* What is there now is recovered, in a copy of it. */
static void stopped_here(void) {
    const test_ring *dying = watched.ring;
    if (!dying) return;
    watched.ring = NULL;
    watched.stops++;
    uint64_t bytes = test_ring_bytes(SLOTS);
    void *memory = aligned_alloc(ADVLOG_PAGE_BYTES, bytes);
    CHECK(memory != NULL);
    memcpy(memory, dying->memory, bytes);
    int error = 0;
    advlog_ring *copy = advlog_ring_attach(memory, bytes, &error);
    CHECK(copy != NULL);
    advlog_repair found;
    CHECK_INT(0, advlog_ring_repair(copy, false, &found));
    check_landed(copy, watched.value);
    advlog_ring_detach(copy);
    free(memory);
    watched.ring = dying;
}

static void a_repair_keeps_what_came(void) {
    const double values[] = {0.25, 0.0, -0.0, -5e-324, NAN, 1.0 / 3};
    for (unsigned i = 0; i < sizeof values / sizeof *values; i++) {
        test_ring t = test_ring_at(SLOTS, SLOTS, 1, 0);
        advlog_ring *ring = t.ring;
        test_ring_name(&t, "m");
        uint64_t came = advlog_slab_reserve(ring, 15), never = advlog_slab_reserve(ring, 15);
        CHECK_INT(ADVLOG_OK, push_deferred(ring, 1, 14, came));
        CHECK_INT(ADVLOG_OK, push_deferred(ring, 2, 14, never));
        for (unsigned at = 0; at < 15; at++) land(ring, came + at, values[i], 3);
        watched.ring = &t;
        watched.value = values[i];
        watched.stops = 0;
        for (int again = 0; again < 3; again++) {
            advlog_repair found;
            CHECK_INT(0, advlog_ring_repair(ring, false, &found));
            CHECK_INT(2, found.records[ADVLOG_STREAM_METRICS]);
            check_landed(ring, values[i]);
            CHECK_INT(7 << ADVLOG_CORE_METRICS | 1, ring_slot(ring, SLOTS + 2)->deferred);
            CHECK_INT((1 << ADVLOG_PART_EXTRAS) - 1, ring_slot(ring, SLOTS + 3)->deferred);
            CHECK_INT(ADVLOG_UNRESOLVED_KILLED, record_unresolved(ring_slot(ring, SLOTS + 2)->core[0]));
            CHECK_INT(ADVLOG_UNRESOLVED_KILLED, record_unresolved(ring_slot(ring, SLOTS + 3)->more.value[10]));
        }
        CHECK_INT(15, watched.stops);
        watched.ring = NULL;
        test_ring_free(&t);
    }
}

int main(void) {
    a_value_is_waited_for();
    what_is_given_up_fills_no_later_record();
    what_is_abandoned_is_free_once_it_came();
    a_moment_ends_all_waiting();
    entries_are_counted();
    entries_low_down_come_first();
    a_larger_slab_holds_more();
    values_come_whole_and_in_order();
    a_repair_keeps_what_came();
    return 0;
}
