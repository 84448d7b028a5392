/* Metric names and their ids. Both lie in the ring's memory, so that a recovery
 * can decode its slots. Another process may write that memory: what
 * is read there is read once, and checked where it was copied to. */
#pragma once

#include "ring.h"

static inline uint32_t names_count(const advlog_ring *ring) {
    uint64_t count = load_acquire(&ring->names->count); /* pairs with intern:a */
    return count < ADVLOG_MAX_NAMES ? (uint32_t)count : ADVLOG_MAX_NAMES;
}
