/* One operation of the core, many times: its time, or, under callgrind, its instructions.
 *
 *     core OPERATION COUNT        prints ns per operation
 */
#include "drain.h"

#include <stdio.h>
#include <stdlib.h>

#define SLOTS UINT64_C(32768)
#define VALUES 4096

static double values[VALUES];
static char line[16384];
static advlog_ring *ring;
static advlog_labels *labels;
static advlog_line_cache cache;

static double chance(void) {
    static uint64_t state = 88172645463325252;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (double)(state >> 11) / 9007199254740992.0;
}

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static void open_ring(void) {
    uint64_t bytes = advlog_ring_bytes(SLOTS, ADVLOG_SLAB_ENTRIES);
    void *memory = aligned_alloc(ADVLOG_PAGE_BYTES, (bytes + ADVLOG_PAGE_BYTES - 1) / ADVLOG_PAGE_BYTES * ADVLOG_PAGE_BYTES);
    advlog_identity identity = {.attempt = 1};
    int error;
    if (!memory) fail("no memory");
    memset(memory, 0, bytes);
    if (advlog_ring_init(memory, bytes, bytes, SLOTS, ADVLOG_SLAB_ENTRIES, SLOTS, &identity)) fail("no ring");
    ring = advlog_ring_attach(memory, bytes, &error);
    if (!ring) fail("no ring");
    labels = labels_new();
    if (!labels) fail("no memory");
}

static advlog_record record_of(uint64_t i) {
    advlog_record r = {
        .time_ns = advlog_wall_ns(),
        .epoch = 1,
        .batch = (int32_t)i,
        .total_batches = 100000,
        .step = (int64_t)i,
        .present = 0xf | ADVLOG_HAS_EPOCH | ADVLOG_HAS_BATCH | ADVLOG_HAS_TOTAL | ADVLOG_HAS_STEP,
        .kind = ADVLOG_KIND_BATCH,
    };
    for (int m = 0; m < 4; m++) r.core[m] = values[(i + (uint64_t)m) % VALUES];
    return r;
}

/* Each returns something that depends on its work. The half ring that a push needs is made free by moving read_pos, as
 * a drain would. */
static uint64_t push(uint64_t i) {
    advlog_record r = record_of(i);
    if (i % (SLOTS / 2) == 0) store_release(&ring->header->read_pos, advlog_ring_write_pos(ring)); /* F, partner G */
    return (uint64_t)advlog_push(ring, &r);
}
static uint64_t clock_read(uint64_t i) { return i + (uint64_t)advlog_wall_ns(); }
static uint64_t number_double(uint64_t i) { return advlog_number_double(line, values[i % VALUES]); }
static uint64_t number_int(uint64_t i) { return advlog_number_int(line, (int64_t)i); }

static advlog_view view_of(uint64_t i) { return (advlog_view){ring->slots, ring->mask, i % 1024}; }
static uint64_t text(uint64_t i) {
    advlog_view view = view_of(i);
    return format_text(line, &view, labels, &cache, 6);
}
static uint64_t jsonl(uint64_t i) {
    advlog_view view = view_of(i);
    return format_jsonl(line, &view, labels, &cache, 1, 0, (int64_t)i);
}

static const struct {
    const char *name;
    uint64_t (*run)(uint64_t);
} OPERATIONS[] = {{"push", push},      {"clock", clock_read}, {"double", number_double},
                  {"int", number_int}, {"text", text},        {"jsonl", jsonl}};

int main(int argc, char **argv) {
    if (argc != 3) fail("expected: core OPERATION COUNT");
    for (int i = 0; i < VALUES; i++) values[i] = chance();
    open_ring();
    for (uint64_t i = 0; i < 1024; i++) push(i); /* what the formatters read */
    for (size_t o = 0; o < sizeof OPERATIONS / sizeof *OPERATIONS; o++) {
        if (strcmp(OPERATIONS[o].name, argv[1])) continue;
        uint64_t (*run)(uint64_t) = OPERATIONS[o].run;
        uint64_t count = strtoull(argv[2], NULL, 10), sum = 0;
        int64_t began = advlog_monotonic_ns();
        for (uint64_t i = 0; i < count; i++) sum += run(i);
        int64_t took = advlog_monotonic_ns() - began;
        printf("%.3f\n", (double)took / (double)count);
        return sum == 42; /* used */
    }
    fail("no such operation");
}
