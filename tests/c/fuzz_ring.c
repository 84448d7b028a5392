/* A dead process's ring, damaged anywhere: attached, repaired and drained to its end as a recovery does. What repair
 * lets pass, the drain must finish with, every record of it once and in whole lines. */
#include "build_drain.h"
#include "fuzz.h"

#include <sys/mman.h>

#define SLOTS 64
#define PASSES 1000 /* far more than a ring of this size can need */

/* ---- the ring before its owner died ---- */

static void take_push(fuzz_input *in, advlog_ring *ring) {
    static const uint16_t ids[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    static const double values[16] = {1, -2.5, 1e300};
    unsigned shape = take_byte(in), extras = take_byte(in) % 16;
    advlog_record record = {.time_ns = (int64_t)((uint64_t)take_short(in) << 48),
                            .step = shape,
                            .core = {0.5, 1.5},
                            .present = shape * 5,
                            .kind = (uint8_t)(1 + shape % 4),
                            .extras = (uint16_t)extras,
                            .extra_ids = ids,
                            .extra_values = values};
    advlog_push(ring, &record);
}

/* Reserved, and never published: all of it, or its header. */
static void take_hole(fuzz_input *in, advlog_ring *ring) {
    uint64_t slots = 1 + take_byte(in) % 20, position;
    if (ring_try_reserve(ring, slots, &position) != ADVLOG_OK) return;
    if (take_byte(in) % 2) return;
    for (uint64_t part = 1; part < slots; part++) {
        advlog_slot *s = ring_slot(ring, position + part);
        *s = (advlog_slot){.kind = ADVLOG_KIND_PART, .part = (uint8_t)part};
        ring_publish(s, position + part);
    }
}

/* A sink that is through with everything so far. */
static void take_cursor(fuzz_input *in, advlog_ring *ring) {
    unsigned what = take_byte(in), sink = what % 4;
    uint64_t records = take_byte(in);
    ring->header->cursor[sink].kind = (int32_t)(1 + what / 4 % 3);
    ring->header->cursor[sink].stream = (int32_t)(what / 16 % 2);
    ring->header->cursor[sink].copy[0] = (advlog_cursor){.position = advlog_ring_write_pos(ring),
                                                         .next_seq = (int64_t)records + 1,
                                                         .written = records,
                                                         .length = records * 100,
                                                         .file_number = 1};
}

static void take_text(fuzz_input *in, advlog_ring *ring) {
    const uint8_t *text;
    unsigned level = take_byte(in);
    size_t bytes = take_bytes(in, take_byte(in), &text);
    advlog_push_text(ring, (int)level, 1, (const char *)text, bytes);
}

static void take_name(fuzz_input *in, advlog_ring *ring) {
    const uint8_t *name;
    size_t bytes = take_bytes(in, take_byte(in) % 40, &name);
    advlog_name_intern(ring, (const char *)name, bytes);
}

/* Damage where it matters: the bytes between are only padding. */
static void take_damage(fuzz_input *in, advlog_ring *ring) {
    advlog_ring_header *h = ring->header;
    switch (take_byte(in) % 8) {
    case 0: take_patch(in, h, offsetof(advlog_ring_header, write_pos)); break;
    case 1: take_patch(in, &h->write_pos, sizeof h->write_pos); break;
    case 2: take_patch(in, &h->read_pos, sizeof h->read_pos); break;
    case 3: take_patch(in, h->cursor, 5 * sizeof h->cursor[0]); break;
    case 4: take_patch(in, ring->names, 4096); break;
    case 5: take_patch(in, h, sizeof *h); break;
    default: take_patch(in, (void *)ring->slots, SLOTS * sizeof *ring->slots); break;
    }
}

static test_ring take_ring(fuzz_input *in) {
    static const uint64_t starts[] = {SLOTS, 0 - UINT64_C(20), (UINT64_C(1) << 63) - 20, UINT64_C(1) << 63};
    test_ring t = test_ring_at(SLOTS, starts[take_byte(in) % 4], 3, 2);
    for (unsigned events = take_byte(in) % 48; events > 0; events--) {
        switch (take_byte(in) % 8) {
        case 0: take_hole(in, t.ring); break;
        case 1: take_cursor(in, t.ring); break;
        case 2: take_text(in, t.ring); break;
        case 3: take_name(in, t.ring); break;
        case 4: store_release(&t.ring->header->read_pos, advlog_ring_write_pos(t.ring)); break;
        default: take_push(in, t.ring);
        }
    }
    while (!input_empty(in)) take_damage(in, t.ring);
    return t;
}

/* ---- what recovery makes of it ---- */

static bool takes(const advlog_sink_options *o, int kind) {
    int stream = kind_stream(kind);
    return stream == o->stream || (o->kind == ADVLOG_SINK_TEXT && stream == ADVLOG_STREAM_EVENTS);
}

/* Records between a cursor and the end that the sink is to take. */
static uint64_t records_from(const advlog_ring *ring, uint64_t position, uint64_t end, const advlog_sink_options *o) {
    uint64_t records = 0;
    while (position != end) {
        const advlog_slot *header = ring_slot(ring, position);
        CHECK(header->part > 0 && end - position >= header->part);
        records += takes(o, header->kind);
        position += header->part;
    }
    return records;
}

static int memory_file(void) {
    int fd = memfd_create("sink", 0);
    CHECK(fd >= 0);
    return fd;
}

/* Closes a file of a sink, whose content must be whole; `begun`: from its first byte on. */
static void check_file(int fd, const advlog_sink_options *o, bool begun) {
    size_t length = (size_t)lseek(fd, 0, SEEK_END);
    char *content = malloc(length + 1);
    CHECK(content != NULL);
    CHECK_INT(length, pread(fd, content, length, 0));
    close(fd);
    if (o->kind == ADVLOG_SINK_SPOOL) {
        advlog_scan *scan = advlog_scan_new();
        CHECK(scan != NULL && length % ADVLOG_SLOT_BYTES == 0);
        advlog_spool_info info;
        if (begun) advlog_scan_feed(scan, content, length / ADVLOG_SLOT_BYTES);
        advlog_scan_info(scan, &info);
        CHECK(!info.damaged && (!begun || info.slots == length / ADVLOG_SLOT_BYTES));
        advlog_scan_free(scan);
        length = 0;
    }
    for (size_t at = 0; at < length;) {
        char *newline = memchr(content + at, '\n', length - at);
        CHECK(newline != NULL);
        size_t line = (size_t)(newline + 1 - (content + at));
        if (o->kind == ADVLOG_SINK_JSONL) check_json_line(content + at, line);
        else check_text_line(content + at, line);
        at += line;
    }
    free(content);
}

static void drain_all(advlog_ring *ring, unsigned options) {
    advlog_drain *drain = advlog_drain_new(ring);
    CHECK(drain != NULL);
    int sinks = 0, fd[ADVLOG_MAX_SINKS], why = 0;
    bool begun[ADVLOG_MAX_SINKS];
    uint64_t expected[ADVLOG_MAX_SINKS], end = advlog_ring_write_pos(ring);
    for (; sinks < ADVLOG_MAX_SINKS && advlog_ring_sink_kind(ring, sinks); sinks++) {
        advlog_cursor c;
        advlog_ring_cursor(ring, sinks, &c);
        CHECK(advlog_ring_sink_kind(ring, sinks) > 0 && advlog_ring_sink_kind(ring, sinks) < ADVLOG_SINK_KINDS);
        CHECK(advlog_ring_sink_stream(ring, sinks) >= 0 && advlog_ring_sink_stream(ring, sinks) <= ADVLOG_STREAM_SYSTEM);
        const advlog_sink_options o = {.kind = advlog_ring_sink_kind(ring, sinks),
                                       .stream = advlog_ring_sink_stream(ring, sinks),
                                       .max_bytes = options & 1 ? 3000 : NO_LIMIT,
                                       .max_records = options & 2 ? 7 : 0,
                                       .every = options >> 4,
                                       .level = options & 4 ? 20 : 0};
        CHECK_INT(sinks, advlog_drain_add_sink(drain, &o));
        expected[sinks] = c.written + c.dropped + records_from(ring, c.position, end, &o);
    }
    for (int i = 0; i < sinks; i++) {
        advlog_cursor c;
        advlog_ring_cursor(ring, i, &c);
        fd[i] = options & 8 ? memory_file() : -1;
        begun[i] = fd[i] < 0 || c.length == 0;
        advlog_sink_resume(drain, i, fd[i], c.length ? 1 : 0, c.next_seq - (c.length ? 1 : 0));
    }
    for (int pass = 0; !(why & ADVLOG_DRAIN_DONE); pass++) {
        CHECK(pass < PASSES);
        why = advlog_drain_run(drain, SECOND);
        for (int i = 0; i < sinks; i++) {
            advlog_sink_info info;
            advlog_sink_get(drain, i, &info);
            CHECK_INT(0, info.faults);
            if (info.closed_fd >= 0) {
                check_file(info.closed_fd, &drain->sink[i].options, begun[i]);
                begun[i] = true;
                advlog_sink_closed_done(drain, i);
            }
            if (info.needs_file) advlog_sink_give_file(drain, i, memory_file(), 1, 1, info.cursor.file_number + 1);
        }
    }
    for (int i = 0; i < sinks; i++) {
        advlog_cursor c;
        advlog_ring_cursor(ring, i, &c);
        CHECK(c.position == end && c.written + c.dropped == expected[i] && (uint64_t)c.next_seq == expected[i] + 1);
        if (drain->sink[i].fd >= 0) check_file(drain->sink[i].fd, &drain->sink[i].options, begun[i]);
        if (drain->sink[i].next_fd >= 0) close(drain->sink[i].next_fd);
    }
    advlog_totals *totals = malloc(sizeof *totals);
    CHECK(totals != NULL);
    advlog_drain_totals(drain, totals);
    CHECK(totals->position == end);
    free(totals);
    advlog_drain_free(drain);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_input in = {data, data + size};
    unsigned options = take_byte(&in);
    test_ring t = take_ring(&in);
    int error = 0;
    advlog_ring *ring = advlog_ring_attach(t.memory, test_ring_bytes(SLOTS), &error);
    if (ring) {
        advlog_repair looked, repaired, again;
        int damaged = advlog_ring_repair(ring, true, &looked);
        CHECK_INT(damaged, advlog_ring_repair(ring, false, &repaired));
        CHECK(damaged || memcmp(&looked, &repaired, sizeof looked) == 0);
        CHECK_INT(damaged, advlog_ring_repair(ring, false, &again));
        CHECK(damaged || memcmp(&looked, &again, sizeof looked) == 0);
        if (!damaged) drain_all(ring, options);
    } else {
        CHECK(error != 0);
    }
    advlog_ring_detach(ring);
    test_ring_free(&t);
    return 0;
}
