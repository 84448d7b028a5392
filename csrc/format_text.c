/* Records to the lines of the training log, for people and grep. */
#include "format_put.h"

static const core_label CORE[ADVLOG_CORE_METRICS] = {
    [ADVLOG_LOSS] = CORE_LABEL(" loss="),
    [ADVLOG_ACCURACY] = CORE_LABEL(" accuracy="),
    [ADVLOG_LEARNING_RATE] = CORE_LABEL(" learning_rate="),
    [ADVLOG_GRADIENT_NORM] = CORE_LABEL(" gradient_norm="),
    [ADVLOG_BATCH_TIME] = CORE_LABEL(" batch_time="),
    [ADVLOG_DATA_TIME] = CORE_LABEL(" data_time="),
};

static char *put_level(char *p, unsigned level) {
    if (level < 20) return PUT(p, " DEBUG ");
    if (level < 30) return PUT(p, " INFO ");
    if (level < 40) return PUT(p, " WARNING ");
    if (level < 50) return PUT(p, " ERROR ");
    return PUT(p, " CRITICAL ");
}

/* The text comes escaped; a control byte in it all the same must not begin a
 * line of its own or reach a terminal. */
static char *put_text(char *p, const advlog_view *view) {
    const advlog_slot *header = view_slot(view, 0);
    for (unsigned part = 1; part < header->part; part++) {
        const advlog_slot *slot = view_slot(view, part);
        unsigned count = slot->count < ADVLOG_PART_TEXT ? slot->count : ADVLOG_PART_TEXT;
        for (unsigned i = 0; i < count; i++) {
            unsigned char c = (unsigned char)slot->text[i];
            if (ADVLOG_UNLIKELY(is_control(c))) p = put_hex_escape(p, c);
            else *p++ = slot->text[i];
        }
    }
    return p;
}

static inline char *put_value(char *p, double value, bool unresolved, unsigned digits) {
    if (ADVLOG_UNLIKELY(unresolved)) return PUT(p, "?");
    return p + advlog_number_text(p, value, digits);
}

static char *put_extras(char *p, const advlog_view *view, const advlog_labels *labels, unsigned digits) {
    unsigned slots = view_slot(view, 0)->part;
    for (unsigned part = 0; part < slots; part++) {
        record_extras extras = record_extras_of(view, part);
        for (unsigned i = 0; i < extras.count; i++) {
            unsigned id = extras.id[i];
            if (ADVLOG_LIKELY(id < labels->count && labels->text[id].bytes != NULL)) {
                p = put_bytes(p, labels->text[id].bytes, labels->text[id].length);
            } else {
                p = PUT(p, " metric_");
                p = put_int(p, id);
                p = PUT(p, "=");
            }
            p = put_value(p, extras.value[i], extras.deferred >> i & 1, digits);
        }
    }
    return p;
}

static char *put_record(char *p, const advlog_view *view, const advlog_labels *labels, unsigned digits) {
    const advlog_slot *header = view_slot(view, 0);
    uint32_t present = header->present;
    p = PUT(p, " INFO");
    if (present & ADVLOG_HAS_EPOCH) p = put_int(PUT(p, " epoch="), header->epoch);
    if (present & ADVLOG_HAS_BATCH) {
        p = put_int(PUT(p, " batch="), header->batch);
        if (present & ADVLOG_HAS_TOTAL) p = put_int(PUT(p, "/"), header->total_batches);
    } else if (present & ADVLOG_HAS_TOTAL) {
        p = put_int(PUT(p, " total_batches="), header->total_batches);
    }
    if (present & ADVLOG_HAS_STEP) p = put_int(PUT(p, " step="), header->step);
    if (ADVLOG_UNLIKELY(header->worker != 0)) p = put_int(PUT(p, " worker="), header->worker);
    for (unsigned i = 0; i < ADVLOG_CORE_METRICS; i++) {
        if (!(present >> i & 1)) continue;
        p = put_core_label(p, &CORE[i]);
        p = put_value(p, header->core[i], header->deferred >> i & 1, digits);
    }
    return put_extras(p, view, labels, digits);
}

size_t format_text(char *out, const advlog_view *view, const advlog_labels *labels, advlog_line_cache *cache, unsigned digits) {
    const advlog_slot *header = view_slot(view, 0);
    char *p = out + format_time(out, header->time_ns, cache);
    if (header->kind == ADVLOG_KIND_EVENT) {
        p = put_text(put_level(p, header->level), view);
        if (header->worker != 0) p = put_int(PUT(p, " worker="), header->worker);
    } else {
        p = put_record(p, view, labels, digits);
    }
    *p++ = '\n';
    return (size_t)(p - out);
}
