/* Metric names and their ids. Both lie in the ring's memory, so that whoever
 * finds the ring can decode its slots. */
#pragma once

#include "ring.h"

/* The name of an id below names_count; NULL where the table is damaged. */
const char *names_get(const advlog_ring *ring, uint32_t id, uint32_t *bytes);

static inline uint32_t names_count(const advlog_ring *ring) {
    uint64_t count = load_acquire(&ring->names->count); /* M, partner N */
    return count < ADVLOG_MAX_NAMES ? (uint32_t)count : ADVLOG_MAX_NAMES;
}
