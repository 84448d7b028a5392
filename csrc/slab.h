/* The slab: where an accelerator puts the deferred values of records.
 *
 * A caller reserves entries, has the device copy into each a pair (value, value ^ key) whenever
 * its stream gets there, and publishes a record that holds references in place of the values.
 * The drain takes each value from memory, in the order of the records, and calls nothing of the
 * device: such a call from another thread breaks a capture of a CUDA graph.
 *
 *   reference   turn << slab_bits | entry: turns count the reservations of a ring, from 1
 *   key         the turn, mixed to 64 bits, so that no two turns share one
 *
 * An entry holds the value of its reference once value ^ check is the key. No order of the two
 * halves is assumed, nor that they come together: half of this copy beside half of another one
 * fits by chance of 2^-64. An entry that was given up stays reserved until its own copy has
 * come, so that it can come to no later record.
 *
 * What settles a reference writes the value over it, and then clears the slot's bit for it. A
 * SIGKILL between the two leaves the bit beside a value: a reference, and a reason, is below
 * 2^52, where only zero and subnormal numbers are, and of those a zero is no reference either.
 *
 * Ordering edges beside those of the ring:
 *   let_go:a        an entry's use. A copy is asked for only after the drain's last look at the one before.
 *   let_go:b        how many were freed. A caller that sees the count finds the entries free that it counts.
 *   slab_abandon:a  abandoned. The drain finds those entries marked that it saw counted.
 * A reservation and its table become known to the drain with the record: ring_publish:a. */
#pragma once

#include "record.h"

#define ADVLOG_FIRST_REFERENCE ((uint64_t)ADVLOG_SLAB_ENTRIES) /* of the smallest slab; a reason is below */
#define ADVLOG_REFERENCE_END (UINT64_C(1) << 52)
#define ADVLOG_ABANDONED (UINT64_C(1) << 63)

_Static_assert(ADVLOG_MAX_SLAB_ENTRIES - 1 <= UINT16_MAX, "slab_quarantine names an entry in 16 bits");
_Static_assert(ADVLOG_UNRESOLVED_REASONS <= ADVLOG_FIRST_REFERENCE, "no reason is a reference");

/* Who has an entry: of the process, not in the ring. */
struct advlog_slab_use {
    atomic_u64 reference; /* 0: free; with ADVLOG_ABANDONED: its record never entered the ring */
    int64_t since_ns;     /* monotonic */
};

/* Entries of which the record is gone, and the copy perhaps still to come. */
typedef struct {
    uint32_t count;
    uint32_t abandoned; /* as many as the drain has met */
    uint16_t entry[ADVLOG_MAX_SLAB_ENTRIES];
} slab_quarantine;

static inline bool is_reference(uint64_t bits) { return bits >= ADVLOG_FIRST_REFERENCE && bits < ADVLOG_REFERENCE_END; }

/* Puts the values that came into a published record. With a `reason` (enum advlog_unresolved)
 * those that did not come are given up; else it is false while one is still to come, and *since_ns
 * says since when it is waited for. For the one thread that drains, or repairs, the ring. */
bool slab_settle(advlog_ring *ring, uint64_t position, unsigned reason, slab_quarantine *given_up, int64_t *since_ns);
/* Frees what has come of the entries that were given up. */
void slab_sweep(advlog_ring *ring, slab_quarantine *given_up);
/* Nothing was enqueued for these entries, from the one of the reference on. */
void slab_release(advlog_ring *ring, uint64_t reference, uint32_t count);
/* The record of this reference will never be. Under the GIL. */
void slab_abandon(advlog_ring *ring, uint64_t reference);
