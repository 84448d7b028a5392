/* Formatters over arbitrary slots and names: no line exceeds its bound, a text line has no control byte, a JSON
 * line is strict JSON. */
#include "build_ring.h"
#include "format.h"
#include "fuzz.h"
#include "record.h"

#define SLOTS 256 /* a damaged `part` reaches no further */

static void check_lines(advlog_ring *ring, const advlog_view *view) {
    advlog_labels *labels = labels_new();
    CHECK(labels != NULL && labels_update(labels, ring));
    size_t bound = format_bound(view, labels);
    char *out = malloc(bound); /* exactly, so that ASan sees a write past it */
    CHECK(out != NULL);
    advlog_line_cache cache = {0};
    size_t length = 0;
    for (unsigned digits = 1; digits <= ADVLOG_ALL_DIGITS; digits += 8) {
        length = format_text(out, view, labels, &cache, digits);
        CHECK(length <= bound);
        check_text_line(out, length);
    }
    length = format_jsonl(out, view, labels, &cache, INT32_MIN, INT32_MIN, INT64_MIN);
    CHECK(length <= bound);
    if (length) check_json_line(out, length);
    free(out);
    labels_free(labels);
}

/* The same through the door that checks its slots. */
static void check_record(advlog_ring *ring, const advlog_slot *slots, uint32_t count, uint64_t capacity) {
    char *out = malloc(capacity + 1);
    CHECK(out != NULL);
    for (int kind = 0; kind < ADVLOG_SINK_KINDS; kind++) {
        int64_t length = advlog_format_record(ring, slots, count, kind, 1, out, capacity);
        CHECK(length >= -1 && length <= (int64_t)capacity);
        if (length > 0 && kind == ADVLOG_SINK_TEXT) check_text_line(out, (size_t)length);
        if (length > 0 && kind == ADVLOG_SINK_JSONL) check_json_line(out, (size_t)length);
    }
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_input in = {data, data + size};
    test_ring t = test_ring_new(1, 2);
    const uint8_t *name;
    for (unsigned names = take_byte(&in) % 16; names > 0; names--) {
        size_t bytes = take_bytes(&in, take_byte(&in), &name);
        advlog_name_intern(t.ring, (const char *)name, bytes);
    }
    unsigned kind = take_byte(&in), count = take_short(&in), at = take_byte(&in);
    uint64_t capacity = 64 * (uint64_t)take_byte(&in);

    advlog_slot *slots = aligned_alloc(64, SLOTS * sizeof *slots);
    CHECK(slots != NULL);
    memset((void *)slots, 0, SLOTS * sizeof *slots);
    /* A record of the kind and size that the input says, so that most inputs are nearly one. */
    bool values = kind_has_values(kind);
    uint64_t parts = values ? ring_slots_for(count) : ring_slots_for_text(count);
    for (unsigned part = 0; part < parts && part < SLOTS; part++) {
        slots[part].kind = (uint8_t)(part == 0 ? kind : values ? ADVLOG_KIND_PART : ADVLOG_KIND_PART_TEXT);
        slots[part].part = (uint8_t)(part ? part : parts);
        unsigned room = values ? ADVLOG_PART_EXTRAS : ADVLOG_PART_TEXT,
                 before = (values ? ADVLOG_HEADER_EXTRAS : 0) + (part - 1) * room;
        slots[part].count = (uint16_t)(part == 0 ? count : count - before < room ? count - before : room);
    }
    const uint8_t *from;
    for (unsigned part = 0; part < SLOTS && !input_empty(&in) && part < 4; part++) {
        size_t bytes = take_bytes(&in, take_byte(&in) % (ADVLOG_PART_TEXT + 1), &from);
        memcpy(slots[part].text, from, bytes);
    }
    while (!input_empty(&in)) take_patch(&in, (void *)slots, SLOTS * sizeof *slots);

    check_record(t.ring, slots, at ? at : SLOTS, capacity);
    check_lines(t.ring, &(advlog_view){slots, SLOTS - 1, 0});
    check_lines(t.ring, &(advlog_view){slots, SLOTS - 1, at});
    free(slots);
    test_ring_free(&t);
    return 0;
}
