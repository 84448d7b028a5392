/* What text and JSON lines share: the time, the labels of named metrics, the
 * bound of a line's length. */
#include "format_put.h"

#include <stdlib.h>

/* ---- time ---- */

#define NS_PER_S INT64_C(1000000000)
#define S_PER_DAY 86400
#define DAYS_PER_400_YEARS 146097
#define DAYS_PER_100_YEARS 36524
#define DAYS_PER_4_YEARS 1461
/* From 1600-03-01, the start of a 400-year cycle whose leap day comes last, to
 * 1970-01-01. int64 nanoseconds begin in 1677 and end in 2262, so days counted
 * from here are positive and years have four digits. */
#define DAYS_1600_TO_1970 135080

static const char DIGIT_PAIRS[201] =
    "00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748495051525354555657585960"
    "616263646566676869707172737475767778798081828384858687888990919293949596979899";

static inline void put_pair(char *p, unsigned value) { memcpy(p, &DIGIT_PAIRS[2 * value], 2); }

static void fill_second(advlog_line_cache *cache, int64_t second) {
    int64_t day = second / S_PER_DAY - (second % S_PER_DAY < 0);
    unsigned in_day = (unsigned)(second - day * S_PER_DAY);
    unsigned days = (unsigned)(day + DAYS_1600_TO_1970);

    unsigned cycles = days / DAYS_PER_400_YEARS;
    days %= DAYS_PER_400_YEARS;
    /* The last century and the last year are a day longer than the division thinks. */
    unsigned centuries = days / DAYS_PER_100_YEARS;
    if (centuries == 4) centuries = 3;
    days -= centuries * DAYS_PER_100_YEARS;
    unsigned fours = days / DAYS_PER_4_YEARS;
    days %= DAYS_PER_4_YEARS;
    unsigned years = days / 365;
    if (years == 4) years = 3;
    days -= years * 365;
    unsigned year = 1600 + 400 * cycles + 100 * centuries + 4 * fours + years;

    /* Days before each month of a year that begins in March. */
    static const uint16_t before[] = {0, 31, 61, 92, 122, 153, 184, 214, 245, 275, 306, 337};
    unsigned month = 11;
    while (before[month] > days) month--;
    days -= before[month];
    month += 3;
    if (month > 12) {
        month -= 12;
        year++;
    }

    char *p = cache->text;
    put_pair(p, year / 100);
    put_pair(p + 2, year % 100);
    p[4] = '-';
    put_pair(p + 5, month);
    p[7] = '-';
    put_pair(p + 8, days + 1);
    p[10] = 'T';
    put_pair(p + 11, in_day / 3600);
    p[13] = ':';
    put_pair(p + 14, in_day / 60 % 60);
    p[16] = ':';
    put_pair(p + 17, in_day % 60);
    p[19] = '.';
    cache->second = second;
}

size_t format_time(char *out, int64_t time_ns, advlog_line_cache *cache) {
    int64_t second = time_ns / NS_PER_S - (time_ns % NS_PER_S < 0);
    /* A cache that was never filled is zeroed, and second 0 is a real one. */
    if (ADVLOG_UNLIKELY(second != cache->second || cache->text[19] != '.')) fill_second(cache, second);
    /* Unsigned: the product may pass INT64_MIN on its way to a small difference. */
    unsigned us = (unsigned)(((uint64_t)time_ns - (uint64_t)second * NS_PER_S) / 1000);
    memcpy(out, cache->text, 20);
    put_pair(out + 20, us / 10000);
    put_pair(out + 22, us / 100 % 100);
    put_pair(out + 24, us % 100);
    out[26] = 'Z';
    return 27;
}

/* ---- labels ---- */

/* The most bytes that one byte of a name becomes. */
#define TEXT_ESCAPE_BYTES 4
#define JSON_ESCAPE_BYTES 6

advlog_labels *labels_new(void) { return calloc(1, sizeof(advlog_labels)); }

void labels_free(advlog_labels *labels) {
    if (labels == NULL) return;
    for (uint32_t id = 0; id < labels->count; id++) {
        free(labels->text[id].bytes);
        free(labels->json[id].bytes);
    }
    free(labels);
}

static char *put_text_name(char *p, const char *name, uint32_t bytes) {
    *p++ = ' ';
    for (uint32_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)name[i];
        if (is_control(c) || c == ' ' || c == '=' || c == '"' || c == '\\') p = put_hex_escape(p, c);
        else *p++ = name[i];
    }
    *p++ = '=';
    return p;
}

static char *put_json_name(char *p, const char *name, uint32_t bytes) {
    p = PUT(p, ",\"");
    for (uint32_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)name[i];
        if (is_control(c)) {
            p = PUT(p, "\\u00");
            *p++ = HEX_DIGITS[c >> 4];
            *p++ = HEX_DIGITS[c & 15];
        } else {
            if (c == '"' || c == '\\') *p++ = '\\';
            *p++ = name[i];
        }
    }
    return PUT(p, "\":");
}

static bool label_make(advlog_labels *labels, uint32_t id, const char *name, uint32_t bytes) {
    char scratch[4 + JSON_ESCAPE_BYTES * ADVLOG_MAX_NAME_BYTES];
    advlog_label *label[] = {&labels->text[id], &labels->json[id]};
    for (int json = 0; json < 2; json++) {
        char *end = json ? put_json_name(scratch, name, bytes) : put_text_name(scratch, name, bytes);
        size_t length = (size_t)(end - scratch);
        label[json]->bytes = malloc(length);
        if (label[json]->bytes == NULL) {
            free(label[0]->bytes);
            label[0]->bytes = NULL;
            return false;
        }
        memcpy(label[json]->bytes, scratch, length);
        label[json]->length = (uint32_t)length;
    }
    return true;
}

bool labels_update(advlog_labels *labels, advlog_ring *ring) {
    uint32_t count = names_count(ring);
    for (; labels->count < count; labels->count++) {
        char name[ADVLOG_MAX_NAME_BYTES];
        int bytes = advlog_name_get(ring, labels->count, name);
        if (bytes >= 0 && !label_make(labels, labels->count, name, (uint32_t)bytes)) return false;
    }
    return true;
}

/* ---- bounds ---- */

/* Longer than any line without extras and text, twice over. */
#define LINE_BYTES 1024
/* A value's digits, or "null" and, later, its reason; beside two labels. */
#define VALUE_BYTES 48
#define UNNAMED_BYTES 24 /* ,"metric_65535": */

size_t format_bound(const advlog_view *view, const advlog_labels *labels) {
    const advlog_slot *header = view_slot(view, 0);
    if (header->kind == ADVLOG_KIND_EVENT) return LINE_BYTES + TEXT_ESCAPE_BYTES * (size_t)header->part * ADVLOG_PART_TEXT;
    size_t bound = LINE_BYTES;
    for (unsigned part = 0; part < header->part; part++) {
        record_extras extras = record_extras_of(view, part);
        for (unsigned i = 0; i < extras.count; i++) {
            unsigned id = extras.id[i];
            size_t label = UNNAMED_BYTES;
            if (id < labels->count && labels->json[id].bytes != NULL) {
                label = labels->json[id].length > labels->text[id].length ? labels->json[id].length : labels->text[id].length;
            }
            bound += 2 * label + VALUE_BYTES;
        }
    }
    return bound;
}
