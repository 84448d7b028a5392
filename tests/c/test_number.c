/* Numbers become the shortest text that reads back as the same double, in the notation of Python's repr. */
#include "build_slots.h"

#include <math.h>

static void check_written(const char *expected, double value) {
    char out[ADVLOG_NUMBER_BYTES];
    CHECK_TEXT(expected, out, advlog_number_double(out, value));
}

static void special_values(void) {
    check_written("0.0", 0.0);
    check_written("-0.0", -0.0);
    check_written("1.0", 1.0);
    check_written("-7.0", -7.0);
    check_written("0.8312", 0.8312);
    check_written("0.001", 1e-3);
    check_written("0.0001", 1e-4);
    check_written("1e-05", 1e-5);
    check_written("1.5e-05", 1.5e-5);
    check_written("0.1", 0.1);
    check_written("1e+22", 1e22);
    check_written("12345678.5", 12345678.5);
    check_written("1234567890123456.8", 1234567890123456.8);
    check_written("1e+16", 1e16);
    check_written("12300000000000.0", 123e11);
    check_written("5e-324", 5e-324);
    check_written("1.7976931348623157e+308", 1.7976931348623157e308);
    check_written("2.2250738585072014e-308", 2.2250738585072014e-308);
    check_written("9007199254740992.0", 9007199254740992.0);
    check_written("9.223372036854776e+18", 9223372036854775808.0);
    check_written("nan", NAN);
    check_written("nan", -NAN);
    check_written("inf", INFINITY);
    check_written("-inf", -INFINITY);
}

/* Any finite double: read back to the bit, at most 24 bytes, '.' or exponent in it. */
static void check_round_trip(double value) {
    char out[64];
    memset(out, '#', sizeof out);
    size_t length = advlog_number_double(out, value);
    CHECK(length <= 24);
    for (size_t i = ADVLOG_NUMBER_BYTES; i < sizeof out; i++) CHECK_INT('#', out[i]);
    out[length] = '\0';
    char *end;
    double back = strtod(out, &end);
    CHECK(end == out + length);
    if (isnan(value)) CHECK(isnan(back));
    else CHECK_DOUBLE(value, back);
    if (isfinite(value)) CHECK(strpbrk(out, ".e") != NULL);
}

static void round_trips(void) {
    uint64_t state = 1;
    for (int i = 0; i < 1000000; i++) check_round_trip(double_of(next_random(&state)));
    for (int exponent = -1074; exponent <= 1023; exponent++) {
        double power = ldexp(1, exponent);
        check_round_trip(power);
        check_round_trip(-nextafter(power, 0));
        check_round_trip(nextafter(power, INFINITY));
    }
    for (int i = 0; i < 100000; i++) check_round_trip((double)(int64_t)next_random(&state));
}

static void check_shown(const char *expected, double value, unsigned digits) {
    char out[ADVLOG_NUMBER_BYTES];
    CHECK_TEXT(expected, out, advlog_number_text(out, value, digits));
}

static void special_texts(void) {
    check_shown("0", 0.0, 6);
    check_shown("-0", -0.0, 6);
    check_shown("64", 64.0, 6);
    check_shown("1234567", 1234567.0, 1);
    check_shown("-9007199254740991", -9007199254740991.0, 6);
    check_shown("9.0072e+15", 9007199254740992.0, 6);
    check_shown("9007199254740992.0", 9007199254740992.0, ADVLOG_ALL_DIGITS);
    check_shown("0.693147", 0.6931471805599453, 6);
    check_shown("0.1", 0.1, 6);
    check_shown("123456", 123456.4, 6);
    check_shown("1e+06", 999999.9, 6);
    check_shown("1.23457e+06", 1234567.891, 6);
    check_shown("0.0001", 0.00009999999, 6);
    check_shown("1e-05", 1e-5, 6);
    check_shown("0.1", 0.1, ADVLOG_ALL_DIGITS);
    check_shown("5e-324", 5e-324, 6);
    check_shown("1.79769e+308", 1.7976931348623157e308, 6);
    check_shown("2", 2.5, 1); /* the even of the two */
    check_shown("4", 3.5, 1);
    check_shown("nan", -NAN, 6);
    check_shown("-inf", -INFINITY, 6);
}

/* Of any double, in any number of digits, what the C library's exact %g writes. (A subnormal one may need fewer.) */
static void check_rounded(double value) {
    if (!isnormal(value) || (fabs(value) < 0x1p53 && value == trunc(value))) return;
    for (unsigned digits = 1; digits < ADVLOG_ALL_DIGITS; digits++) {
        char expected[64], out[64];
        memset(out, '#', sizeof out);
        snprintf(expected, sizeof expected, "%.*g", (int)digits, value);
        CHECK_TEXT(expected, out, advlog_number_text(out, value, digits));
        for (size_t i = ADVLOG_NUMBER_BYTES; i < sizeof out; i++) CHECK_INT('#', out[i]);
    }
}

static void rounded_texts(void) {
    uint64_t state = 3;
    for (int i = 0; i < 50000; i++) check_rounded(double_of(next_random(&state)));
    for (int i = 0; i < 50000; i++) check_rounded(ldexp((double)(int64_t)next_random(&state), -(i % 80)));
    for (int exponent = -1074; exponent <= 1023; exponent++) {
        double power = ldexp(1, exponent);
        check_rounded(power);
        check_rounded(-nextafter(power, 0));
    }
    /* In the middle between two of so many digits, exactly. */
    for (int i = 1; i < 20000; i += 2) check_rounded(i * 0.5), check_rounded(i * 0.125), check_rounded(i * 0x1p-10);
}

static void integers(void) {
    char out[32];
    char expected[32];
    CHECK_TEXT("-9223372036854775808", out, advlog_number_int(out, INT64_MIN));
    CHECK_TEXT("9223372036854775807", out, advlog_number_int(out, INT64_MAX));
    uint64_t state = 2;
    for (int i = 0; i < 100000; i++) {
        int64_t value = (int64_t)next_random(&state) >> (i % 64);
        snprintf(expected, sizeof expected, "%" PRId64, value);
        CHECK_TEXT(expected, out, advlog_number_int(out, value));
    }
}

int main(void) {
    special_values();
    round_trips();
    special_texts();
    rounded_texts();
    integers();
    return 0;
}
