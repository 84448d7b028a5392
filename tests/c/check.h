/* What the test programs share: checks that name file, line, expected and got,
 * and random numbers that repeat from run to run. */
#pragma once

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: expected %s\n", __FILE__, __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

#define CHECK_INT(expected, got) check_int(__FILE__, __LINE__, #got, (int64_t)(expected), (int64_t)(got))
/* Equal to the bit, NaN included. */
#define CHECK_DOUBLE(expected, got) check_double(__FILE__, __LINE__, #got, (expected), (got))
/* Within `relative` of expected. */
#define CHECK_NEAR(expected, got, relative) check_near(__FILE__, __LINE__, #got, (expected), (got), (relative))
#define CHECK_TEXT(expected, got, length) check_text(__FILE__, __LINE__, (expected), (got), (length))

static inline void check_int(const char *file, int line, const char *what, int64_t expected, int64_t got) {
    if (expected == got) return;
    fprintf(stderr, "%s:%d: %s: expected %" PRId64 ", got %" PRId64 "\n", file, line, what, expected, got);
    exit(1);
}

static inline uint64_t bits_of(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline double double_of(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline void check_double(const char *file, int line, const char *what, double expected, double got) {
    if (bits_of(expected) == bits_of(got)) return;
    fprintf(stderr, "%s:%d: %s: expected %.17g, got %.17g\n", file, line, what, expected, got);
    exit(1);
}

static inline void check_near(const char *file, int line, const char *what, double expected, double got, double relative) {
    double error = expected > got ? expected - got : got - expected;
    double size = expected < 0 ? -expected : expected;
    if (error <= relative * size) return;
    fprintf(stderr, "%s:%d: %s: expected %.17g within %g, got %.17g\n", file, line, what, expected, relative, got);
    exit(1);
}

static inline void check_text(const char *file, int line, const char *expected, const char *got, size_t length) {
    if (strlen(expected) == length && memcmp(expected, got, length) == 0) return;
    fprintf(stderr, "%s:%d:\nexpected %s\ngot      %.*s\n", file, line, expected, (int)length, got);
    exit(1);
}

/* SplitMix64 (Steele, Lea and Flood, 2014): any state is a good one. */
static inline uint64_t next_random(uint64_t *state) {
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Uniform in [0, 1). */
static inline double next_uniform(uint64_t *state) { return (double)(next_random(state) >> 11) * 0x1p-53; }
