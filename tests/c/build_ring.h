/* A small ring, its positions wherever a test wants them, with metric names in it. */
#pragma once

#include <stdlib.h>

#include "check.h"
#include "names.h"

typedef struct {
    void *memory;
    advlog_ring *ring;
} test_ring;

/* The bytes of such a ring: it has room for some names only. */
static inline uint64_t test_ring_bytes(uint64_t slots) { return advlog_ring_first_bytes(slots, ADVLOG_SLAB_ENTRIES); }

static inline test_ring test_ring_of(uint64_t bytes, uint64_t slots, uint64_t start, int attempt, int rank) {
    const advlog_identity identity = {.run_id = "0123456789abcde", .attempt = attempt, .rank = rank};
    test_ring t = {.memory = aligned_alloc(ADVLOG_PAGE_BYTES, bytes)};
    CHECK(t.memory != NULL);
    memset(t.memory, 0, bytes);
    CHECK_INT(0, advlog_ring_init(t.memory, bytes, bytes, slots, ADVLOG_SLAB_ENTRIES, start, &identity));
    int error = 0;
    t.ring = advlog_ring_attach(t.memory, bytes, &error);
    CHECK(t.ring != NULL);
    return t;
}

static inline test_ring test_ring_at(uint64_t slots, uint64_t start, int attempt, int rank) {
    return test_ring_of(test_ring_bytes(slots), slots, start, attempt, rank);
}

static inline test_ring test_ring_new(int attempt, int rank) { return test_ring_at(64, 64, attempt, rank); }

static inline void test_ring_name(test_ring *t, const char *name) { CHECK(advlog_name_intern(t->ring, name, strlen(name)) >= 0); }

static inline void test_ring_free(test_ring *t) {
    advlog_ring_detach(t->ring);
    free(t->memory);
}
