/* Timestamps equal the C library's UTC calendar over the whole range of int64 nanoseconds, before 1970 too. */
#include "build_slots.h"
#include "format.h"

static void check_time(int64_t time_ns, advlog_line_cache *cache) {
    int64_t second = time_ns / 1000000000;
    if (time_ns % 1000000000 < 0) second--;
    /* second * 1e9 does not fit for the very first second. */
    int us = (int)((time_ns % 1000000000 + 1000000000) % 1000000000 / 1000);
    struct tm t;
    time_t seconds = (time_t)second;
    CHECK(gmtime_r(&seconds, &t) != NULL);
    char expected[96];
    snprintf(expected, sizeof expected, "%04d-%02d-%02dT%02d:%02d:%02d.%06dZ", t.tm_year + 1900, t.tm_mon + 1, t.tm_mday,
             t.tm_hour, t.tm_min, t.tm_sec, us);
    char out[27];
    CHECK_TEXT(expected, out, format_time(out, time_ns, cache));
}

int main(void) {
    advlog_line_cache cache = {0};
    check_time(0, &cache); /* a cache never filled, at the second that zero bytes name */
    check_time(INT64_MIN, &cache);
    check_time(INT64_MAX, &cache);
    check_time(-1, &cache);
    check_time(999999999, &cache);
    check_time(SAMPLE_NS, &cache);
    char out[27];
    CHECK_TEXT("2026-11-22T19:31:04.123456Z", out, format_time(out, SAMPLE_NS, &cache));
    /* Every day's first and last second: leap years, centuries, month ends. */
    for (int64_t day = -106751; day <= 106750; day++) {
        check_time(day * 86400 * 1000000000, &cache);
        check_time(((day + 1) * 86400 - 1) * 1000000000 + 999999999, &cache);
    }
    uint64_t state = 3;
    for (int i = 0; i < 300000; i++) check_time((int64_t)next_random(&state), &cache);
    /* A thousand records a second: the cached second must follow. */
    for (int64_t i = 0; i < 10000; i++) check_time(SAMPLE_NS + i * 1000000, &cache);
    return 0;
}
