/* Slots made by hand, byte by byte as slot.h draws them: what the formatters and
 * the spool's readers are tested on, without the ring's own writers. */
#pragma once

#include <stdlib.h>

#include "check.h"
#include "record.h"

/* 2026-11-22T19:31:04.123456Z */
#define SAMPLE_NS (INT64_C(1795375864) * 1000000000 + 123456000)

/* A growing array of slots whose marks count up. */
typedef struct {
    advlog_slot *slots;
    uint64_t count;
    uint64_t room;
    uint64_t next_mark;
} slot_list;

static inline advlog_slot *slots_add(slot_list *list) {
    if (list->count == list->room) {
        list->room = list->room ? 2 * list->room : 64;
        list->slots = realloc(list->slots, list->room * sizeof *list->slots);
        CHECK(list->slots != NULL);
    }
    advlog_slot *slot = &list->slots[list->count++];
    memset(slot, 0, sizeof *slot);
    store_relaxed(&slot->mark, ++list->next_mark); /* one thread */
    return slot;
}

static inline void slots_free(slot_list *list) {
    free(list->slots);
    *list = (slot_list){0};
}

/* A record with `extras` extras: ids first_id, first_id + 1, ..; values from value_of. */
static inline uint64_t slots_add_values(slot_list *list, int kind, int64_t time_ns, unsigned extras, unsigned first_id,
                                        double (*value_of)(unsigned id)) {
    uint64_t at = list->count;
    unsigned slots = (unsigned)ring_slots_for(extras);
    advlog_slot *header = slots_add(list);
    header->kind = (uint8_t)kind;
    header->part = (uint8_t)slots;
    header->count = (uint16_t)extras;
    header->time_ns = time_ns;
    unsigned done = 0;
    for (; done < extras && done < ADVLOG_HEADER_EXTRAS; done++) {
        header->extra[done] = value_of(first_id + done);
        header->extra_id[done] = (uint16_t)(first_id + done);
    }
    for (unsigned part = 1; part < slots; part++) {
        advlog_slot *slot = slots_add(list);
        slot->kind = ADVLOG_KIND_PART;
        slot->part = (uint8_t)part;
        for (; done < extras && slot->count < ADVLOG_PART_EXTRAS; done++, slot->count++) {
            slot->more.value[slot->count] = value_of(first_id + done);
            slot->more.id[slot->count] = (uint16_t)(first_id + done);
        }
    }
    return at;
}

static inline uint64_t slots_add_text(slot_list *list, int kind, unsigned level, int64_t time_ns, const char *text,
                                      unsigned bytes) {
    uint64_t at = list->count;
    unsigned slots = (unsigned)ring_slots_for_text(bytes);
    advlog_slot *header = slots_add(list);
    header->kind = (uint8_t)kind;
    header->part = (uint8_t)slots;
    header->count = (uint16_t)bytes;
    header->level = (uint16_t)level;
    header->time_ns = time_ns;
    for (unsigned part = 1; part < slots; part++) {
        advlog_slot *slot = slots_add(list);
        unsigned from = (part - 1) * ADVLOG_PART_TEXT;
        slot->kind = ADVLOG_KIND_PART_TEXT;
        slot->part = (uint8_t)part;
        slot->count = (uint16_t)(bytes - from < ADVLOG_PART_TEXT ? bytes - from : ADVLOG_PART_TEXT);
        memcpy(slot->text, text + from, slot->count);
    }
    return at;
}

static inline void slots_add_name(slot_list *list, unsigned id, const char *name) {
    slots_add_text(list, ADVLOG_KIND_NAME, id, 0, name, (unsigned)strlen(name));
}

/* The first slot of a spool. */
static inline void slots_add_spool(slot_list *list, int stream, int attempt, int rank, int64_t first_seq) {
    advlog_slot *slot = slots_add(list);
    slot->kind = ADVLOG_KIND_SPOOL;
    slot->count = ADVLOG_SPOOL_VERSION;
    slot->part = (uint8_t)stream;
    slot->epoch = attempt;
    slot->batch = rank;
    slot->step = first_seq;
    memcpy(slot->extra, "0123456789abcdef", 16);
}

static inline double value_of_id(unsigned id) { return id + 0.5; }
static inline double unresolved_timeout(void) { return double_of(ADVLOG_UNRESOLVED_TIMEOUT); }
