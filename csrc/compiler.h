/* What every C file here starts from: the standard headers, the API, attributes
 * and the clocks. */
#pragma once

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include "advlog_api.h"
#include "stats_api.h"
#include "spool_api.h"
#include "buckets_api.h"

#define ADVLOG_LIKELY(x) __builtin_expect(!!(x), 1)
#define ADVLOG_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define ADVLOG_COLD __attribute__((noinline, cold))

/* Writers on different cores are kept two cache lines apart: x86 prefetches
 * lines in pairs, and some ARM cores have lines of 128 bytes. */
#define ADVLOG_LINE_BYTES 128

static inline int64_t advlog_clock_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* One read of memory that another process may write, and no second one behind it: what was read is what is checked. */
static inline uint8_t load_once8(const uint8_t *p) { return *(const volatile uint8_t *)p; }
static inline uint32_t load_once32(const uint32_t *p) { return *(const volatile uint32_t *)p; }
static inline uint64_t load_once64(const uint64_t *p) { return *(const volatile uint64_t *)p; }

/* Nanoseconds since 1970-01-01 UTC: the time that records carry. */
static inline int64_t advlog_wall_ns(void) { return advlog_clock_ns(CLOCK_REALTIME); }

/* Nanoseconds by a clock that nobody sets, and that goes on while the machine sleeps, where there is one. */
static inline int64_t advlog_boot_ns(void) {
#ifdef CLOCK_BOOTTIME
    return advlog_clock_ns(CLOCK_BOOTTIME);
#else
    return advlog_clock_ns(CLOCK_MONOTONIC);
#endif
}

/* Nanoseconds since some fixed moment: the time that deadlines are counted in. */
static inline int64_t advlog_monotonic_ns(void) { return advlog_clock_ns(CLOCK_MONOTONIC); }
