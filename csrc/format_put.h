/* Small writes for lines. Each returns where the next byte goes;
 * room for them is format_bound's to promise. */
#pragma once

#include "format.h"
#include "record.h"

#define PUT(p, literal) put_bytes((p), (literal), sizeof(literal) - 1)

/* A fixed label in a cell that is copied whole: a copy of known size is two
 * moves, one of unknown size is a call. */
#define CORE_LABEL_BYTES 24
typedef struct {
    char bytes[CORE_LABEL_BYTES];
    size_t length;
} core_label;
#define CORE_LABEL(literal) {literal, sizeof(literal) - 1}

static inline char *put_bytes(char *p, const char *bytes, size_t length) {
    memcpy(p, bytes, length);
    return p + length;
}

static inline char *put_int(char *p, int64_t value) {
    if (value >= 0 && value < 10) {
        *p = (char)('0' + value);
        return p + 1;
    }
    return p + advlog_number_int(p, value);
}

static inline char *put_core_label(char *p, const core_label *label) {
    memcpy(p, label->bytes, CORE_LABEL_BYTES);
    return p + label->length;
}

static const char HEX_DIGITS[] = "0123456789abcdef";

static inline bool is_control(unsigned char byte) { return byte < 0x20 || byte == 0x7f; }

static inline char *put_hex_escape(char *p, unsigned char byte) {
    *p++ = '\\';
    *p++ = 'x';
    *p++ = HEX_DIGITS[byte >> 4];
    *p++ = HEX_DIGITS[byte & 15];
    return p;
}
