/* Scan and columns over a damaged spool, fed in odd pieces: they neither crash nor disagree. */
#include "fuzz.h"
#include "read_spool.h"

/* One more record, or name, or something that does not belong there. */
static void take_record(fuzz_input *in, slot_list *list) {
    unsigned what = take_byte(in), size = take_byte(in);
    char name[ADVLOG_MAX_NAME_BYTES + 1];
    memset(name, 'n', sizeof name);
    switch (what % 8) {
    case 0: slots_add_text(list, ADVLOG_KIND_NAME, size, 0, name, 1 + take_byte(in) % ADVLOG_MAX_NAME_BYTES); break;
    case 1: slots_add_text(list, ADVLOG_KIND_EVENT, 20, 0, name, size); break;
    case 2: slots_add_spool(list, (int)(size % 3), 1, 0, INT64_MAX); break;
    case 3: list->next_mark += size; break;
    default: {
        uint64_t at = slots_add_values(list, (int)(1 + what / 8 % 4), 0, size, size % 7, value_of_id);
        unsigned present = take_short(in), deferred = take_short(in);
        list->slots[at].present = present;
        list->slots[at].deferred = (uint16_t)deferred;
    }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_input in = {data, data + size};
    slot_list list = {0};
    unsigned most = 1 + take_byte(&in) % 32, records = take_byte(&in) % 40, torn = take_byte(&in);
    slots_add_spool(&list, (int)(torn >> 6) % 2, 1, 0, 0);
    for (; records > 0; records--) take_record(&in, &list);
    while (!input_empty(&in)) take_patch(&in, (void *)list.slots, list.count * ADVLOG_SLOT_BYTES);

    uint64_t count = list.count - (torn & 63) % list.count;
    /* Exactly as large, and nowhere aligned. */
    uint8_t *copy = malloc(count * ADVLOG_SLOT_BYTES + 1);
    CHECK(copy != NULL);
    memcpy(copy + 1, (const void *)list.slots, count * ADVLOG_SLOT_BYTES);
    read_spool(copy + 1, count, most);
    free(copy);
    slots_free(&list);
    return 0;
}
