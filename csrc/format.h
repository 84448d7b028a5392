/* Records to lines. The drain is the one user of these at run time. */
#pragma once

#include "names.h"

/* Each name's text as the outputs need it, made once when the name is new. */
typedef struct {
    char *bytes; /* text: ' name='; JSON: ',"name":'; escaped; NULL where unknown */
    uint32_t length;
} advlog_label;

typedef struct {
    uint32_t count;
    advlog_label text[ADVLOG_MAX_NAMES];
    advlog_label json[ADVLOG_MAX_NAMES];
} advlog_labels;

advlog_labels *labels_new(void);
void labels_free(advlog_labels *labels);
/* Adds what is new in the ring's table. False where memory is short: the names
 * that are missing are then written as metric_<id>. */
bool labels_update(advlog_labels *labels, advlog_ring *ring);

/* What a line shares with others. */
typedef struct {
    int64_t second; /* the latest one formatted, ... */
    char text[20];  /* ... YYYY-MM-DDTHH:MM:SS. */
} advlog_line_cache;

/* `time_ns` as YYYY-MM-DDTHH:MM:SS.ffffffZ, UTC by arithmetic: no libc call that
 * takes a lock. 27 bytes; years 0000 to 9999. */
size_t format_time(char *out, int64_t time_ns, advlog_line_cache *cache);

/* No record's line is longer than this. */
size_t format_bound(const advlog_view *view, const advlog_labels *labels);

/* `2026-11-22T19:31:04.123456Z INFO epoch=1 batch=45/45 step=45 loss=0.8312`, its values as of
 * advlog_number_text, or the text of an event after its level. Bytes written, the newline too. */
size_t format_text(char *out, const advlog_view *view, const advlog_labels *labels, advlog_line_cache *cache, unsigned digits);

/* One strict JSON object a line; absent metrics omitted; a value that is not
 * finite is null and named in "nonfinite", one that never came in "unresolved". */
size_t format_jsonl(char *out, const advlog_view *view, const advlog_labels *labels, advlog_line_cache *cache, int32_t attempt,
                    int32_t rank, int64_t seq);
