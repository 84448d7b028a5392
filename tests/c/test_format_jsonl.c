/* Records become exactly the JSON lines of the design: strict JSON, nulls explained. */
#include <math.h>

#include "build_ring.h"
#include "build_slots.h"
#include "format.h"

static test_ring ring;
static advlog_labels *labels;
static advlog_line_cache cache;

static void check_line(const char *expected, const advlog_view *view) {
    size_t bound = format_bound(view, labels);
    char *out = malloc(bound); /* of its own, so that ASan sees a write past the bound */
    CHECK(out != NULL);
    CHECK_TEXT(expected, out, format_jsonl(out, view, labels, &cache, 1, 0, 97));
    free(out);
}

static void check_slot(const char *expected, const slot_list *list, uint64_t at) {
    const advlog_view view = {list->slots, UINT64_MAX, at};
    check_line(expected, &view);
}

#define HEAD "{\"timestamp\":\"2026-11-22T19:31:04.123456Z\",\"attempt\":1,\"rank\":0,"

static void batches(void) {
    slot_list list = {0};
    slots_add_values(&list, ADVLOG_KIND_BATCH, SAMPLE_NS, 0, 0, value_of_id);
    advlog_slot *slot = list.slots;
    slot->present = 1 << ADVLOG_LOSS | ADVLOG_HAS_EPOCH | ADVLOG_HAS_BATCH | ADVLOG_HAS_TOTAL | ADVLOG_HAS_STEP;
    slot->epoch = 3;
    slot->batch = 7;
    slot->total_batches = 45;
    slot->step = 97;
    slot->core[ADVLOG_LOSS] = NAN;
    check_slot(
        HEAD
        "\"seq\":97,\"epoch\":3,\"batch\":7,\"total_batches\":45,\"step\":97,\"loss\":null,\"nonfinite\":{\"loss\":\"nan\"}}\n",
        &list, 0);
    slot->core[ADVLOG_LOSS] = 1;
    slot->worker = 4;
    check_slot(
        "{\"timestamp\":\"2026-11-22T19:31:04.123456Z\",\"attempt\":1,\"rank\":0,\"worker\":4,\"seq\":97,\"epoch\":3,\"batch\":7,"
        "\"total_batches\":45,\"step\":97,\"loss\":1.0}\n",
        &list, 0);
    slot->worker = 0;
    slot->present = 0x3f;
    slot->core[ADVLOG_LOSS] = -0.0;
    slot->core[ADVLOG_ACCURACY] = INFINITY;
    slot->core[ADVLOG_LEARNING_RATE] = 1e22;
    slot->core[ADVLOG_GRADIENT_NORM] = -INFINITY;
    slot->core[ADVLOG_BATCH_TIME] = unresolved_timeout();
    slot->core[ADVLOG_DATA_TIME] = double_of(ADVLOG_UNRESOLVED_SLAB_FULL);
    slot->deferred = 1 << ADVLOG_BATCH_TIME | 1 << ADVLOG_DATA_TIME;
    check_slot(HEAD
               "\"seq\":97,\"loss\":-0.0,\"accuracy\":null,\"learning_rate\":1e+22,\"gradient_norm\":null,\"batch_time\":null,"
               "\"data_time\":null,\"nonfinite\":{\"accuracy\":\"inf\",\"gradient_norm\":\"-inf\"},"
               "\"unresolved\":{\"batch_time\":\"timeout\",\"data_time\":\"slab_full\"}}\n",
               &list, 0);
    slot->present = 0; /* what is absent is not explained either */
    check_slot(HEAD "\"seq\":97}\n", &list, 0);
    slots_free(&list);
}

static void extras(void) {
    slot_list list = {0};
    slots_add_values(&list, ADVLOG_KIND_METRICS, SAMPLE_NS, 6, 0, value_of_id);
    list.slots[0].extra[0] = NAN;
    list.slots[0].extra[1] = double_of(ADVLOG_UNRESOLVED_CAPTURE);
    list.slots[0].deferred = 1 << (ADVLOG_CORE_METRICS + 1);
    list.slots[1].more.value[0] = double_of(ADVLOG_UNRESOLVED_KILLED);
    list.slots[1].more.value[1] = double_of(12345); /* no reason that there is */
    list.slots[1].deferred = 3;
    check_slot(
        HEAD "\"seq\":97,\"val/acc\":null,\"a \\\"\\\\\\u000a\\u007f=\":null,\"h\xc3\xb6he\":2.5,\"last\":null,\"metric_4\":null,"
             "\"metric_5\":5.5,\"nonfinite\":{\"val/acc\":\"nan\"},"
             "\"unresolved\":{\"a \\\"\\\\\\u000a\\u007f=\":\"capture\",\"last\":\"killed\",\"metric_4\":\"unknown\"}}\n",
        &list, 0);
    slots_free(&list);
}

static void system_stream(void) {
    slot_list list = {0};
    slots_add_values(&list, ADVLOG_KIND_MEMORY, SAMPLE_NS, 1, 0, value_of_id);
    check_slot(HEAD "\"seq\":97,\"kind\":\"memory\",\"val/acc\":0.5}\n", &list, 0);
    slots_add_values(&list, ADVLOG_KIND_PERFORMANCE, -1, 0, 0, value_of_id);
    list.slots[1].present = 1 << ADVLOG_BATCH_TIME;
    list.slots[1].core[ADVLOG_BATCH_TIME] = 0.25;
    check_slot("{\"timestamp\":\"1969-12-31T23:59:59.999999Z\",\"attempt\":1,\"rank\":0,\"seq\":97,\"kind\":\"performance\","
               "\"batch_time\":0.25}\n",
               &list, 1);
    slots_free(&list);
}

static void wrap(void) {
    slot_list list = {0};
    slots_add_values(&list, ADVLOG_KIND_METRICS, SAMPLE_NS, 4, 2, value_of_id);
    advlog_slot cells[2];
    memcpy(&cells[1], &list.slots[0], sizeof cells[0]);
    memcpy(&cells[0], &list.slots[1], sizeof cells[0]);
    check_line(HEAD "\"seq\":97,\"h\xc3\xb6he\":2.5,\"last\":3.5,\"metric_4\":4.5,\"metric_5\":5.5}\n",
               &(advlog_view){cells, 1, UINT64_MAX});
    slots_free(&list);
}

static void record_function(void) {
    slot_list list = {0};
    char out[256];
    slots_add_values(&list, ADVLOG_KIND_METRICS, SAMPLE_NS, 1, 3, value_of_id);
    int64_t length = advlog_format_record(ring.ring, list.slots, 1, ADVLOG_SINK_JSONL, -1, out, sizeof out);
    CHECK_TEXT("{\"timestamp\":\"2026-11-22T19:31:04.123456Z\",\"attempt\":12,\"rank\":345,\"seq\":-1,\"last\":3.5}\n", out,
               (size_t)length);
    uint64_t event = slots_add_text(&list, ADVLOG_KIND_EVENT, 20, SAMPLE_NS, "text", 4);
    CHECK_INT(-1, advlog_format_record(ring.ring, &list.slots[event], 2, ADVLOG_SINK_JSONL, 0, out, sizeof out));
    slots_free(&list);
}

int main(void) {
    ring = test_ring_new(12, 345);
    test_ring_name(&ring, "val/acc");
    test_ring_name(&ring, "a \"\\\n\x7f=");
    test_ring_name(&ring, "h\xc3\xb6he");
    test_ring_name(&ring, "last");
    labels = labels_new();
    CHECK(labels != NULL && labels_update(labels, ring.ring));
    batches();
    extras();
    system_stream();
    wrap();
    record_function();
    labels_free(labels);
    test_ring_free(&ring);
    return 0;
}
