#include "names.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#define NO_NAME UINT32_MAX
#define FIRST_BUCKETS 1024
#define GROWTH_BYTES 65536

/* ---- the lock ---- */

/* Its holder waits for nothing, not even the GIL, but for the file system that allocates room for names. */
static void name_lock(advlog_ring *ring) {
    while (exchange32_acquire(&ring->naming, 1)) /* pairs with name_unlock:a */
        nanosleep(&(struct timespec){0, 20000}, NULL);
}

static void name_unlock(advlog_ring *ring) { store32_release(&ring->naming, 0); /* name_unlock:a */ }

/* ---- where names lie ---- */

/* Bytes of the UTF-8 character at `p` (RFC 3629); 0 where it is not valid. */
static unsigned utf8_character(const uint8_t *p, const uint8_t *end) {
    unsigned bytes = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;
    if (bytes == 0 || (size_t)(end - p) < bytes) return 0;
    for (unsigned i = 1; i < bytes; i++)
        if (p[i] >> 6 != 2) return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f)) return 0; /* overlong; a surrogate */
    if ((p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f)) return 0; /* overlong; beyond U+10FFFF */
    return bytes;
}

static bool is_text(const uint8_t *p, uint32_t bytes) {
    const uint8_t *end = p + bytes;
    for (unsigned here; p < end; p += here)
        if ((here = utf8_character(p, end)) == 0) return false;
    return bytes > 0;
}

static uint64_t room(const advlog_ring *ring) {
    uint64_t bytes = load_acquire(&ring->names->room); /* pairs with grow:a */
    return bytes < ring->heap_bytes ? bytes : ring->heap_bytes;
}

/* With the lock: finds the names that were added since the last time. False where memory is short. */
static bool find_names(advlog_ring *ring) {
    advlog_name_index *index = &ring->index;
    if (!index->offset && !(index->offset = calloc(ADVLOG_MAX_NAMES, sizeof *index->offset))) return false;
    uint32_t count = names_count(ring), id = load32_relaxed(&index->count); /* relaxed: the lock orders it */
    uint64_t there = ring->names ? room(ring) : sizeof ring->names_1->heap;
    for (; id < count; id++) {
        uint64_t at = ring->names ? index->end : load_once32(&ring->names_1->offset[id]);
        const uint8_t *heap = ring->names ? ring->names->heap : ring->names_1->heap;
        uint64_t end = at < there ? at + 1 + load_once8(&heap[at]) : UINT64_MAX;
        bool whole = end <= there;
        index->offset[id] = whole ? (uint32_t)at : NO_NAME;
        if (ring->names) index->end = whole ? end : UINT64_MAX / 2; /* what follows is nowhere either */
    }
    store32_release(&index->count, id); /* find_names:a */
    return true;
}

/* Copies a name whose place was found to out; its bytes, or -1. */
static int copy_name(const advlog_ring *ring, uint32_t id, char *out) {
    uint64_t at = ring->index.offset[id], there = ring->names ? room(ring) : sizeof ring->names_1->heap;
    const uint8_t *heap = ring->names ? ring->names->heap : ring->names_1->heap;
    if (at >= there) return -1;
    uint32_t bytes = load_once8(&heap[at]);
    if (at + 1 + bytes > there) return -1;
    memcpy(out, &heap[at + 1], bytes);
    return is_text((const uint8_t *)out, bytes) ? (int)bytes : -1;
}

/* ---- their ids ---- */

/* FNV-1a (Fowler, Noll, Vo). */
static uint32_t hash_of(const char *utf8, uint64_t bytes) {
    uint32_t hash = 2166136261u;
    for (uint64_t i = 0; i < bytes; i++) hash = (hash ^ (uint8_t)utf8[i]) * 16777619u;
    return hash;
}

static void hash_add(advlog_name_index *index, uint32_t hash, uint32_t id) {
    uint32_t at = hash & (index->buckets - 1);
    while (index->bucket[at]) at = (at + 1) & (index->buckets - 1);
    index->bucket[at] = (uint16_t)(id + 1);
}

/* With the lock: brings the hash table up to the names found, at most half full. False where memory is short. */
static bool hash_names(advlog_ring *ring) {
    advlog_name_index *index = &ring->index;
    uint32_t count = load32_relaxed(&index->count); /* relaxed: the lock orders it */
    if (!index->bucket || count > index->buckets / 2) {
        uint32_t buckets = index->bucket ? index->buckets : FIRST_BUCKETS;
        while (count > buckets / 4) buckets *= 2;
        uint16_t *larger = calloc(buckets, sizeof *larger);
        if (!larger) return false;
        free(index->bucket);
        index->bucket = larger;
        index->buckets = buckets;
        index->hashed = 0;
    }
    for (; index->hashed < count; index->hashed++) {
        char name[ADVLOG_MAX_NAME_BYTES];
        int bytes = copy_name(ring, index->hashed, name);
        if (bytes >= 0) hash_add(index, hash_of(name, (uint64_t)bytes), index->hashed);
    }
    return true;
}

/* With the lock and a hash table of all names. */
static int look_up(const advlog_ring *ring, const char *utf8, uint64_t bytes, uint32_t hash) {
    const advlog_name_index *index = &ring->index;
    for (uint32_t at = hash & (index->buckets - 1); index->bucket[at]; at = (at + 1) & (index->buckets - 1)) {
        char name[ADVLOG_MAX_NAME_BYTES];
        uint32_t id = index->bucket[at] - 1u;
        int length = copy_name(ring, id, name);
        if (length >= 0 && (uint64_t)length == bytes && memcmp(name, utf8, bytes) == 0) return (int)id;
    }
    return -1;
}

static bool is_name(const advlog_ring *ring, uint64_t bytes) {
    return bytes > 0 && bytes <= ADVLOG_MAX_NAME_BYTES && !ring_is_child(ring);
}

int name_find(advlog_ring *ring, const char *utf8, uint64_t bytes) {
    if (!is_name(ring, bytes)) return -1;
    name_lock(ring);
    int id = find_names(ring) && hash_names(ring) ? look_up(ring, utf8, bytes, hash_of(utf8, bytes)) : -1;
    name_unlock(ring);
    return id;
}

/* ---- new names ---- */

/* Has the file system supply more of the heap; false where it cannot. */
static bool grow(advlog_ring *ring, uint64_t need) {
    uint64_t before = room(ring), after = before;
    while (after < need) after += GROWTH_BYTES;
    if (after > ring->heap_bytes) after = ring->heap_bytes;
    if (after < need || ring->file < 0) return false;
    off_t from = (off_t)((uint64_t)(ring->names->heap - (uint8_t *)ring->header) + before);
    int error;
    do error = posix_fallocate(ring->file, from, (off_t)(after - before));
    while (error == EINTR); /* a signal that the thread handles before it tries again */
    if (error) return false;
    store_release(&ring->names->room, after); /* grow:a */
    return true;
}

static int add_1(advlog_name_table_1 *t, uint32_t count, const char *utf8, uint64_t bytes) {
    uint64_t used = load_once64(&t->used);
    if (count >= ADVLOG_MAX_NAMES_1 || used > sizeof t->heap || bytes + 1 > sizeof t->heap - used) return -1;
    t->heap[used] = (uint8_t)bytes;
    memcpy(&t->heap[used + 1], utf8, bytes);
    t->offset[count] = (uint32_t)used;
    t->used = used + bytes + 1;
    return (int)count;
}

static int add(advlog_ring *ring, uint32_t count, const char *utf8, uint64_t bytes) {
    uint64_t at = ring->index.end, end = at + 1 + bytes;
    if (count >= ADVLOG_MAX_NAMES || at > ring->heap_bytes || end > ring->heap_bytes) return -1;
    if (end > room(ring) && !grow(ring, end)) return ADVLOG_NAME_NO_ROOM;
    ring->names->heap[at] = (uint8_t)bytes;
    memcpy(&ring->names->heap[at + 1], utf8, bytes);
    return (int)count;
}

static void set_count(advlog_ring *ring, uint32_t count) {
    store_release(ring->names ? &ring->names->count : &ring->names_1->count, count); /* set_count:a */
}

/* With the lock. */
static int intern(advlog_ring *ring, const char *utf8, uint64_t bytes) {
    if (!find_names(ring) || !hash_names(ring)) return ADVLOG_NAME_NO_ROOM;
    uint32_t hash = hash_of(utf8, bytes), count = load32_relaxed(&ring->index.count); /* relaxed: the lock orders it */
    int id = look_up(ring, utf8, bytes, hash);
    /* A count that was damaged since would hide this name from whoever reads the file. */
    if (id >= 0 && (uint32_t)id >= names_count(ring)) set_count(ring, count);
    if (id >= 0) return id;
    id = ring->names ? add(ring, count, utf8, bytes) : add_1(ring->names_1, count, utf8, bytes);
    if (id < 0) return id;
    FAILPOINT("name_added");
    set_count(ring, count + 1);
    return find_names(ring) && hash_names(ring) ? id : ADVLOG_NAME_NO_ROOM;
}

int advlog_name_intern(advlog_ring *ring, const char *utf8, uint64_t bytes) {
    if (!is_name(ring, bytes)) return -1;
    name_lock(ring);
    int id = intern(ring, utf8, bytes);
    name_unlock(ring);
    return id;
}

uint32_t advlog_name_count(const advlog_ring *ring) { return names_count(ring); }

uint64_t advlog_ring_left_out(const advlog_ring *ring) { return load_relaxed(&ring->left_out); } /* relaxed: a count */

uint64_t advlog_ring_launched(const advlog_ring *ring) { return load_relaxed(&ring->launched); } /* relaxed: a count */

int advlog_name_get(advlog_ring *ring, uint32_t id, char *out) {
    if (id >= names_count(ring) || ring_is_child(ring)) return -1;
    if (load32_acquire(&ring->index.count) <= id) { /* pairs with find_names:a */
        name_lock(ring);
        bool found = find_names(ring);
        name_unlock(ring);
        if (!found) return -1;
    }
    return copy_name(ring, id, out);
}

void advlog_ring_set_file(advlog_ring *ring, int fd) {
    name_lock(ring);
    ring->file = fd;
    name_unlock(ring);
}

void names_free(advlog_ring *ring) {
    free(ring->index.offset);
    free(ring->index.bucket);
}
