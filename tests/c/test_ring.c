/* The ring keeps every record it accepts, whole and in order, wherever its positions start; it is full, closed
 * and a forked child's when it says so. */
#include <pthread.h>
#include <sched.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "build_ring.h"
#include "record.h"

#if defined(__SANITIZE_THREAD__)
#define RECORDS_A_THREAD 10000
#elif defined(__SANITIZE_ADDRESS__)
#define RECORDS_A_THREAD 50000
#else
#define RECORDS_A_THREAD 100000
#endif
#define THREADS 4
#define MAX_EXTRAS 47 /* 1 to 5 slots */

static const uint64_t TOP = UINT64_C(1) << 63;

/* ---- records that say what they must hold ---- */

static unsigned extras_of(uint64_t thread, uint64_t n) { return (unsigned)((n * 7 + thread * 13) % (MAX_EXTRAS + 1)); }
static double value_of(uint64_t thread, uint64_t n, unsigned i) { return (double)(thread * 1000003 + n * 64 + i) + 0.5; }

static int push_record(advlog_ring *ring, uint64_t thread, uint64_t n) {
    uint16_t ids[MAX_EXTRAS];
    double values[MAX_EXTRAS];
    unsigned extras = extras_of(thread, n);
    for (unsigned i = 0; i < extras; i++) {
        ids[i] = (uint16_t)((n + i) % ADVLOG_MAX_NAMES);
        values[i] = value_of(thread, n, i);
    }
    advlog_record r = {.time_ns = (int64_t)(n * 3),
                       .step = (int64_t)n,
                       .epoch = (int32_t)thread,
                       .batch = (int32_t)n,
                       .total_batches = -1,
                       .present = 0x3ff,
                       .kind = ADVLOG_KIND_BATCH,
                       .extras = (uint16_t)extras,
                       .extra_ids = ids,
                       .extra_values = values};
    for (unsigned i = 0; i < ADVLOG_CORE_METRICS; i++) r.core[i] = value_of(thread, n, 100 + i);
    return advlog_push(ring, &r);
}

/* Checks the record at `position`, if one is published there; its slots, or 0. */
static unsigned take_record(advlog_ring *ring, uint64_t position, uint64_t *thread, uint64_t *n) {
    const advlog_slot *h = ring_slot(ring, position);
    if (load_acquire(&h->mark) != position + 1) return 0; /* R, as the drain */
    advlog_view view = {ring->slots, ring->mask, position};
    *thread = (uint64_t)h->epoch;
    *n = (uint64_t)h->step;
    CHECK_INT(ring_slots_for(extras_of(*thread, *n)), h->part);
    CHECK_INT(h->part, record_slots(h));
    CHECK_INT((int64_t)(*n * 3), h->time_ns);
    for (unsigned i = 0; i < ADVLOG_CORE_METRICS; i++) CHECK_DOUBLE(value_of(*thread, *n, 100 + i), h->core[i]);
    unsigned seen = 0;
    for (unsigned part = 0; part < h->part; part++) {
        const advlog_slot *slot = view_slot(&view, part);
        CHECK(load_acquire(&slot->mark) == position + part + 1);
        CHECK(part == 0 || record_continues(h, part, slot));
        record_extras extras = record_extras_of(&view, part);
        for (unsigned i = 0; i < extras.count; i++, seen++) {
            CHECK_INT((*n + seen) % ADVLOG_MAX_NAMES, extras.id[i]);
            CHECK_DOUBLE(value_of(*thread, *n, seen), extras.value[i]);
        }
    }
    CHECK_INT(extras_of(*thread, *n), seen);
    return h->part;
}

static void free_until(advlog_ring *ring, uint64_t position) { store_release(&ring->header->read_pos, position); /* F */ }

/* ---- one thread ---- */

static void a_ring_holds_exactly_its_slots_and_is_closed_for_good(uint64_t start) {
    test_ring t = test_ring_at(64, start, 1, 0);
    uint64_t thread, n, read = start, sent = 0, taken = 0, used = 0;
    for (int round = 0; round < 40; round++) {
        while (used + ring_slots_for(extras_of(1, sent)) <= 64) {
            CHECK_INT(ADVLOG_OK, push_record(t.ring, 1, sent));
            used += ring_slots_for(extras_of(1, sent++));
        }
        CHECK_INT(ADVLOG_FULL, push_record(t.ring, 1, sent));
        CHECK(advlog_ring_write_pos(t.ring) == start + (read - start) + used);
        for (int i = 0; i < 1 + round % 9; i++) {
            unsigned slots = take_record(t.ring, read, &thread, &n);
            CHECK_INT(taken++, n);
            used -= slots;
            read += slots;
        }
        free_until(t.ring, read);
    }
    CHECK_INT(sent, advlog_ring_accepted(t.ring, ADVLOG_STREAM_METRICS));
    CHECK(!advlog_ring_closed(t.ring));
    uint64_t end = advlog_ring_close(t.ring);
    CHECK(end == read + used && advlog_ring_close(t.ring) == end && advlog_ring_write_pos(t.ring) == end);
    for (; read != end; taken++) {
        CHECK(advlog_ring_closed(t.ring));
        CHECK_INT(ADVLOG_CLOSED, push_record(t.ring, 1, sent));
        CHECK_INT(ADVLOG_CLOSED, advlog_wait_room(t.ring, 1, 0));
        CHECK_INT(ADVLOG_CLOSED, advlog_push_text(t.ring, 20, 0, "", 0));
        read += take_record(t.ring, read, &thread, &n);
        CHECK_INT(taken, n);
        free_until(t.ring, read);
    }
    CHECK_INT(sent, taken);
    CHECK_INT(ADVLOG_CLOSED, push_record(t.ring, 1, sent));
    CHECK_INT(0, take_record(t.ring, read, &thread, &n));
    test_ring_free(&t);
}

static void no_mark_of_an_unused_slot_is_taken_for_a_record(uint64_t start) {
    test_ring t = test_ring_at(64, start, 1, 0);
    uint64_t thread, n;
    for (uint64_t p = start; p != start + 64; p++) CHECK_INT(0, take_record(t.ring, p, &thread, &n));
    test_ring_free(&t);
}

static void the_read_position_is_looked_up_only_past_half(void) {
    test_ring t = test_ring_at(64, 64, 1, 0);
    advlog_ring_header *h = t.ring->header;
    for (uint64_t n = 0; n < 32; n++) CHECK_INT(ADVLOG_OK, push_record(t.ring, 0, 48 * n)); /* a slot each */
    free_until(t.ring, 90);
    CHECK_INT(64, load_relaxed(&h->cached_read_pos));
    store32_relaxed(&h->sleeping, 1);
    CHECK_INT(ADVLOG_OK, push_record(t.ring, 0, 0));
    CHECK_INT(90, load_relaxed(&h->cached_read_pos));
    CHECK_INT(0, load32_relaxed(&h->wake));
    for (uint64_t n = 0; n < 57; n++) CHECK_INT(ADVLOG_OK, push_record(t.ring, 0, 0));
    CHECK_INT(ADVLOG_FULL, push_record(t.ring, 0, 0));
    CHECK_INT(1, load32_relaxed(&h->wake)); /* once a sleep, however many pushes pass half */
    CHECK_INT(0, load32_relaxed(&h->sleeping));
    test_ring_free(&t);
}

static void a_text_takes_the_slots_it_needs(void) {
    static char text[ADVLOG_MAX_TEXT_BYTES + 1];
    for (size_t i = 0; i < sizeof text; i++) text[i] = (char)('a' + i % 26);
    test_ring t = test_ring_at(256, UINT64_MAX - 3, 1, 0);
    const unsigned sizes[] = {0, 1, 112, 113, 224, 225, 4095, ADVLOG_MAX_TEXT_BYTES};
    for (unsigned k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        uint64_t at = advlog_ring_write_pos(t.ring);
        CHECK_INT(ADVLOG_OK, advlog_push_text(t.ring, 30, 7, text, sizes[k]));
        advlog_view view = {t.ring->slots, t.ring->mask, at};
        const advlog_slot *h = view_slot(&view, 0);
        CHECK(load_acquire(&h->mark) == at + 1 && h->kind == ADVLOG_KIND_EVENT && h->level == 30 && h->time_ns == 7);
        CHECK_INT(1 + (sizes[k] + 111) / 112, h->part);
        unsigned seen = 0;
        for (unsigned part = 1; part < h->part; seen += view_slot(&view, part++)->count)
            CHECK(record_continues(h, part, view_slot(&view, part)) &&
                  memcmp(view_slot(&view, part)->text, text + seen, view_slot(&view, part)->count) == 0);
        CHECK_INT(sizes[k], seen);
        free_until(t.ring, advlog_ring_write_pos(t.ring));
    }
    CHECK_INT(ADVLOG_TOO_LONG, advlog_push_text(t.ring, 20, 0, text, ADVLOG_MAX_TEXT_BYTES + 1));
    CHECK_INT(ADVLOG_TOO_LONG, advlog_push_text(t.ring, 20, 0, text, UINT64_MAX));
    test_ring_free(&t);
    t = test_ring_at(64, 64, 1, 0);
    CHECK_INT(ADVLOG_OK, advlog_push_text(t.ring, 20, 0, text, 15 * 112)); /* a quarter of this ring */
    CHECK_INT(ADVLOG_TOO_LONG, advlog_push_text(t.ring, 20, 0, text, 15 * 112 + 1));
    test_ring_free(&t);
}

static void memory_that_is_no_ring_is_refused(void) {
    test_ring t = test_ring_at(64, 64, 1, 0);
    uint64_t bytes = test_ring_bytes(64);
    advlog_ring_header *h = t.ring->header;
    const advlog_identity nobody = {0};
    int error = 0;
    CHECK_INT(ADVLOG_RING_TOO_SMALL, advlog_ring_init(t.memory, bytes, bytes - 1, 64, ADVLOG_SLAB_ENTRIES, 64, &nobody));
    CHECK_INT(ADVLOG_RING_TOO_SMALL, advlog_ring_init(t.memory, bytes, bytes + 1, 64, ADVLOG_SLAB_ENTRIES, 64, &nobody));
    CHECK_INT(ADVLOG_RING_TOO_SMALL, advlog_ring_init(t.memory, bytes, bytes, 63, ADVLOG_SLAB_ENTRIES, 64, &nobody));
    CHECK(!advlog_ring_attach(t.memory, bytes - 1, &error) && error == ADVLOG_RING_TOO_SMALL);
    CHECK(!advlog_ring_attach(t.memory, 100, &error) && error == ADVLOG_RING_TOO_SMALL);
    h->layout_version++;
    CHECK(!advlog_ring_attach(t.memory, bytes, &error) && error == ADVLOG_RING_BAD_VERSION);
    h->layout_version--;
    h->slots = 65;
    CHECK(!advlog_ring_attach(t.memory, bytes, &error) && error == ADVLOG_RING_BAD_LAYOUT);
    store_relaxed(&h->magic, 0);
    CHECK(!advlog_ring_attach(t.memory, bytes, &error) && error == ADVLOG_RING_BAD_MAGIC);
    test_ring_free(&t);
}

static void names_keep_their_ids_and_end_at_65535(void) {
    test_ring t = test_ring_of(advlog_ring_bytes(64, ADVLOG_SLAB_ENTRIES), 64, 64, 1, 0);
    char name[ADVLOG_MAX_NAME_BYTES + 1];
    memset(name, 'x', sizeof name);
    CHECK_INT(-1, advlog_name_intern(t.ring, name, 0));
    CHECK_INT(-1, advlog_name_intern(t.ring, name, sizeof name));
    for (int round = 0; round < 2; round++)
        for (int id = 0; id < ADVLOG_MAX_NAMES; id++)
            CHECK_INT(id, advlog_name_intern(t.ring, name, (uint64_t)sprintf(name, "metric %d", id)));
    CHECK_INT(-1, advlog_name_intern(t.ring, "one too many", 12));
    CHECK_INT(-1, name_find(t.ring, "one too many", 12));
    CHECK_INT(65534, name_find(t.ring, "metric 65534", 12));
    CHECK_INT(12, advlog_name_get(t.ring, 65534, name));
    CHECK(memcmp(name, "metric 65534", 12) == 0);
    CHECK_INT(-1, advlog_name_get(t.ring, 65535, name));
    /* As another process finds them. */
    int error = 0;
    advlog_ring *again = advlog_ring_attach(t.memory, advlog_ring_bytes(64, ADVLOG_SLAB_ENTRIES), &error);
    CHECK_INT(11, advlog_name_get(again, 1023, name));
    CHECK(memcmp(name, "metric 1023", 11) == 0);
    CHECK_INT(40000, advlog_name_intern(again, "metric 40000", 12));
    advlog_ring_detach(again);
    test_ring_free(&t);
}

/* The longest names fill what is there from the first; a file has more. */
static void room_for_names_grows_in_the_ring_s_file(void) {
    char path[] = "/tmp/advlog-names-XXXXXX", name[ADVLOG_MAX_NAME_BYTES];
    int fd = mkstemp(path);
    CHECK(fd >= 0 && unlink(path) == 0);
    const uint64_t first = advlog_ring_first_bytes(64, ADVLOG_SLAB_ENTRIES), all = advlog_ring_bytes(64, ADVLOG_SLAB_ENTRIES);
    CHECK(posix_fallocate(fd, 0, (off_t)first) == 0 && ftruncate(fd, (off_t)all) == 0);
    void *memory = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(memory != MAP_FAILED);
    const advlog_identity identity = {.attempt = 1};
    CHECK_INT(0, advlog_ring_init(memory, all, first, 64, ADVLOG_SLAB_ENTRIES, 64, &identity));
    int error = 0, learned = 0;
    advlog_ring *ring = advlog_ring_attach(memory, all, &error);
    CHECK(ring != NULL);
    CHECK_INT(first, advlog_ring_there(ring));
    memset(name, 'y', sizeof name);
    while (learned < 1000 && (sprintf(name, "%05d", learned), name[5] = 'y', advlog_name_intern(ring, name, 255)) == learned)
        learned++;
    CHECK_INT(255, learned); /* a page's worth less than 256 of 256 bytes */
    advlog_ring_set_file(ring, fd);
    for (; learned < ADVLOG_MAX_NAMES; learned++) {
        sprintf(name, "%05d", learned);
        name[5] = 'y';
        CHECK_INT(learned, advlog_name_intern(ring, name, 255));
    }
    CHECK_INT(-1, advlog_name_intern(ring, "full", 4));
    CHECK(advlog_ring_there(ring) <= all);
    struct stat found;
    CHECK(fstat(fd, &found) == 0 && found.st_size == (off_t)all);
    advlog_ring_set_file(ring, -1);
    advlog_ring_detach(ring);
    munmap(memory, all);
    close(fd);
}

/* A ring of version 1, as a process of an earlier release left it. */
static void names_of_version_1_are_read_and_added_to(void) {
    const uint64_t bytes = ADVLOG_HEADER_BYTES + 2 * 65536 + 64 * ADVLOG_SLOT_BYTES + 4096;
    advlog_ring_header *h = calloc(1, bytes + 65536);
    const uint64_t names = (sizeof(advlog_name_table_1) + ADVLOG_PAGE_BYTES - 1) / ADVLOG_PAGE_BYTES * ADVLOG_PAGE_BYTES;
    h->layout_version = 1;
    h->slot_bytes = ADVLOG_SLOT_BYTES;
    h->file_bytes = bytes + 65536;
    h->slots = 64;
    h->names_offset = ADVLOG_HEADER_BYTES;
    h->slab_offset = ADVLOG_HEADER_BYTES + names;
    h->slab_entries = ADVLOG_SLAB_ENTRIES;
    h->slots_offset = h->slab_offset + ADVLOG_SLAB_ENTRIES * sizeof(advlog_slab_entry);
    store_relaxed(&h->magic, ADVLOG_RING_MAGIC);
    int error = 0;
    advlog_ring *ring = advlog_ring_attach(h, bytes + 65536, &error);
    CHECK_INT(0, error);
    char name[ADVLOG_MAX_NAME_BYTES];
    for (int id = 0; id < 1024; id++) CHECK_INT(id, advlog_name_intern(ring, name, (uint64_t)sprintf(name, "n%d", id)));
    CHECK_INT(-1, advlog_name_intern(ring, "more", 4));
    CHECK_INT(1024, advlog_name_count(ring));
    CHECK_INT(5, advlog_name_get(ring, 1023, name));
    CHECK(memcmp(name, "n1023", 5) == 0);
    CHECK_INT(7, name_find(ring, "n7", 2));
    CHECK_INT(h->slots_offset, advlog_ring_slots_offset(ring));
    CHECK_INT(h->slots_offset + 64 * ADVLOG_SLOT_BYTES, advlog_ring_there(ring));
    advlog_ring_detach(ring);
    free(h);
}

static void a_forked_child_writes_nothing(void) {
    test_ring t = test_ring_at(64, 64, 1, 0);
    CHECK_INT(ADVLOG_OK, push_record(t.ring, 1, 0));
    store32_relaxed(&t.ring->header->sleeping, 1); /* relaxed: no other thread */
    size_t bytes = test_ring_bytes(64);
    uint64_t end = advlog_ring_write_pos(t.ring);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        char *before = malloc(bytes);
        memcpy(before, t.memory, bytes);
        bool silent = push_record(t.ring, 1, 1) == ADVLOG_FORKED && advlog_push_text(t.ring, 20, 0, "x", 1) == ADVLOG_FORKED;
        silent &= advlog_name_intern(t.ring, "x", 1) == -1 && advlog_ring_close(t.ring) == end;
        advlog_ring_count_drop(t.ring, ADVLOG_DROP_FULL);
        ring_wake(t.ring);
        silent &= advlog_wait_room(t.ring, 64, 1) == ADVLOG_FORKED;
        _exit(silent && memcmp(before, t.memory, bytes) == 0 ? 0 : 1);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    CHECK_INT(0, WEXITSTATUS(status));
    CHECK_INT(ADVLOG_OK, push_record(t.ring, 1, 1));
    test_ring_free(&t);
}

/* ---- many threads ---- */

typedef struct {
    advlog_ring *ring;
    uint64_t thread;
} producer_of;

static void *produce(void *of) {
    producer_of *p = of;
    for (uint64_t n = 0; n < RECORDS_A_THREAD; n++) {
        int status;
        while ((status = push_record(p->ring, p->thread, n)) == ADVLOG_FULL)
            CHECK(advlog_wait_room(p->ring, 5, INT64_C(60000000000)) == ADVLOG_OK);
        CHECK_INT(ADVLOG_OK, status);
    }
    return NULL;
}

static void nothing_is_lost_doubled_or_torn_between_threads(uint64_t slots, uint64_t start) {
    test_ring t = test_ring_at(slots, start, 1, 0);
    pthread_t thread[THREADS];
    producer_of of[THREADS];
    uint64_t next[THREADS] = {0}, taken = 0, read = start, who, n;
    for (unsigned i = 0; i < THREADS; i++) {
        of[i] = (producer_of){t.ring, i};
        CHECK_INT(0, pthread_create(&thread[i], NULL, produce, &of[i]));
    }
    while (taken < THREADS * (uint64_t)RECORDS_A_THREAD) {
        unsigned part = take_record(t.ring, read, &who, &n);
        if (!part) {
            sched_yield();
            continue;
        }
        CHECK(who < THREADS);
        CHECK_INT(next[who]++, n); /* each thread's records come in its order, each once */
        read += part;
        taken++;
        free_until(t.ring, read);
    }
    for (unsigned i = 0; i < THREADS; i++) CHECK_INT(0, pthread_join(thread[i], NULL));
    CHECK(advlog_ring_close(t.ring) == read);
    CHECK_INT(taken, advlog_ring_accepted(t.ring, ADVLOG_STREAM_METRICS));
    test_ring_free(&t);
}

int main(void) {
    for (uint64_t k = 0; k <= 200; k++) {
        a_ring_holds_exactly_its_slots_and_is_closed_for_good(0 - k);
        a_ring_holds_exactly_its_slots_and_is_closed_for_good(TOP - k);
        no_mark_of_an_unused_slot_is_taken_for_a_record(0 - k);
        no_mark_of_an_unused_slot_is_taken_for_a_record(TOP - k);
    }
    a_ring_holds_exactly_its_slots_and_is_closed_for_good(64);
    the_read_position_is_looked_up_only_past_half();
    a_text_takes_the_slots_it_needs();
    memory_that_is_no_ring_is_refused();
    names_keep_their_ids_and_end_at_65535();
    room_for_names_grows_in_the_ring_s_file();
    names_of_version_1_are_read_and_added_to();
    a_forked_child_writes_nothing();
    nothing_is_lost_doubled_or_torn_between_threads(64, 0 - (uint64_t)RECORDS_A_THREAD);
    nothing_is_lost_doubled_or_torn_between_threads(1024, TOP - RECORDS_A_THREAD);
    return 0;
}
