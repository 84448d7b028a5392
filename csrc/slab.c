/* Entries of the slab: reserved, filled by a device, taken. Described in slab.h. */
#include "slab.h"

#include <stdlib.h>

uint32_t advlog_slab_entries(const advlog_ring *ring) { return UINT32_C(1) << ring->slab_bits; }

static unsigned entry_of(const advlog_ring *ring, uint64_t reference) {
    return (unsigned)(reference & (advlog_slab_entries(ring) - 1));
}

uint64_t advlog_slab_key(const advlog_ring *ring, uint64_t reference) {
    /* The finalizer of splitmix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection, so that keys differ as turns do. */
    uint64_t z = (reference >> ring->slab_bits) + UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* ---- callers ---- */

static bool is_free(const advlog_ring *ring, unsigned entry) {
    return load_acquire(&ring->use[entry].reference) == 0; /* pairs with let_go:a */
}

static bool are_free(const advlog_ring *ring, unsigned first, unsigned count) {
    if (first + count > advlog_slab_entries(ring)) return false;
    for (unsigned entry = first; entry < first + count; entry++)
        if (!is_free(ring, entry)) return false;
    return true;
}

/* The first of `count` free entries side by side; -1: there are none. The lowest where they fit, since those are in
 * cache, on the device too; else those behind the latest reservation, which were free for longest. */
static int find_free(const advlog_ring *ring, unsigned count) {
    if (are_free(ring, 0, count)) return 0;
    if (are_free(ring, ring->slab_next, count)) return (int)ring->slab_next;
    unsigned run = 0;
    for (unsigned entry = 0; entry < advlog_slab_entries(ring); entry++) {
        run = is_free(ring, entry) ? run + 1 : 0;
        if (run == count) return (int)(entry + 1 - count);
    }
    return -1;
}

uint64_t advlog_slab_reserve(advlog_ring *ring, uint32_t count) {
    const uint32_t entries = advlog_slab_entries(ring);
    if (ring_is_child(ring) || count == 0 || count > entries) return 0;
    if (!ring->use && !(ring->use = calloc(entries, sizeof *ring->use))) return 0;
    /* In 12 days at a call a us and with the smallest slab; with the largest, in two years at a call a ms. */
    if (ring->slab_turn + 1 == ADVLOG_REFERENCE_END >> ring->slab_bits) return 0;
    /* A full slab is not scanned again until an entry has been freed. */
    uint32_t freed = load32_acquire(&ring->slab_freed); /* pairs with let_go:b */
    if (ring->slab_none_for && count >= ring->slab_none_for && freed == ring->slab_none_at) return 0;
    int first = find_free(ring, count);
    ring->slab_none_for = first < 0 ? count : 0;
    ring->slab_none_at = freed;
    if (first < 0) return 0;
    ring->slab_next = (uint32_t)first + count;
    uint64_t reference = ++ring->slab_turn << ring->slab_bits | (uint64_t)first;
    int64_t now = advlog_monotonic_ns();
    for (uint64_t i = 0; i < count; i++) {
        struct advlog_slab_use *use = &ring->use[(uint64_t)first + i];
        use->since_ns = now;
        store_relaxed(&use->reference, reference + i); /* relaxed: ring_publish:a comes after it */
    }
    return reference;
}

void slab_release(advlog_ring *ring, uint64_t reference, uint32_t count) {
    /* Relaxed: no thread has seen these, and the next reservation is made under the GIL too. */
    for (uint32_t i = 0; i < count; i++) store_relaxed(&ring->use[entry_of(ring, reference) + i].reference, 0);
    add32_relaxed(&ring->slab_freed, count); /* relaxed: the next reservation is made under the GIL too */
}

void slab_abandon(advlog_ring *ring, uint64_t reference) {
    if (ring_is_child(ring)) return;
    store_relaxed(&ring->use[entry_of(ring, reference)].reference,
                  reference | ADVLOG_ABANDONED); /* relaxed: slab_abandon:a comes after it */
    /* Relaxed: the holder of the GIL is the one writer. */
    store32_release(&ring->abandoned, load32_relaxed(&ring->abandoned) + 1); /* slab_abandon:a */
}

void *advlog_slab_memory(const advlog_ring *ring) { return ring->slab; }

void advlog_slab_move(advlog_ring *ring, void *memory) {
    memset(memory, 0, advlog_slab_entries(ring) * sizeof *ring->slab);
    ring->slab = memory;
}

uint32_t advlog_slab_used(const advlog_ring *ring) {
    uint32_t used = 0;
    for (unsigned entry = 0; ring->use && entry < advlog_slab_entries(ring); entry++) used += !is_free(ring, entry);
    return used;
}

/* ---- the drain ---- */

static bool has_come(const advlog_ring *ring, uint64_t reference, double *value) {
    const advlog_slab_entry *entry = &ring->slab[entry_of(ring, reference)];
    /* Relaxed: the key alone says whether the two belong together. */
    uint64_t bits = load_relaxed(&entry->value);
    if ((bits ^ load_relaxed(&entry->check)) != advlog_slab_key(ring, reference)) return false;
    memcpy(value, &bits, sizeof bits);
    return true;
}

/* No other copy comes into it. Does nothing in a dead process's ring, whose entries have no users. */
static void let_go(advlog_ring *ring, uint64_t reference) {
    if (!ring->use) return;
    store_release(&ring->use[entry_of(ring, reference)].reference, 0); /* let_go:a */
    add32_release(&ring->slab_freed, 1); /* let_go:b */
}

static void quarantine(const advlog_ring *ring, slab_quarantine *given_up, uint64_t reference) {
    /* Full only where a stray store has doubled a reference: no entry is reserved twice. */
    if (given_up->count < advlog_slab_entries(ring)) given_up->entry[given_up->count++] = (uint16_t)entry_of(ring, reference);
}

static void take_abandoned(advlog_ring *ring, slab_quarantine *given_up) {
    for (unsigned entry = 0; entry < advlog_slab_entries(ring); entry++) {
        atomic_u64 *who = &ring->use[entry].reference;
        uint64_t reference = load_relaxed(who); /* relaxed: slab_abandon:a was acquired */
        if (!(reference & ADVLOG_ABANDONED)) continue;
        store_relaxed(who, reference & ~ADVLOG_ABANDONED); /* relaxed: only the drain has it now */
        quarantine(ring, given_up, reference);
    }
}

void slab_sweep(advlog_ring *ring, slab_quarantine *given_up) {
    uint32_t abandoned = load32_acquire(&ring->abandoned); /* pairs with slab_abandon:a */
    if (abandoned != given_up->abandoned) take_abandoned(ring, given_up);
    given_up->abandoned = abandoned;
    for (uint32_t i = given_up->count; i-- > 0;) {
        uint64_t reference = load_relaxed(&ring->use[given_up->entry[i]].reference); /* relaxed: it is ours */
        double value;
        if (!has_come(ring, reference, &value)) continue;
        let_go(ring, reference);
        given_up->entry[i] = given_up->entry[--given_up->count];
    }
}

/* One value of a slot. */
typedef struct {
    advlog_slot *slot;
    double *value;
    unsigned bit;
} slot_value;

static void settle(const slot_value *at, double value) {
    *at->value = value;
    fence_full(); /* a SIGKILL must not find the bit gone and the reference still there */
    FAILPOINT("slab_filled");
    at->slot->deferred &= (uint16_t)~(1u << at->bit);
}

/* False: it is still to come. */
static bool settle_value(advlog_ring *ring, const slot_value *at, unsigned reason, slab_quarantine *given_up, int64_t *since_ns) {
    uint64_t reference;
    memcpy(&reference, at->value, sizeof reference);
    double value = *at->value;
    if (record_unresolved(value)) return true; /* given up before */
    if (!is_reference(reference)) {
        settle(at, value); /* the value itself: see slab.h */
    } else if (has_come(ring, reference, &value)) {
        settle(at, value);
        let_go(ring, reference);
    } else if (reason) {
        uint64_t why = reason;
        memcpy(at->value, &why, sizeof why);
        if (given_up) quarantine(ring, given_up, reference);
    } else {
        *since_ns = ring->use ? ring->use[entry_of(ring, reference)].since_ns : 0;
        return false;
    }
    return true;
}

bool slab_settle(advlog_ring *ring, uint64_t position, unsigned reason, slab_quarantine *given_up, int64_t *since_ns) {
    unsigned parts = ring_slot(ring, position)->part;
    for (unsigned part = 0; part < parts; part++) {
        advlog_slot *slot = ring_slot(ring, position + part);
        unsigned room = part ? ADVLOG_PART_EXTRAS : ADVLOG_CORE_METRICS + ADVLOG_HEADER_EXTRAS;
        for (unsigned left = slot->deferred & ((1u << room) - 1); left; left &= left - 1) {
            unsigned bit = (unsigned)__builtin_ctz(left);
            double *value = part                        ? &slot->more.value[bit]
                            : bit < ADVLOG_CORE_METRICS ? &slot->core[bit]
                                                        : &slot->extra[bit - ADVLOG_CORE_METRICS];
            const slot_value at = {slot, value, bit};
            if (!settle_value(ring, &at, reason, given_up, since_ns)) return false;
        }
    }
    return true;
}
