/* No line is longer than format_bound says: not the longest valid record, nor slots of random bytes. */
#include <math.h>

#include "build_ring.h"
#include "build_slots.h"
#include "format.h"

static test_ring ring;
static advlog_labels *labels;

static void format_within_bound(const advlog_view *view) {
    advlog_line_cache cache = {0};
    size_t bound = format_bound(view, labels);
    char *out = malloc(bound);
    CHECK(out != NULL);
    CHECK(format_text(out, view, labels, &cache, ADVLOG_ALL_DIGITS) <= bound);
    CHECK(format_jsonl(out, view, labels, &cache, INT32_MIN, INT32_MIN, INT64_MIN) <= bound);
    free(out);
}

static double longest_value(unsigned id) { return id % 2 ? -2.2250738585072014e-308 : unresolved_timeout(); }
static double unresolved_value(unsigned id) { return double_of(id % 5); }

static void longest_records(double (*value_of)(unsigned), bool deferred, unsigned first_id) {
    for (unsigned extras = 0; extras <= 300; extras++) {
        slot_list list = {0};
        slots_add_values(&list, ADVLOG_KIND_PERFORMANCE, INT64_MIN, extras, first_id, value_of);
        advlog_slot *header = list.slots;
        header->present = UINT32_MAX;
        header->epoch = header->batch = header->total_batches = INT32_MIN;
        header->step = INT64_MIN;
        header->worker = UINT16_MAX;
        for (unsigned i = 0; i < ADVLOG_CORE_METRICS; i++) header->core[i] = value_of(i + 1);
        if (deferred)
            for (uint64_t i = 0; i < list.count; i++) list.slots[i].deferred = UINT16_MAX;
        format_within_bound(&(advlog_view){list.slots, UINT64_MAX, 0});
        slots_free(&list);
    }
}

static void longest_event(void) {
    slot_list list = {0};
    char text[ADVLOG_MAX_TEXT_BYTES];
    memset(text, '\n', sizeof text);
    slots_add_text(&list, ADVLOG_KIND_EVENT, 50, INT64_MIN, text, sizeof text);
    format_within_bound(&(advlog_view){list.slots, UINT64_MAX, 0});
    slots_free(&list);
}

static void random_slots(void) {
    uint64_t state = 6;
    slot_list list = {0};
    for (int i = 0; i < 256; i++) slots_add(&list);
    for (int round = 0; round < 2000; round++) {
        for (int i = 0; i < 256; i++) {
            uint64_t words[ADVLOG_SLOT_BYTES / 8];
            for (size_t w = 0; w < ADVLOG_SLOT_BYTES / 8; w++) words[w] = next_random(&state);
            memcpy(&list.slots[i], words, sizeof words);
        }
        list.slots[0].kind = (uint8_t)(next_random(&state) % 8);
        format_within_bound(&(advlog_view){list.slots, 255, next_random(&state)});
    }
    slots_free(&list);
}

int main(void) {
    ring = test_ring_new(1, 0);
    for (int i = 0; i < 200; i++) {
        char name[ADVLOG_MAX_NAME_BYTES + 1];
        memset(name, '\n', sizeof name);
        int digits = snprintf(name, sizeof name, "%d", i);
        name[digits] = '"';
        name[i < 100 ? ADVLOG_MAX_NAME_BYTES : digits + 1] = '\0';
        test_ring_name(&ring, name);
    }
    labels = labels_new();
    CHECK(labels != NULL && labels_update(labels, ring.ring));
    for (unsigned first_id = 0; first_id < 700; first_id += 100) {
        longest_records(longest_value, false, first_id);
        longest_records(unresolved_value, true, first_id);
    }
    longest_event();
    random_slots();
    labels_free(labels);
    test_ring_free(&ring);
    return 0;
}
