/* The name table, damaged anywhere: whatever it says, a name lies in the table, and is UTF-8 when it is used. */
#include "build_ring.h"
#include "format.h"
#include "fuzz.h"

static void check_table(advlog_ring *ring) {
    uint32_t count = names_count(ring);
    CHECK(count <= ADVLOG_MAX_NAMES && count == advlog_name_count(ring));
    for (uint32_t id = 0; id <= count; id++) {
        char copy[ADVLOG_MAX_NAME_BYTES];
        int bytes = advlog_name_get(ring, id, copy);
        if (bytes < 0) continue;
        CHECK(id < count && bytes > 0 && bytes <= ADVLOG_MAX_NAME_BYTES);
        CHECK(utf8_is_valid((const uint8_t *)copy, (const uint8_t *)copy + bytes));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_input in = {data, data + size};
    test_ring t = test_ring_new(1, 2);
    advlog_name_list *names = t.ring->names;
    while (!input_empty(&in)) {
        const uint8_t *name;
        switch (take_byte(&in) % 4) {
        case 0: take_patch(&in, names, sizeof *names); break;
        case 1: take_patch(&in, names->heap, 4096); break;
        default: {
            size_t bytes = take_bytes(&in, take_byte(&in), &name);
            int id = advlog_name_intern(t.ring, (const char *)name, bytes);
            CHECK(id >= ADVLOG_NAME_NO_ROOM && id < (int)names_count(t.ring));
            char copy[ADVLOG_MAX_NAME_BYTES];
            int found = id < 0 ? -1 : advlog_name_get(t.ring, (uint32_t)id, copy);
            if (found >= 0) CHECK(found == (int)bytes && memcmp(copy, name, bytes) == 0);
        }
        }
    }
    check_table(t.ring);
    advlog_labels *labels = labels_new();
    CHECK(labels != NULL && labels_update(labels, t.ring) && labels->count == names_count(t.ring));
    labels_free(labels);
    test_ring_free(&t);
    return 0;
}
