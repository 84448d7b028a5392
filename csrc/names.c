#include "names.h"

static bool lies_in_heap(const advlog_name_table *t, uint32_t offset) {
    return offset < sizeof t->heap && offset + 1u + t->heap[offset] <= sizeof t->heap;
}

const char *names_get(const advlog_ring *ring, uint32_t id, uint32_t *bytes) {
    const advlog_name_table *t = ring->names;
    if (id >= names_count(ring) || !lies_in_heap(t, t->offset[id])) return NULL;
    *bytes = t->heap[t->offset[id]];
    return (const char *)&t->heap[t->offset[id] + 1];
}

int advlog_name_intern(advlog_ring *ring, const char *utf8, uint64_t bytes) {
    advlog_name_table *t = ring->names;
    uint32_t count = names_count(ring);
    if (bytes == 0 || bytes > ADVLOG_MAX_NAME_BYTES || ring_is_child(ring)) return -1;
    for (uint32_t id = 0; id < count; id++) {
        uint32_t length;
        const char *name = names_get(ring, id, &length);
        if (name && length == bytes && memcmp(name, utf8, bytes) == 0) return (int)id;
    }
    if (count >= ADVLOG_MAX_NAMES || t->used > sizeof t->heap || bytes + 1 > sizeof t->heap - t->used) return -1;
    t->heap[t->used] = (uint8_t)bytes;
    memcpy(&t->heap[t->used + 1], utf8, bytes);
    t->offset[count] = (uint32_t)t->used;
    t->used += bytes + 1;
    store_release(&t->count, count + 1); /* N, partner M */
    return (int)count;
}

uint32_t advlog_name_count(const advlog_ring *ring) { return names_count(ring); }

int advlog_name_get(const advlog_ring *ring, uint32_t id, char *out) {
    uint32_t bytes;
    const char *name = names_get(ring, id, &bytes);
    if (!name) return -1;
    memcpy(out, name, bytes);
    return (int)bytes;
}
