/* Metric names and their ids. The names lie in the ring's memory, so that a recovery
 * can decode its slots. Another process may write that memory: what
 * is read there is read once, and checked where it was copied to. */
#pragma once

#include "ring.h"

static inline uint32_t names_count(const advlog_ring *ring) {
    const atomic_u64 *counted = ring->names ? &ring->names->count : &ring->names_1->count;
    uint64_t most = ring->names ? ADVLOG_MAX_NAMES : ADVLOG_MAX_NAMES_1;
    uint64_t count = load_acquire(counted); /* pairs with set_count:a */
    return (uint32_t)(count < most ? count : most);
}

/* The id of a name; -1: it has none, or memory is short. */
int name_find(advlog_ring *ring, const char *utf8, uint64_t bytes);
void names_free(advlog_ring *ring);
