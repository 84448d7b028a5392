/* A scan counts a spool's whole records and names, however it is cut into pieces, and stops before what is torn or damaged. */
#include "build_slots.h"

static advlog_spool_info scan_pieces(const slot_list *list, uint64_t count, uint64_t piece, advlog_scan **keep) {
    advlog_scan *scan = advlog_scan_new();
    CHECK(scan != NULL);
    for (uint64_t at = 0; at < count; at += piece) {
        advlog_scan_feed(scan, &list->slots[at], count - at < piece ? count - at : piece);
    }
    advlog_spool_info info;
    advlog_scan_info(scan, &info);
    if (keep != NULL) *keep = scan;
    else advlog_scan_free(scan);
    return info;
}

static char long_name[ADVLOG_MAX_NAME_BYTES + 1];

static void build_spool(slot_list *list) {
    memset(long_name, 'n', ADVLOG_MAX_NAME_BYTES);
    slots_add_spool(list, ADVLOG_STREAM_METRICS, 2, 3, 1000);
    slots_add_values(list, ADVLOG_KIND_BATCH, SAMPLE_NS, 0, 0, value_of_id);
    slots_add_name(list, 7, "seven");
    slots_add_name(list, 2, long_name);
    list->next_mark = UINT64_MAX - 2; /* the next record's marks pass zero */
    slots_add_values(list, ADVLOG_KIND_METRICS, SAMPLE_NS, 40, 0, value_of_id);
    list->next_mark = 500; /* a worker's ring: marks of its own */
    slots_add_values(list, ADVLOG_KIND_BATCH, SAMPLE_NS, 3, 0, value_of_id);
}

static void whole_spool(void) {
    slot_list list = {0};
    build_spool(&list);
    for (uint64_t piece = 1; piece <= list.count; piece++) {
        advlog_scan *scan;
        advlog_spool_info info = scan_pieces(&list, list.count, piece, &scan);
        CHECK_INT(ADVLOG_SPOOL_VERSION, info.layout_version);
        CHECK_INT(ADVLOG_STREAM_METRICS, info.stream);
        CHECK_INT(2, info.attempt);
        CHECK_INT(3, info.rank);
        CHECK_INT(1000, info.first_seq);
        CHECK(memcmp(info.run_id, "0123456789abcdef", 16) == 0);
        CHECK_INT(3, info.records);
        CHECK_INT(list.count, info.slots);
        CHECK_INT(8, info.names);
        CHECK_INT(0, info.damaged);
        char name[ADVLOG_MAX_NAME_BYTES];
        CHECK_TEXT("seven", name, (size_t)advlog_scan_name(scan, 7, name));
        CHECK_TEXT(long_name, name, (size_t)advlog_scan_name(scan, 2, name));
        CHECK_INT(-1, advlog_scan_name(scan, 3, name));
        CHECK_INT(-1, advlog_scan_name(scan, 8, name));
        CHECK_INT(-1, advlog_scan_name(scan, UINT32_MAX, name));
        advlog_scan_free(scan);
    }
    slots_free(&list);
}

static void torn_tail(void) {
    slot_list list = {0};
    build_spool(&list);
    uint64_t ends[16];
    size_t records = 0;
    for (uint64_t at = 1; at < list.count; at += list.slots[at].part) ends[records++] = at + list.slots[at].part;
    for (uint64_t count = 1; count <= list.count; count++) {
        uint64_t whole = 1;
        for (size_t i = 0; i < records && ends[i] <= count; i++) whole = ends[i];
        advlog_spool_info info = scan_pieces(&list, count, 3, NULL);
        CHECK_INT(whole, info.slots);
        CHECK_INT(0, info.damaged);
    }
    advlog_spool_info empty = scan_pieces(&list, 0, 1, NULL);
    CHECK_INT(0, empty.slots);
    CHECK_INT(0, empty.damaged);
    slots_free(&list);
}

/* A spool begins with the names of both streams: which of them are columns here, only the records can say. */
static void used_ids(void) {
    slot_list list = {0};
    slots_add_spool(&list, ADVLOG_STREAM_METRICS, 1, 0, 0);
    slots_add_name(&list, 5, "of the other stream");
    slots_add_values(&list, ADVLOG_KIND_BATCH, SAMPLE_NS, 2, 10, value_of_id);
    slots_add_values(&list, ADVLOG_KIND_METRICS, SAMPLE_NS, 20, 100, value_of_id); /* of three slots */
    uint64_t whole = list.count;
    slots_add_values(&list, ADVLOG_KIND_METRICS, SAMPLE_NS, 14, 200, value_of_id); /* of two */
    for (int torn = 1; torn >= 0; torn--) {
        for (uint64_t piece = 1; piece <= list.count; piece++) {
            advlog_scan *scan;
            advlog_spool_info info = scan_pieces(&list, list.count - (uint64_t)torn, piece, &scan);
            CHECK_INT(torn ? whole : list.count, info.slots);
            for (uint32_t id = 0; id < ADVLOG_MAX_NAMES; id++) {
                bool wanted = (id >= 10 && id < 12) || (id >= 100 && id < 120) || (!torn && id >= 200 && id < 214);
                CHECK_INT(wanted, advlog_scan_uses(scan, id));
            }
            CHECK_INT(0, advlog_scan_uses(scan, ADVLOG_MAX_NAMES));
            CHECK_INT(0, advlog_scan_uses(scan, UINT32_MAX));
            advlog_scan_free(scan);
        }
    }
    slots_free(&list);
}

/* A valid spool of two records, the second of four slots; change() damages it. */
static void check_damaged(void (*change)(slot_list *), uint64_t slots, uint64_t records) {
    slot_list list = {0};
    slots_add_spool(&list, ADVLOG_STREAM_METRICS, 1, 0, 0);
    slots_add_values(&list, ADVLOG_KIND_BATCH, SAMPLE_NS, 0, 0, value_of_id);
    slots_add_values(&list, ADVLOG_KIND_METRICS, SAMPLE_NS, 36, 0, value_of_id);
    slots_add_values(&list, ADVLOG_KIND_BATCH, SAMPLE_NS, 0, 0, value_of_id);
    change(&list);
    for (uint64_t piece = 1; piece <= 2; piece++) {
        advlog_spool_info info = scan_pieces(&list, list.count, piece, NULL);
        CHECK_INT(1, info.damaged);
        CHECK_INT(slots, info.slots);
        CHECK_INT(records, info.records);
    }
    slots_free(&list);
}

static void no_spool_slot(slot_list *list) { list->slots[0].kind = ADVLOG_KIND_BATCH; }
static void other_version(slot_list *list) { list->slots[0].count = ADVLOG_SPOOL_VERSION + 1; }
static void other_stream(slot_list *list) { list->slots[0].part = ADVLOG_STREAM_EVENTS; }
static void zeroed_slot(slot_list *list) { memset(&list->slots[2], 0, sizeof list->slots[2]); }
static void unknown_kind(slot_list *list) { list->slots[2].kind = 99; }
static void part_first(slot_list *list) { list->slots[2].kind = ADVLOG_KIND_PART; }
static void second_spool(slot_list *list) { list->slots[1].kind = ADVLOG_KIND_SPOOL; }
static void kind_of_other_stream(slot_list *list) { list->slots[2].kind = ADVLOG_KIND_MEMORY; }
static void count_without_slots(slot_list *list) { list->slots[2].count = 2000; }
static void part_zero(slot_list *list) { list->slots[2].part = 0; }
static void id_in_header(slot_list *list) { list->slots[2].extra_id[2] = ADVLOG_MAX_NAMES; }
static void id_in_part(slot_list *list) { list->slots[4].more.id[10] = UINT16_MAX; }
static void count_in_part(slot_list *list) { list->slots[5].count = 12; }
static void parts_swapped(slot_list *list) { list->slots[3].part = 2; }
static void mark_skipped(slot_list *list) { store_relaxed(&list->slots[4].mark, 77); }
static void text_in_values(slot_list *list) { list->slots[5].kind = ADVLOG_KIND_PART_TEXT; }
static void event(slot_list *list) { slots_add_text(list, ADVLOG_KIND_EVENT, 20, 0, "text", 4); }
static void name_id(slot_list *list) { slots_add_name(list, ADVLOG_MAX_NAMES, "name"); }
static void name_empty(slot_list *list) { slots_add_name(list, 1, ""); }
static void name_too_long(slot_list *list) {
    char name[ADVLOG_MAX_NAME_BYTES + 2] = {0};
    memset(name, 'n', ADVLOG_MAX_NAME_BYTES + 1);
    slots_add_name(list, 1, name);
}

static void damage(void) {
    check_damaged(no_spool_slot, 0, 0);
    check_damaged(other_version, 0, 0);
    check_damaged(other_stream, 0, 0);
    check_damaged(second_spool, 1, 0);
    void (*const in_second_record[])(slot_list *) = {zeroed_slot,         unknown_kind,  part_first,   kind_of_other_stream,
                                                     count_without_slots, part_zero,     id_in_header, id_in_part,
                                                     count_in_part,       parts_swapped, mark_skipped, text_in_values};
    for (size_t i = 0; i < sizeof in_second_record / sizeof *in_second_record; i++) check_damaged(in_second_record[i], 2, 1);
    void (*const appended[])(slot_list *) = {event, name_id, name_empty, name_too_long};
    for (size_t i = 0; i < sizeof appended / sizeof *appended; i++) check_damaged(appended[i], 7, 3);
}

int main(void) {
    whole_spool();
    torn_tail();
    used_ids();
    damage();
    return 0;
}
