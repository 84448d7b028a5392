/* The ring: a bounded queue of slots in shared memory, many producers, one drain.
 *
 * Positions are free-running uint64 numbers, compared by subtraction only, so
 * nothing changes when they wrap; position p lies in slot p & mask. Between
 * write_pos and read_pos there are at most `slots` positions while the ring is
 * open; closing adds 2^63 to write_pos, which makes every later check fail.
 *
 * Ordering edges. Each is named after the function that releases, and a letter; where the value is acquired a comment
 * says which edge it pairs with.
 *   ring_publish:a        a slot's mark. The drain sees the payload of every slot whose mark it saw.
 *   drain_once:a          read_pos. A producer overwrites a slot only after the drain's last read of it.
 *   set_taken:a           read_pos of a child's ring: its producers overwrite no slot before the parent has read it.
 *   ring_look_again:a     cached_read_pos. A producer that acquires it sees what the one saw that acquired read_pos.
 *   set_count:a           names.count. A thread that sees a name's id counted sees its bytes. A record that uses an id is
 *                         pushed after the count by the same or a synchronised thread, so a reader
 *                         that acquired the record's mark sees the name too.
 *   grow:a                names.room. A process that sees room for a name finds it there.
 *   find_names:a          index.count. A thread that sees an id counted there sees where its name lies.
 *   commit:a              selected. A reader, a recovery too, sees one whole copy of a cursor.
 *   name_unlock:a         naming. One thread at a time looks for names or adds one.
 *   advlog_ring_init:a    magic. A process that attaches sees a whole header.
 *   ring_look_again:b and sleep_until_woken:a are full fences that pair with each other: a producer at half full looks
 *                         for a sleeper after its last look at read_pos; a drain about to sleep looks for work after it
 *                         has said so. One of the two sees the other.
 * The edges between the drain and other threads are in drain.h, those of values on an accelerator in slab.h.
 * A reservation is a relaxed CAS: it hands out positions and publishes nothing.
 *
 * Progress: try-push is lock-free, wait-free without contention, and fails only
 * when the ring is full, closed or the process is a forked child. A producer
 * stopped between its CAS and ring_publish:a holds back the drain at its slot, and no other thread;
 * in the hot call no code that can fail or run Python stands between the two. */
#pragma once

#include "failpoint.h"
#include "slot.h"

#define ADVLOG_RING_MAGIC UINT64_C(0x676f6c7664610a01) /* "\x01\nadvlog" */
#define ADVLOG_HANDLE_MAGIC UINT32_C(0x61646c67)
#define ADVLOG_CLOSED_BIT (UINT64_C(1) << 63)
#define ADVLOG_PAGE_BYTES 4096
#define ADVLOG_HEADER_BYTES (2 * ADVLOG_PAGE_BYTES)

/* In the ring of a child process: how far its parent is with it. See child_ring.c. */
typedef struct {
    uint64_t number;     /* the child's, from 1; 0: the parent has not met it */
    atomic_u64 until;    /* where the record ends that is being copied; read_pos: none is */
    atomic_u64 position; /* where it goes in the parent's ring */
} advlog_handoff;

/* The first pages of the memory. Groups are laid out by writer. */
typedef struct {
    /* Written once, before the magic. */
    atomic_u64 magic;
    uint32_t layout_version;
    uint32_t slot_bytes;
    uint64_t file_bytes;
    uint64_t slots;
    uint64_t names_offset;
    uint64_t slab_offset;
    uint64_t slab_entries;
    uint64_t slots_offset;
    advlog_identity identity;

    /* Producers. accepted_call is stored only by holders of the GIL. */
    _Alignas(2 * ADVLOG_LINE_BYTES) atomic_u64 write_pos;
    atomic_u64 cached_read_pos;
    atomic_u64 accepted_call[ADVLOG_STREAMS];

    /* Any thread, away from the hot call. */
    _Alignas(ADVLOG_LINE_BYTES) atomic_u64 accepted_push[ADVLOG_STREAMS];
    atomic_u64 dropped[ADVLOG_DROP_REASONS];

    /* The drain; `wake` by any thread that wakes it. */
    _Alignas(ADVLOG_LINE_BYTES) atomic_u64 read_pos;
    atomic_u32 sleeping;
    atomic_u32 wake;

    /* The drain: each sink's cursor, two copies and which of them holds. */
    struct {
        _Alignas(ADVLOG_LINE_BYTES) atomic_u64 selected;
        int32_t kind; /* enum advlog_sink_kind; 0: there is no such sink */
        int32_t stream;
        atomic_u64 expired;  /* records of files that rotation has removed, ... */
        atomic_u64 vanished; /* ... and of files that somebody else has */
        uint64_t unused[4];
        advlog_cursor copy[2];
    } cursor[ADVLOG_MAX_SINKS];

    /* The drain: the numbers that it has given to children so far. */
    _Alignas(ADVLOG_LINE_BYTES) uint64_t children;
    /* The parent's drain. */
    advlog_handoff handoff;

    /* Written before the ring comes into sight: the folder of its logs, without a NUL at its end if it fills this; empty
     * in rings of earlier versions, or where it is longer. */
    char home[ADVLOG_MAX_HOME_BYTES];
} advlog_ring_header;

_Static_assert(sizeof(advlog_ring_header) <= ADVLOG_HEADER_BYTES, "the header has two pages");
_Static_assert(sizeof(advlog_cursor) == 64, "a cursor copy is one cache line");

/* Where an accelerator puts a value: slab.h. */
typedef struct {
    atomic_u64 value;
    atomic_u64 check; /* value ^ key; the key is made of the slot's reference */
} advlog_slab_entry;

/* The names, in the order of their ids: append-only, so that a recovery can decode slots. They lie behind the slots. */
typedef struct {
    atomic_u64 count;
    atomic_u64 room; /* bytes of the heap that are there */
    uint64_t unused[6];
    uint8_t heap[]; /* of each name a length byte, then UTF-8 */
} advlog_name_list;

/* The names in rings of version 1, between the header and the slab. */
#define ADVLOG_MAX_NAMES_1 1024
typedef struct {
    atomic_u64 count;
    uint64_t used;                        /* bytes of the heap */
    uint32_t offset[ADVLOG_MAX_NAMES_1];  /* into the heap */
    uint8_t heap[65536];
} advlog_name_table_1;

/* Where this process has found the names: under `naming`, but for `count` and what lies below it in `offset`. */
typedef struct {
    atomic_u32 count;  /* ids below it have an entry in `offset` */
    uint32_t *offset;  /* of their length bytes in the heap; NO_NAME: nowhere */
    uint64_t end;      /* of the heap in use */
    uint16_t *bucket;  /* a hash table of id + 1; 0: none */
    uint32_t buckets;  /* a power of two */
    uint32_t hashed;   /* ids below it are in the hash table */
} advlog_name_index;

/* A process's handle on a ring. */
struct advlog_ring {
    uint32_t magic; /* ADVLOG_HANDLE_MAGIC: producer.c checks both */
    uint32_t abi_version;
    advlog_ring_header *header;
    advlog_name_list *names;        /* NULL in a ring of version 1, ... */
    advlog_name_table_1 *names_1;   /* ... which has these */
    uint64_t heap_bytes;            /* of the names' heap, once all of it is there */
    advlog_name_index index;
    int file; /* to allocate room for names in, under `naming`; -1: none */
    advlog_slab_entry *slab;
    unsigned slab_bits; /* it has 1 << slab_bits entries */
    advlog_slot *slots;
    uint64_t mask;
    uint64_t count;
    struct advlog_slab_use *use; /* of each entry, once one was reserved */
    uint64_t slab_turn;          /* of the latest reservation; under the GIL */
    uint32_t slab_next;          /* the entry behind it */
    uint32_t slab_none_for;      /* so many found no place side by side, 0: none; under the GIL */
    uint32_t slab_none_at;       /* when so many had been freed */
    atomic_u32 slab_freed;       /* entries */
    atomic_u32 abandoned;        /* entries, so far */
    uint64_t devices;            /* a bit for each that may be launched on; under the GIL */
    int device_error;            /* of the launch that was refused, until it is said; under the GIL */
    atomic_u64 launched;         /* values, by launches; the holder of the GIL writes it */
    atomic_u64 left_out;   /* values of children, for want of room for their names; the drain writes it */
    atomic_u32 naming;     /* held while names are looked for or added; dies with the process */
    atomic_u32 *canary;    /* holds canary_alive in the process that attached ... */
    uint32_t canary_alive; /* ... and something else in its forked children */
};

/* Wakes the drain, sleeping or about to. */
void ring_wake(advlog_ring *ring);
/* Fills and publishes reserved positions. */
void ring_write(advlog_ring *ring, uint64_t position, uint64_t slots, const advlog_record *record);
/* Called when, by cached_read_pos, more than half is used. ADVLOG_OK once there is room. */
ADVLOG_COLD int ring_look_again(advlog_ring *ring, uint64_t slots);

static inline bool ring_is_child(const advlog_ring *ring) {
    /* Relaxed: it changes while the child has one thread, before any of our code runs there. */
    return ADVLOG_UNLIKELY(load32_relaxed(ring->canary) != ring->canary_alive);
}

/* Reserves `slots` consecutive positions for the calling thread, which must
 * publish them all, last position first. */
static inline int ring_try_reserve(advlog_ring *ring, uint64_t slots, uint64_t *position) {
    advlog_ring_header *h = ring->header;
    /* Relaxed: the CAS below checks it again; drain_once:a and ring_look_again:a order the payload. */
    uint64_t p = load_relaxed(&h->write_pos);
    for (;;) {
        uint64_t used = p + slots - load_acquire(&h->cached_read_pos); /* pairs with ring_look_again:a */
        if (ADVLOG_UNLIKELY(used > ring->count / 2)) {
            int status = ring_look_again(ring, slots);
            if (status != ADVLOG_OK) return status;
            p = load_relaxed(&h->write_pos);
            used = p + slots - load_acquire(&h->cached_read_pos); /* pairs with ring_look_again:a */
            if (used > ring->count) continue;
        }
        if (ADVLOG_LIKELY(cas_relaxed(&h->write_pos, &p, p + slots))) {
            FAILPOINT("push_reserved");
            *position = p;
            return ADVLOG_OK;
        }
    }
}

static inline advlog_slot *ring_slot(const advlog_ring *ring, uint64_t position) { return &ring->slots[position & ring->mask]; }

static inline void ring_publish(advlog_slot *slot, uint64_t position) {
    store_release(&slot->mark, position + 1); /* ring_publish:a */
}

static inline int kind_stream(int kind) {
    if (kind == ADVLOG_KIND_LOST) return -1;
    if (kind <= ADVLOG_KIND_METRICS) return ADVLOG_STREAM_METRICS;
    return kind <= ADVLOG_KIND_PERFORMANCE ? ADVLOG_STREAM_SYSTEM : ADVLOG_STREAM_EVENTS;
}

/* The slots that a record with so many extras takes. */
static inline uint64_t ring_slots_for(uint64_t extras) {
    return extras <= ADVLOG_HEADER_EXTRAS ? 1 : 1 + (extras - ADVLOG_HEADER_EXTRAS + ADVLOG_PART_EXTRAS - 1) / ADVLOG_PART_EXTRAS;
}

/* The slots that a record with so many bytes of text takes. */
static inline uint64_t ring_slots_for_text(uint64_t bytes) { return 1 + (bytes + ADVLOG_PART_TEXT - 1) / ADVLOG_PART_TEXT; }

/* The most slots that one record may take. */
static inline uint64_t ring_record_limit(const advlog_ring *ring) {
    return ring->count / 4 < ADVLOG_MAX_RECORD_SLOTS ? ring->count / 4 : ADVLOG_MAX_RECORD_SLOTS;
}
