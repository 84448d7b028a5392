/* The ring's memory, the producers' slow half, and the push for any C caller.
 * The protocol and its ordering edges are described in ring.h. */
#include "names.h"

#include <limits.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <pthread.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

_Static_assert(ADVLOG_MAX_RECORD_EXTRAS == ADVLOG_HEADER_EXTRAS + (ADVLOG_MAX_RECORD_SLOTS - 1) * ADVLOG_PART_EXTRAS,
               "a record's slots hold its extras");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "slots are little-endian");

#define WHOLE_PAGES(bytes) (((bytes) + ADVLOG_PAGE_BYTES - 1) / ADVLOG_PAGE_BYTES * ADVLOG_PAGE_BYTES)
#define NAMES_BYTES WHOLE_PAGES(sizeof(advlog_name_list) + (size_t)ADVLOG_MAX_NAMES * (ADVLOG_MAX_NAME_BYTES + 1))
#define FIRST_NAMES_BYTES (16 * ADVLOG_PAGE_BYTES)
#define NAMES_BYTES_1 WHOLE_PAGES(sizeof(advlog_name_table_1))

/* Where the parts of a ring lie. */
typedef struct {
    uint64_t names, slab, slots;
    uint64_t end; /* of what must be there from the first */
} ring_layout;

static ring_layout layout_of(uint32_t version, uint64_t slots, uint64_t slab_entries) {
    const uint64_t all = slots * ADVLOG_SLOT_BYTES, begin = ADVLOG_HEADER_BYTES, slab = slab_entries * sizeof(advlog_slab_entry);
    if (version == 1)
        return (ring_layout){begin, begin + NAMES_BYTES_1, begin + NAMES_BYTES_1 + slab, begin + NAMES_BYTES_1 + slab + all};
    return (ring_layout){begin + slab + all, begin, begin + slab, begin + slab + all + FIRST_NAMES_BYTES};
}

/* ---- fork ---- */

/* A page of the handle's own, which the kernel wipes in a child however it forked. */
static bool canary_page(advlog_ring *ring) {
#ifdef MADV_WIPEONFORK
    void *page = mmap(NULL, ADVLOG_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return false;
    if (madvise(page, ADVLOG_PAGE_BYTES, MADV_WIPEONFORK) != 0) {
        munmap(page, ADVLOG_PAGE_BYTES);
        return false;
    }
    ring->canary = page;
    ring->canary_alive = 1;
    store32_relaxed(ring->canary, 1);
    return true;
#else
    (void)ring;
    return false;
#endif
}

/* Where no kernel does that: how many forks lie between the first process and this one. */
static atomic_u32 forks;
static bool forks_counted;
static void count_fork(void) { add32_relaxed(&forks, 1); }
static void watch_forks(void) { forks_counted = pthread_atfork(NULL, NULL, count_fork) == 0; }

static bool canary_new(advlog_ring *ring) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (canary_page(ring)) return true;
    if (pthread_once(&once, watch_forks) != 0 || !forks_counted) return false;
    ring->canary = &forks;
    ring->canary_alive = load32_relaxed(&forks);
    return true;
}

static void canary_free(advlog_ring *ring) {
    if (ring->canary != &forks) munmap(ring->canary, ADVLOG_PAGE_BYTES);
}

/* ---- memory ---- */

uint64_t advlog_ring_first_bytes(uint64_t slots, uint32_t slab_entries) {
    return layout_of(ADVLOG_RING_VERSION, slots, slab_entries).end;
}

uint64_t advlog_ring_bytes(uint64_t slots, uint32_t slab_entries) {
    return layout_of(ADVLOG_RING_VERSION, slots, slab_entries).names + NAMES_BYTES;
}

static bool power_of_two(uint64_t n, uint64_t least, uint64_t most) { return n >= least && n <= most && (n & (n - 1)) == 0; }

static bool shape_allowed(uint64_t slots, uint64_t slab_entries) {
    return power_of_two(slots, 64, UINT64_C(1) << 32) && power_of_two(slab_entries, ADVLOG_SLAB_ENTRIES, ADVLOG_MAX_SLAB_ENTRIES);
}

int advlog_ring_init(void *memory, uint64_t bytes, uint64_t there, uint64_t slots, uint32_t slab_entries, uint64_t start,
                     const advlog_identity *identity) {
    if (!shape_allowed(slots, slab_entries) || there > bytes || there < advlog_ring_first_bytes(slots, slab_entries))
        return ADVLOG_RING_TOO_SMALL;
    const ring_layout at = layout_of(ADVLOG_RING_VERSION, slots, slab_entries);
    advlog_ring_header *h = memory;
    h->layout_version = ADVLOG_RING_VERSION;
    h->slot_bytes = ADVLOG_SLOT_BYTES;
    h->file_bytes = bytes;
    h->slots = slots;
    h->names_offset = at.names;
    h->slab_offset = at.slab;
    h->slab_entries = slab_entries;
    h->slots_offset = at.slots;
    h->identity = *identity;
    store_relaxed(&h->write_pos, start);
    store_relaxed(&h->cached_read_pos, start);
    store_relaxed(&h->read_pos, start);
    store_relaxed(&h->handoff.until, start);
    for (int i = 0; i < ADVLOG_MAX_SINKS; i++) h->cursor[i].copy[0] = (advlog_cursor){.position = start, .next_seq = 1};

    /* Each slot gets the mark of the lap before the first: no mark is ever taken
     * for a published one, wherever positions start. It also brings the pages in. */
    advlog_slot *array = (advlog_slot *)((char *)memory + at.slots);
    for (uint64_t i = 0; i < slots; i++) store_relaxed(&array[i].mark, start - slots + ((i - start) & (slots - 1)) + 1);
    advlog_name_list *names = (advlog_name_list *)((char *)memory + at.names);
    store_relaxed(&names->room, there - at.names - sizeof *names); /* relaxed: the magic comes after it */
    store_release(&h->magic, ADVLOG_RING_MAGIC); /* advlog_ring_init:a */
    return 0;
}

/* What is read here is read once: the ring's maker may still write it. */
static int check_header(const advlog_ring_header *h, uint64_t bytes, uint32_t *version, uint64_t *slots, uint64_t *slab_entries) {
    if (bytes < ADVLOG_HEADER_BYTES) return ADVLOG_RING_TOO_SMALL;
    if (load_acquire(&h->magic) != ADVLOG_RING_MAGIC) return ADVLOG_RING_BAD_MAGIC; /* pairs with advlog_ring_init:a */
    *version = load_once32(&h->layout_version);
    if (*version < 1 || *version > ADVLOG_RING_VERSION) return ADVLOG_RING_BAD_VERSION;
    *slots = load_once64(&h->slots);
    *slab_entries = load_once64(&h->slab_entries);
    if (!shape_allowed(*slots, *slab_entries)) return ADVLOG_RING_BAD_LAYOUT;
    const ring_layout at = layout_of(*version, *slots, *slab_entries);
    if (h->slot_bytes != ADVLOG_SLOT_BYTES || h->names_offset != at.names || h->slab_offset != at.slab ||
        h->slots_offset != at.slots)
        return ADVLOG_RING_BAD_LAYOUT;
    uint64_t file_bytes = load_once64(&h->file_bytes);
    return file_bytes > bytes || bytes < at.end || file_bytes < at.end ? ADVLOG_RING_TOO_SMALL : 0;
}

advlog_ring *advlog_ring_attach(void *memory, uint64_t bytes, int *error) {
    uint64_t slots = 0, slab_entries = 0;
    uint32_t version = 0;
    *error = check_header(memory, bytes, &version, &slots, &slab_entries);
    if (*error) return NULL;
    advlog_ring *ring = calloc(1, sizeof *ring);
    if (!ring || !canary_new(ring)) {
        free(ring);
        *error = ADVLOG_RING_NO_MEMORY;
        return NULL;
    }
    advlog_ring_header *h = memory;
    ring->magic = ADVLOG_HANDLE_MAGIC;
    ring->abi_version = ADVLOG_ABI_VERSION;
    ring->header = h;
    const ring_layout at = layout_of(version, slots, slab_entries);
    void *names = (char *)memory + at.names;
    if (version == 1) ring->names_1 = names;
    else ring->names = names;
    ring->heap_bytes = bytes - at.names - sizeof *ring->names;
    ring->file = -1;
    ring->slab = (advlog_slab_entry *)((char *)memory + at.slab);
    ring->slab_bits = (unsigned)__builtin_ctzll(slab_entries);
    ring->slots = (advlog_slot *)((char *)memory + at.slots);
    ring->count = slots;
    ring->mask = slots - 1;
    return ring;
}

void advlog_ring_detach(advlog_ring *ring) {
    if (!ring) return;
    canary_free(ring);
    names_free(ring);
    free(ring->use);
    ring->magic = 0;
    free(ring);
}

uint64_t advlog_ring_there(const advlog_ring *ring) {
    if (!ring->names) return layout_of(1, ring->count, UINT64_C(1) << ring->slab_bits).end;
    uint64_t heap = (uint64_t)(ring->names->heap - (uint8_t *)ring->header);
    uint64_t room = load_acquire(&ring->names->room); /* pairs with grow:a */
    return heap + (room < ring->heap_bytes ? room : ring->heap_bytes);
}

uint64_t advlog_ring_slots_offset(const advlog_ring *ring) { return (uint64_t)((char *)ring->slots - (char *)ring->header); }

/* ---- producers ---- */

void ring_wake(advlog_ring *ring) {
    if (ring_is_child(ring)) return; /* it sleeps in another process, whose memory is not ours to write */
    /* Relaxed: the word's change alone makes a futex wait that begins later return. */
    add32_relaxed(&ring->header->wake, 1);
#ifdef __linux__
    syscall(SYS_futex, &ring->header->wake, FUTEX_WAKE, 1, NULL, NULL, 0);
#endif
}

int ring_look_again(advlog_ring *ring, uint64_t slots) {
    advlog_ring_header *h = ring->header;
    uint64_t r = load_acquire(&h->read_pos); /* pairs with drain_once:a, set_taken:a */
    /* Relaxed, but after the acquire above: the drain freed only what had been reserved, so this
     * is at or past r, and only closing can put it 2^63 ahead. */
    uint64_t p = load_relaxed(&h->write_pos);
    if ((p - r) & ADVLOG_CLOSED_BIT) return ADVLOG_CLOSED;
    store_release(&h->cached_read_pos, r); /* ring_look_again:a */
    uint64_t used = p + slots - r;
    if (used > ring->count / 2) {
        fence_full(); /* ring_look_again:b, pairs with sleep_until_woken:a */
        /* Relaxed: the fence orders it. Exchanged: one system call a sleep, by the first to come. */
        if (load32_relaxed(&h->sleeping) && exchange32_acquire(&h->sleeping, 0)) ring_wake(ring);
    }
    return used > ring->count ? ADVLOG_FULL : ADVLOG_OK;
}

/* Which of `n` extras from `first` on are references, a bit each. */
static ADVLOG_COLD uint16_t deferred_extras(const advlog_record *record, unsigned first, unsigned n) {
    unsigned bits = 0;
    for (unsigned i = 0; i < n; i++) bits |= (record->extra_deferred[(first + i) / 8] >> (first + i) % 8 & 1u) << i;
    return (uint16_t)bits;
}

/* The drain has read the slot that comes next since it was last written, so its lines are in
 * another core's cache: they are asked for this many slots ahead. */
#define PREFETCH_SLOTS 8

void ring_write(advlog_ring *ring, uint64_t position, uint64_t slots, const advlog_record *record) {
    const char *ahead = (const char *)ring_slot(ring, position + PREFETCH_SLOTS);
    __builtin_prefetch(ahead, 1);
    __builtin_prefetch(ahead + ADVLOG_SLOT_BYTES / 2, 1);
    const double *value = record->extra_values;
    const uint16_t *id = record->extra_ids;
    unsigned extras = record->extras;
    unsigned inline_extras = extras < ADVLOG_HEADER_EXTRAS ? extras : ADVLOG_HEADER_EXTRAS;

    for (uint64_t part = slots - 1; part > 0; part--) {
        advlog_slot *s = ring_slot(ring, position + part);
        unsigned first = ADVLOG_HEADER_EXTRAS + (unsigned)(part - 1) * ADVLOG_PART_EXTRAS;
        unsigned n = extras - first < ADVLOG_PART_EXTRAS ? extras - first : ADVLOG_PART_EXTRAS;
        s->kind = ADVLOG_KIND_PART;
        s->part = (uint8_t)part;
        s->count = (uint16_t)n;
        s->deferred = ADVLOG_UNLIKELY(record->extra_deferred != NULL) ? deferred_extras(record, first, n) : 0;
        s->level = 0;
        memcpy(s->more.value, value + first, n * sizeof *value);
        memcpy(s->more.id, id + first, n * sizeof *id);
        ring_publish(s, position + part);
        FAILPOINT("push_part_published");
    }
    advlog_slot *s = ring_slot(ring, position);
    s->kind = record->kind;
    s->part = (uint8_t)slots;
    s->count = (uint16_t)extras;
    s->deferred = record->core_deferred;
    if (ADVLOG_UNLIKELY(record->extra_deferred != NULL))
        s->deferred |= (uint16_t)(deferred_extras(record, 0, inline_extras) << ADVLOG_CORE_METRICS);
    s->level = 0;
    s->time_ns = record->time_ns;
    s->present = record->present;
    s->epoch = record->epoch;
    s->batch = record->batch;
    s->total_batches = record->total_batches;
    s->step = record->step;
    memcpy(s->core, record->core, sizeof s->core);
    for (unsigned i = 0; i < inline_extras; i++) {
        s->extra[i] = value[i];
        s->extra_id[i] = id[i];
    }
    s->worker = 0;
    FAILPOINT("push_before_header");
    ring_publish(s, position);
    FAILPOINT("push_published");
}

int advlog_push(advlog_ring *ring, const advlog_record *record) {
    if (ring_is_child(ring)) return ADVLOG_FORKED;
    uint64_t slots = ring_slots_for(record->extras), position;
    if (slots > ring_record_limit(ring)) return ADVLOG_TOO_LONG;
    int status = ring_try_reserve(ring, slots, &position);
    if (status != ADVLOG_OK) return status;
    ring_write(ring, position, slots, record);
    /* Relaxed: a count, read by people. */
    add_relaxed(&ring->header->accepted_push[kind_stream(record->kind)], 1);
    return ADVLOG_OK;
}

/* Fills and publishes reserved positions. */
static void write_text(advlog_ring *ring, uint64_t position, uint64_t slots, int level, int64_t time_ns, const char *text,
                       uint64_t bytes) {
    for (uint64_t part = slots - 1; part > 0; part--) {
        advlog_slot *s = ring_slot(ring, position + part);
        uint64_t first = (part - 1) * ADVLOG_PART_TEXT;
        uint64_t n = bytes - first < ADVLOG_PART_TEXT ? bytes - first : ADVLOG_PART_TEXT;
        s->kind = ADVLOG_KIND_PART_TEXT;
        s->part = (uint8_t)part;
        s->count = (uint16_t)n;
        s->deferred = 0;
        s->level = 0;
        memcpy(s->text, text + first, n);
        ring_publish(s, position + part);
        FAILPOINT("push_part_published");
    }
    advlog_slot *s = ring_slot(ring, position);
    memset(s->text, 0, sizeof s->text);
    s->kind = ADVLOG_KIND_EVENT;
    s->part = (uint8_t)slots;
    s->count = (uint16_t)bytes;
    s->deferred = 0;
    s->level = (uint16_t)level;
    s->time_ns = time_ns;
    ring_publish(s, position);
    add_relaxed(&ring->header->accepted_push[ADVLOG_STREAM_EVENTS], 1); /* relaxed: a count */
}

int advlog_push_text(advlog_ring *ring, int level, int64_t time_ns, const char *text, uint64_t bytes) {
    if (ring_is_child(ring)) return ADVLOG_FORKED;
    uint64_t slots = ring_slots_for_text(bytes), position;
    if (bytes > ADVLOG_MAX_TEXT_BYTES || slots > ring_record_limit(ring)) return ADVLOG_TOO_LONG;
    int status = ring_try_reserve(ring, slots, &position);
    if (status == ADVLOG_OK) write_text(ring, position, slots, level, time_ns, text, bytes);
    return status;
}

int advlog_push_last_text(advlog_ring *ring, int level, int64_t time_ns, const char *text, uint64_t bytes) {
    advlog_ring_header *h = ring->header;
    uint64_t slots = ring_slots_for_text(bytes);
    if (ring_is_child(ring)) return ADVLOG_FORKED;
    if (bytes > ADVLOG_MAX_TEXT_BYTES || slots > ring_record_limit(ring)) return ADVLOG_TOO_LONG;
    uint64_t r = load_acquire(&h->read_pos); /* pairs with drain_once:a */
    /* Relaxed: while the ring is closed, nobody else moves it. */
    uint64_t p = load_relaxed(&h->write_pos) ^ ADVLOG_CLOSED_BIT;
    if (p + slots - r > ring->count) return ADVLOG_FULL; /* or it is not closed */
    store_relaxed(&h->write_pos, (p + slots) ^ ADVLOG_CLOSED_BIT);
    write_text(ring, p, slots, level, time_ns, text, bytes);
    return ADVLOG_OK;
}

int advlog_wait_room(advlog_ring *ring, uint64_t slots, int64_t timeout_ns) {
    int64_t deadline = advlog_monotonic_ns() + timeout_ns;
    if (ring_is_child(ring)) return ADVLOG_FORKED;
    if (slots > ring->count) return ADVLOG_TIMEOUT;
    for (long sleep_ns = 20000;; sleep_ns = sleep_ns < 1000000 ? sleep_ns * 2 : sleep_ns) {
        int status = ring_look_again(ring, slots);
        if (status != ADVLOG_FULL) return status;
        if (advlog_monotonic_ns() >= deadline) return ADVLOG_TIMEOUT;
        nanosleep(&(struct timespec){0, sleep_ns}, NULL);
    }
}

uint64_t advlog_ring_close(advlog_ring *ring) {
    advlog_ring_header *h = ring->header;
    if (ring_is_child(ring)) return advlog_ring_write_pos(ring);
    for (;;) {
        uint64_t r = load_acquire(&h->read_pos);     /* pairs with drain_once:a */
        uint64_t p = load_relaxed(&h->write_pos);    /* relaxed, after the acquire: at or past r */
        if ((p - r) & ADVLOG_CLOSED_BIT) return p ^ ADVLOG_CLOSED_BIT;
        /* Relaxed: closing publishes nothing; it only makes later reservations fail. */
        if (cas_relaxed(&h->write_pos, &p, p ^ ADVLOG_CLOSED_BIT)) return p;
    }
}

void advlog_ring_reopen(advlog_ring *ring) {
    /* Relaxed: the ring's other users are dead. */
    if (advlog_ring_closed(ring)) store_relaxed(&ring->header->write_pos, advlog_ring_write_pos(ring));
}

/* ---- what others may ask ---- */

uint64_t advlog_ring_slots(const advlog_ring *ring) { return ring->count; }

uint64_t advlog_ring_read_pos(const advlog_ring *ring) {
    return load_acquire(&ring->header->read_pos); /* pairs with drain_once:a */
}

bool advlog_ring_closed(const advlog_ring *ring) {
    uint64_t r = load_acquire(&ring->header->read_pos); /* pairs with drain_once:a: so that write_pos is at or past it */
    return (load_relaxed(&ring->header->write_pos) - r) & ADVLOG_CLOSED_BIT;
}

uint64_t advlog_ring_write_pos(const advlog_ring *ring) {
    uint64_t r = load_acquire(&ring->header->read_pos); /* pairs with drain_once:a */
    uint64_t p = load_relaxed(&ring->header->write_pos);
    return (p - r) & ADVLOG_CLOSED_BIT ? p ^ ADVLOG_CLOSED_BIT : p;
}

/* Relaxed throughout: counts, each exact once its writers are at rest. */
uint64_t advlog_ring_accepted(const advlog_ring *ring, int stream) {
    const advlog_ring_header *h = ring->header;
    return load_relaxed(&h->accepted_call[stream]) + load_relaxed(&h->accepted_push[stream]);
}
void advlog_ring_count_drop(advlog_ring *ring, int reason) {
    if (!ring_is_child(ring)) add_relaxed(&ring->header->dropped[reason], 1);
}
uint64_t advlog_ring_dropped(const advlog_ring *ring, int reason) { return load_relaxed(&ring->header->dropped[reason]); }

void advlog_ring_cursor(const advlog_ring *ring, int sink, advlog_cursor *out) {
    uint64_t selected = load_acquire(&ring->header->cursor[sink].selected); /* pairs with commit:a */
    *out = ring->header->cursor[sink].copy[selected & 1];
}
