#include "names.h"

/* Where the name of an id lies, by its length byte, and how long it is; NULL: nowhere. */
static const uint8_t *find(const advlog_name_table *t, uint32_t id, uint32_t *bytes) {
    uint32_t offset = load_once32(&t->offset[id]);
    if (offset >= sizeof t->heap) return NULL;
    *bytes = load_once8(&t->heap[offset]);
    return offset + 1u + *bytes <= sizeof t->heap ? &t->heap[offset + 1u] : NULL;
}

/* Bytes of the UTF-8 character at `p` (RFC 3629); 0 where it is not valid. */
static unsigned utf8_character(const uint8_t *p, const uint8_t *end) {
    unsigned bytes = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;
    if (bytes == 0 || (size_t)(end - p) < bytes) return 0;
    for (unsigned i = 1; i < bytes; i++)
        if (p[i] >> 6 != 2) return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f)) return 0; /* too long a form; a surrogate */
    if ((p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f)) return 0; /* overlong; beyond U+10FFFF */
    return bytes;
}

static bool is_text(const uint8_t *p, uint32_t bytes) {
    const uint8_t *end = p + bytes;
    for (unsigned here; p < end; p += here)
        if ((here = utf8_character(p, end)) == 0) return false;
    return bytes > 0;
}

/* With the turn. */
static int intern(advlog_ring *ring, const char *utf8, uint64_t bytes) {
    advlog_name_table *t = ring->names;
    uint32_t count = names_count(ring);
    for (uint32_t id = 0; id < count; id++) {
        uint32_t length;
        const uint8_t *name = find(t, id, &length);
        if (name && length == bytes && memcmp(name, utf8, bytes) == 0) return (int)id;
    }
    uint64_t used = load_once64(&t->used);
    if (count >= ADVLOG_MAX_NAMES || used > sizeof t->heap || bytes + 1 > sizeof t->heap - used) return -1;
    t->heap[used] = (uint8_t)bytes;
    memcpy(&t->heap[used + 1], utf8, bytes);
    t->offset[count] = (uint32_t)used;
    t->used = used + bytes + 1;
    store_release(&t->count, count + 1); /* intern:a */
    return (int)count;
}

int advlog_name_intern(advlog_ring *ring, const char *utf8, uint64_t bytes) {
    if (bytes == 0 || bytes > ADVLOG_MAX_NAME_BYTES || ring_is_child(ring)) return -1;
    /* Its holder waits for nothing, not even the GIL, so it comes free soon. */
    while (exchange32_acquire(&ring->naming, 1)) /* pairs with advlog_name_intern:a */
        nanosleep(&(struct timespec){0, 20000}, NULL);
    int id = intern(ring, utf8, bytes);
    store32_release(&ring->naming, 0); /* advlog_name_intern:a */
    return id;
}

uint32_t advlog_name_count(const advlog_ring *ring) { return names_count(ring); }

int advlog_name_get(const advlog_ring *ring, uint32_t id, char *out) {
    uint32_t bytes;
    const uint8_t *name = id < names_count(ring) ? find(ring->names, id, &bytes) : NULL; /* pairs with intern:a */
    if (!name) return -1;
    memcpy(out, name, bytes);
    return is_text((const uint8_t *)out, bytes) ? (int)bytes : -1;
}
