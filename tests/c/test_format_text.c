/* Records and events become exactly the text lines of the design, one physical line each. */
#include <math.h>

#include "build_ring.h"
#include "build_slots.h"
#include "format.h"

static test_ring ring;
static advlog_labels *labels;
static advlog_line_cache cache;
static unsigned digits = 6;

static void check_line(const char *expected, const advlog_view *view) {
    size_t bound = format_bound(view, labels);
    char *out = malloc(bound); /* of its own, so that ASan sees a write past the bound */
    CHECK(out != NULL);
    CHECK_TEXT(expected, out, format_text(out, view, labels, &cache, digits));
    free(out);
}

static void check_slot(const char *expected, const slot_list *list, uint64_t at) {
    const advlog_view view = {list->slots, UINT64_MAX, at};
    check_line(expected, &view);
}

static advlog_slot *add_batch(slot_list *list) {
    uint64_t at = slots_add_values(list, ADVLOG_KIND_BATCH, SAMPLE_NS, 0, 0, value_of_id);
    advlog_slot *slot = &list->slots[at];
    slot->present =
        1 << ADVLOG_LOSS | 1 << ADVLOG_LEARNING_RATE | ADVLOG_HAS_EPOCH | ADVLOG_HAS_BATCH | ADVLOG_HAS_TOTAL | ADVLOG_HAS_STEP;
    slot->epoch = 1;
    slot->batch = slot->total_batches = 45;
    slot->step = 45;
    slot->core[ADVLOG_LOSS] = 0.8312;
    slot->core[ADVLOG_LEARNING_RATE] = 0.001;
    return slot;
}

#define STAMP "2026-11-22T19:31:04.123456Z "

static void batches(void) {
    slot_list list = {0};
    advlog_slot *slot = add_batch(&list);
    check_slot(STAMP "INFO epoch=1 batch=45/45 step=45 loss=0.8312 learning_rate=0.001\n", &list, 0);
    slot->present &= ~(uint32_t)ADVLOG_HAS_TOTAL;
    slot->worker = 2;
    check_slot(STAMP "INFO epoch=1 batch=45 step=45 worker=2 loss=0.8312 learning_rate=0.001\n", &list, 0);
    slot->worker = 0;
    slot->present = 0x3f | ADVLOG_HAS_TOTAL;
    slot->core[ADVLOG_LOSS] = NAN;
    slot->core[ADVLOG_ACCURACY] = -INFINITY;
    slot->core[ADVLOG_LEARNING_RATE] = INFINITY;
    slot->core[ADVLOG_GRADIENT_NORM] = -0.0;
    slot->core[ADVLOG_BATCH_TIME] = unresolved_timeout();
    slot->deferred = 1 << ADVLOG_BATCH_TIME;
    slot->core[ADVLOG_DATA_TIME] = 3;
    check_slot(STAMP "INFO total_batches=45 loss=nan accuracy=-inf learning_rate=inf gradient_norm=-0 batch_time=? data_time=3\n",
               &list, 0);
    slot->present = 0;
    check_slot(STAMP "INFO\n", &list, 0);
    slot->present = 3;
    slot->core[ADVLOG_LOSS] = 0.6931471805599453;
    slot->core[ADVLOG_ACCURACY] = 1234567.891;
    check_slot(STAMP "INFO loss=0.693147 accuracy=1.23457e+06\n", &list, 0);
    digits = ADVLOG_ALL_DIGITS;
    check_slot(STAMP "INFO loss=0.6931471805599453 accuracy=1234567.891\n", &list, 0);
    digits = 6;
    slots_free(&list);
}

static void extras(void) {
    slot_list list = {0};
    slots_add_values(&list, ADVLOG_KIND_METRICS, SAMPLE_NS, 5, 0, value_of_id);
    list.slots[0].deferred = 1 << (ADVLOG_CORE_METRICS + 2);
    list.slots[1].deferred = 1 << 1;
    list.slots[0].step = -9;
    list.slots[0].present = ADVLOG_HAS_STEP;
    check_slot(STAMP "INFO step=-9 val/acc=0.5 a\\x20b\\x3d\\x22\\x5c\\x0a\\x7f=1.5 h\xc3\xb6he=? last=3.5 metric_4=?\n", &list,
               0);
    slots_free(&list);
}

/* A record that begins in a ring's last slot goes on in its first. */
static void wrap(void) {
    slot_list list = {0};
    slots_add_values(&list, ADVLOG_KIND_METRICS, SAMPLE_NS, 4, 0, value_of_id);
    advlog_slot cells[4];
    memset(cells, 0, sizeof cells);
    memcpy(&cells[3], &list.slots[0], sizeof cells[0]);
    memcpy(&cells[0], &list.slots[1], sizeof cells[0]);
    const char *expected = STAMP "INFO val/acc=0.5 a\\x20b\\x3d\\x22\\x5c\\x0a\\x7f=1.5 h\xc3\xb6he=2.5 last=3.5\n";
    check_line(expected, &(advlog_view){cells, 3, 7});
    check_line(expected, &(advlog_view){cells, 3, UINT64_MAX}); /* positions wrap too */
    slots_free(&list);
}

static void events(void) {
    static const struct {
        unsigned level;
        const char *name;
    } levels[] = {{0, "DEBUG"},    {10, "DEBUG"}, {20, "INFO"},     {29, "INFO"},
                  {30, "WARNING"}, {40, "ERROR"}, {50, "CRITICAL"}, {60000, "CRITICAL"}};
    slot_list list = {0};
    const char *text = "validation epoch=1 accuracy=0.9123 best=true";
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        char expected[128];
        snprintf(expected, sizeof expected, STAMP "%s %s\n", levels[i].name, text);
        check_slot(expected, &list,
                   slots_add_text(&list, ADVLOG_KIND_EVENT, levels[i].level, SAMPLE_NS, text, (unsigned)strlen(text)));
    }
    check_slot(STAMP "INFO \n", &list, slots_add_text(&list, ADVLOG_KIND_EVENT, 20, SAMPLE_NS, "", 0));
    const char *forged = "a\r\nERROR forged\x1b[2J\x7f\\n";
    check_slot(STAMP "INFO a\\x0d\\x0aERROR forged\\x1b[2J\\x7f\\n\n", &list,
               slots_add_text(&list, ADVLOG_KIND_EVENT, 20, SAMPLE_NS, forged, (unsigned)strlen(forged)));
    char longest[ADVLOG_MAX_TEXT_BYTES];
    char expected[ADVLOG_MAX_TEXT_BYTES + 64];
    memset(longest, 'x', sizeof longest);
    int before = snprintf(expected, sizeof expected, STAMP "INFO ");
    memset(expected + before, 'x', sizeof longest);
    memcpy(expected + before + sizeof longest, "\n", 2);
    check_slot(expected, &list, slots_add_text(&list, ADVLOG_KIND_EVENT, 20, SAMPLE_NS, longest, sizeof longest));
    slots_free(&list);
}

static void record_function(void) {
    slot_list list = {0};
    advlog_slot *slot = add_batch(&list);
    const char *expected = STAMP "INFO epoch=1 batch=45/45 step=45 loss=0.8312 learning_rate=0.001\n";
    char out[256];
    int64_t length = advlog_format_record(ring.ring, slot, 1, ADVLOG_SINK_TEXT, 0, out, sizeof out);
    CHECK_TEXT(expected, out, (size_t)length);
    CHECK_INT(length, advlog_format_record(ring.ring, slot, 1, ADVLOG_SINK_TEXT, 0, out, (uint64_t)length));
    CHECK_INT(-1, advlog_format_record(ring.ring, slot, 1, ADVLOG_SINK_TEXT, 0, out, (uint64_t)length - 1));
    CHECK_INT(-1, advlog_format_record(ring.ring, slot, 0, ADVLOG_SINK_TEXT, 0, out, sizeof out));
    CHECK_INT(-1, advlog_format_record(ring.ring, slot, 1, ADVLOG_SINK_SPOOL, 0, out, sizeof out));
    uint64_t longer = slots_add_values(&list, ADVLOG_KIND_METRICS, SAMPLE_NS, 4, 0, value_of_id);
    CHECK_INT(-1, advlog_format_record(ring.ring, &list.slots[longer], 1, ADVLOG_SINK_TEXT, 0, out, sizeof out));
    CHECK(advlog_format_record(ring.ring, &list.slots[longer], 2, ADVLOG_SINK_TEXT, 0, out, sizeof out) > 0);
    slots_free(&list);
}

int main(void) {
    ring = test_ring_new(1, 0);
    test_ring_name(&ring, "val/acc");
    test_ring_name(&ring, "a b=\"\\\n\x7f");
    test_ring_name(&ring, "h\xc3\xb6he");
    labels = labels_new();
    CHECK(labels != NULL && labels_update(labels, ring.ring));
    test_ring_name(&ring, "last"); /* a name born later */
    CHECK(labels_update(labels, ring.ring));
    CHECK_INT(4, labels->count);
    batches();
    extras();
    wrap();
    events();
    record_function();
    labels_free(labels);
    test_ring_free(&ring);
    return 0;
}
