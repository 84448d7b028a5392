/* One record of a ring to a line, outside of the drain: for tests. */
#include "format.h"
#include "record.h"

#include <stdlib.h>

static bool record_is_whole(const advlog_view *view, uint32_t count) {
    if (count == 0) return false;
    const advlog_slot *header = view_slot(view, 0);
    unsigned slots = record_slots(header);
    if (slots == 0 || slots > count) return false;
    for (unsigned part = 1; part < slots; part++)
        if (!record_continues(header, part, view_slot(view, part))) return false;
    return true;
}

int64_t advlog_format_record(advlog_ring *ring, const void *slots, uint32_t count, int sink_kind, int64_t seq, char *out,
                             uint64_t capacity) {
    const advlog_view view = {slots, UINT64_MAX, 0};
    if (!record_is_whole(&view, count) || view.slots->kind == ADVLOG_KIND_NAME) return -1;
    int64_t length = -1;
    char *line = NULL;
    advlog_labels *labels = labels_new();
    if (labels == NULL || !labels_update(labels, ring)) goto done;
    /* The bound is generous; what counts is whether the line itself fits. */
    line = malloc(format_bound(&view, labels));
    if (line == NULL) goto done;
    advlog_line_cache cache = {0};
    const advlog_identity *identity = &ring->header->identity;
    size_t bytes = sink_kind == ADVLOG_SINK_TEXT ? format_text(line, &view, labels, &cache, ADVLOG_ALL_DIGITS)
                   : sink_kind == ADVLOG_SINK_JSONL
                       ? format_jsonl(line, &view, labels, &cache, identity->attempt, identity->rank, seq)
                       : 0;
    if (bytes == 0 || bytes > capacity) goto done;
    memcpy(out, line, bytes);
    length = (int64_t)bytes;
done:
    free(line);
    labels_free(labels);
    return length;
}
