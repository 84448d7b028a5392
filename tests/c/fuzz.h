/* What the fuzz targets share: bytes taken off an input, and strict checks of what the core makes of them.
 *
 * An input is a small program: what to build, then what to damage. So a mutation of it moves a record or
 * hits a field, where one of the built image would almost always hit nothing. */
#pragma once

#include "check.h"

#include <stddef.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct {
    const uint8_t *at, *end;
} fuzz_input;

static inline bool input_empty(const fuzz_input *in) { return in->at == in->end; }

/* The next byte; 0 at the end. */
static inline unsigned take_byte(fuzz_input *in) { return in->at < in->end ? *in->at++ : 0; }
static inline unsigned take_short(fuzz_input *in) {
    unsigned high = take_byte(in);
    return high << 8 | take_byte(in);
}

/* Up to `bytes` of what follows: how many there are, at *from. */
static inline size_t take_bytes(fuzz_input *in, size_t bytes, const uint8_t **from) {
    size_t left = (size_t)(in->end - in->at), taken = bytes < left ? bytes : left;
    *from = in->at;
    in->at += taken;
    return taken;
}

/* Overwrites a few bytes of a region, or adds to one. */
static inline void take_patch(fuzz_input *in, void *region, size_t region_bytes) {
    unsigned where = take_short(in), length = take_byte(in);
    uint8_t *to = region;
    const uint8_t *from;
    if (length & 0x80) { /* one byte, changed by a little: counts and positions that are nearly right */
        to[where % region_bytes] = (uint8_t)(to[where % region_bytes] + take_byte(in));
        return;
    }
    size_t bytes = take_bytes(in, length, &from);
    for (size_t i = 0; i < bytes; i++) to[(where + i) % region_bytes] = from[i];
}

/* ---- what lines must be ---- */

/* RFC 3629, by decoding. */
static inline bool utf8_is_valid(const uint8_t *p, const uint8_t *end) {
    while (p < end) {
        uint32_t c = *p++;
        if (c < 0x80) continue;
        unsigned more = c >= 0xf0 && c < 0xf8 ? 3 : c >= 0xe0 && c < 0xf0 ? 2 : c >= 0xc0 && c < 0xe0 ? 1 : 0;
        if (!more || (size_t)(end - p) < more) return false;
        c &= 0x3fu >> more;
        for (unsigned i = 0; i < more; i++, p++) {
            if (*p >> 6 != 2) return false;
            c = c << 6 | (*p & 0x3f);
        }
        static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
        if (c < least[more] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return false;
    }
    return true;
}

static inline const char *json_digits(const char *p, const char *end) {
    const char *from = p;
    while (p < end && *p >= '0' && *p <= '9') p++;
    return p == from ? NULL : p;
}

static inline const char *json_number(const char *p, const char *end) {
    if (p < end && *p == '-') p++;
    if (p < end && *p == '0') p++;
    else if (!(p = json_digits(p, end))) return NULL;
    if (p < end && *p == '.' && !(p = json_digits(p + 1, end))) return NULL;
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        if (p < end && (*p == '+' || *p == '-')) p++;
        p = json_digits(p, end);
    }
    return p;
}

static inline const char *json_string(const char *p, const char *end) {
    if (p == end || *p++ != '"') return NULL;
    for (; p < end && *p != '"'; p++) {
        if ((unsigned char)*p < 0x20) return NULL;
        if (*p != '\\') continue;
        if (++p == end || !strchr("\"\\/bfnrtu", *p)) return NULL;
        if (*p != 'u') continue;
        for (int i = 0; i < 4; i++)
            if (++p >= end || !strchr("0123456789abcdefABCDEF", *p) || !*p) return NULL;
    }
    return p < end ? p + 1 : NULL;
}

/* What follows the value at `p`; NULL where there is none (RFC 8259, without whitespace and arrays, which no
 * line of ours has). */
static inline const char *json_value(const char *p, const char *end) {
    if (p == end) return NULL;
    if (*p == '"') return json_string(p, end);
    if ((size_t)(end - p) >= 4 && memcmp(p, "null", 4) == 0) return p + 4;
    if (*p != '{') return json_number(p, end);
    do {
        p = json_string(p + 1, end);
        if (!p || p == end || *p != ':' || !(p = json_value(p + 1, end)) || p == end) return NULL;
    } while (*p == ',');
    return *p == '}' ? p + 1 : NULL;
}

/* Checks one line with its newline: a JSON object in UTF-8. */
static inline void check_json_line(const char *line, size_t length) {
    CHECK(length > 1 && line[length - 1] == '\n' && line[0] == '{');
    CHECK(utf8_is_valid((const uint8_t *)line, (const uint8_t *)line + length));
    CHECK(json_value(line, line + length - 1) == line + length - 1);
}

/* Checks one line with its newline: no other control byte. */
static inline void check_text_line(const char *line, size_t length) {
    CHECK(length > 1 && line[length - 1] == '\n');
    for (size_t i = 0; i + 1 < length; i++) CHECK((unsigned char)line[i] >= 0x20 && line[i] != 0x7f);
}
