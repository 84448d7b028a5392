/* Whatever bytes a spool holds, scan and columns neither crash nor disagree: every byte flipped, and random slots. */
#include "read_spool.h"

static void build_spool(slot_list *list) {
    slots_add_spool(list, ADVLOG_STREAM_METRICS, 1, 0, 0);
    slots_add_name(list, 1, "one");
    for (unsigned r = 0; r < 3; r++) {
        uint64_t at = slots_add_values(list, ADVLOG_KIND_BATCH, SAMPLE_NS, r * 9, 0, value_of_id);
        list->slots[at].present = 0x3ff;
        list->slots[at].deferred = (uint16_t)(r << 5);
    }
    slots_add_name(
        list, 2,
        "a name of more than one slot a name of more than one slot a name of more than one slot a name of more than one slot");
    slots_add_values(list, ADVLOG_KIND_METRICS, SAMPLE_NS, 1, 2, value_of_id);
}

int main(void) {
    slot_list list = {0};
    build_spool(&list);
    uint64_t bytes = list.count * ADVLOG_SLOT_BYTES;
    /* Exactly as large as the spool, so that ASan sees a read past it. */
    uint8_t *copy = malloc(bytes);
    CHECK(copy != NULL);
    static const uint8_t flips[] = {0xff, 0x01, 0x80, 0x10};
    for (uint64_t at = 0; at < bytes; at++) {
        for (size_t i = 0; i < sizeof flips; i++) {
            memcpy(copy, list.slots, bytes);
            copy[at] ^= flips[i];
            read_spool(copy, list.count, list.count / 2);
        }
    }
    uint64_t state = 7;
    for (int round = 0; round < 3000; round++) {
        memcpy(copy, list.slots, bytes);
        for (int i = 0; i < 4; i++) copy[next_random(&state) % bytes] = (uint8_t)next_random(&state);
        read_spool(copy, list.count - next_random(&state) % 3, list.count / 2);
    }
    for (int round = 0; round < 3000; round++) {
        /* Slots in any order: each is valid, the whole seldom. */
        for (uint64_t i = 0; i < list.count; i++)
            memcpy(copy + i * ADVLOG_SLOT_BYTES, &list.slots[i && round % 2 ? next_random(&state) % list.count : i],
                   ADVLOG_SLOT_BYTES);
        for (uint64_t i = ADVLOG_SLOT_BYTES; round % 2 == 0 && i < bytes; i++) copy[i] = (uint8_t)(next_random(&state) % 18);
        read_spool(copy, list.count, list.count / 2);
    }
    free(copy);
    slots_free(&list);
    return 0;
}
