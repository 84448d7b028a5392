/* Records to strict JSON, an object a line. Strict JSON has no NaN and no
 * infinity: such a value is null, and a second object says what it was. */
#include "format_put.h"

#include <math.h>

static const core_label CORE[ADVLOG_CORE_METRICS] = {
    [ADVLOG_LOSS] = CORE_LABEL(",\"loss\":"),
    [ADVLOG_ACCURACY] = CORE_LABEL(",\"accuracy\":"),
    [ADVLOG_LEARNING_RATE] = CORE_LABEL(",\"learning_rate\":"),
    [ADVLOG_GRADIENT_NORM] = CORE_LABEL(",\"gradient_norm\":"),
    [ADVLOG_BATCH_TIME] = CORE_LABEL(",\"batch_time\":"),
    [ADVLOG_DATA_TIME] = CORE_LABEL(",\"data_time\":"),
};

/* Why values of a line are null. */
enum { NONFINITE = 1, UNRESOLVED = 2 };

static char *put_label(char *p, const advlog_labels *labels, unsigned id) {
    if (ADVLOG_LIKELY(id < labels->count && labels->json[id].bytes != NULL)) {
        return put_bytes(p, labels->json[id].bytes, labels->json[id].length);
    }
    p = put_int(PUT(p, ",\"metric_"), id);
    return PUT(p, "\":");
}

/* Why a value is null; 0 where it is not. */
static inline unsigned null_reason(double value, unsigned deferred) {
    if (ADVLOG_UNLIKELY(deferred)) return UNRESOLVED;
    return ADVLOG_LIKELY(isfinite(value)) ? 0 : NONFINITE;
}

static inline char *put_value(char *p, double value, unsigned reason) {
    if (ADVLOG_UNLIKELY(reason)) return PUT(p, "null");
    return p + advlog_number_double(p, value);
}

static char *put_reason(char *p, double value, unsigned reason) {
    static const char *const unresolved[] = {
        [0] = "unknown",
        [ADVLOG_UNRESOLVED_TIMEOUT] = "timeout",
        [ADVLOG_UNRESOLVED_SLAB_FULL] = "slab_full",
        [ADVLOG_UNRESOLVED_CAPTURE] = "capture",
        [ADVLOG_UNRESOLVED_KILLED] = "killed",
    };
    *p++ = '"';
    if (reason == NONFINITE) {
        p += advlog_number_double(p, value);
    } else {
        const char *word = unresolved[record_unresolved(value)];
        p = put_bytes(p, word, strlen(word));
    }
    *p++ = '"';
    return p;
}

/* The object that names each value that is null for `reason`. */
static ADVLOG_COLD char *put_nulls(char *p, const advlog_view *view, const advlog_labels *labels, unsigned reason) {
    const advlog_slot *header = view_slot(view, 0);
    p = reason == NONFINITE ? PUT(p, ",\"nonfinite\":") : PUT(p, ",\"unresolved\":");
    char *open = p; /* where the first label's comma will stand */
    for (unsigned i = 0; i < ADVLOG_CORE_METRICS; i++) {
        if (!(header->present >> i & 1) || null_reason(header->core[i], header->deferred >> i & 1) != reason) continue;
        p = put_reason(put_core_label(p, &CORE[i]), header->core[i], reason);
    }
    for (unsigned part = 0; part < header->part; part++) {
        record_extras extras = record_extras_of(view, part);
        for (unsigned i = 0; i < extras.count; i++) {
            if (null_reason(extras.value[i], extras.deferred >> i & 1) != reason) continue;
            p = put_reason(put_label(p, labels, extras.id[i]), extras.value[i], reason);
        }
    }
    *open = '{';
    return PUT(p, "}");
}

size_t format_jsonl(char *out, const advlog_view *view, const advlog_labels *labels, advlog_line_cache *cache, int32_t attempt,
                    int32_t rank, int64_t seq) {
    const advlog_slot *header = view_slot(view, 0);
    if (ADVLOG_UNLIKELY(!kind_has_values(header->kind))) return 0;
    uint32_t present = header->present;
    unsigned nulls = 0;
    char *p = PUT(out, "{\"timestamp\":\"");
    p += format_time(p, header->time_ns, cache);
    p = put_int(PUT(p, "\",\"attempt\":"), attempt);
    p = put_int(PUT(p, ",\"rank\":"), rank);
    if (ADVLOG_UNLIKELY(header->worker != 0)) p = put_int(PUT(p, ",\"worker\":"), header->worker);
    p = put_int(PUT(p, ",\"seq\":"), seq);
    if (header->kind == ADVLOG_KIND_MEMORY) p = PUT(p, ",\"kind\":\"memory\"");
    if (header->kind == ADVLOG_KIND_PERFORMANCE) p = PUT(p, ",\"kind\":\"performance\"");
    if (present & ADVLOG_HAS_EPOCH) p = put_int(PUT(p, ",\"epoch\":"), header->epoch);
    if (present & ADVLOG_HAS_BATCH) p = put_int(PUT(p, ",\"batch\":"), header->batch);
    if (present & ADVLOG_HAS_TOTAL) p = put_int(PUT(p, ",\"total_batches\":"), header->total_batches);
    if (present & ADVLOG_HAS_STEP) p = put_int(PUT(p, ",\"step\":"), header->step);
    for (unsigned i = 0; i < ADVLOG_CORE_METRICS; i++) {
        if (!(present >> i & 1)) continue;
        unsigned reason = null_reason(header->core[i], header->deferred >> i & 1);
        nulls |= reason;
        p = put_core_label(p, &CORE[i]);
        if (ADVLOG_UNLIKELY(reason)) p = PUT(p, "null");
        else p += advlog_number_double(p, header->core[i]);
    }
    for (unsigned part = 0; part < header->part; part++) {
        record_extras extras = record_extras_of(view, part);
        for (unsigned i = 0; i < extras.count; i++) {
            unsigned reason = null_reason(extras.value[i], extras.deferred >> i & 1);
            nulls |= reason;
            p = put_value(put_label(p, labels, extras.id[i]), extras.value[i], reason);
        }
    }
    if (ADVLOG_UNLIKELY(nulls & NONFINITE)) p = put_nulls(p, view, labels, NONFINITE);
    if (ADVLOG_UNLIKELY(nulls & UNRESOLVED)) p = put_nulls(p, view, labels, UNRESOLVED);
    p = PUT(p, "}\n");
    return (size_t)(p - out);
}
