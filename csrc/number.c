/* Numbers to text: the digits that Python's repr writes, since people compare
 * the two, and since they are the fewest that read back as the same number; and
 * fewer, rounded as printf's %g rounds, where people read and another file has
 * the bits.
 *
 * Shortest digits: Raffaello Giulietti, "The Schubfach way to render doubles"
 * (2020). Eight digits at once in one 64-bit word: the divisions by 10,000, 100
 * and 10 of all parts side by side, as multiplications. */
#include "compiler.h"

#include <math.h>

#include "powers_of_ten.h"

#define FRACTION_BITS 52
#define FRACTION_MASK ((UINT64_C(1) << FRACTION_BITS) - 1)
#define EXPONENT_BIAS 1075 /* of the significand as an integer */

#define DIGITS ADVLOG_ALL_DIGITS
#define TEN_TO_16 UINT64_C(10000000000000000)
#define EXACT_INTEGERS 0x1p53 /* below it each integer is a double of its own */

static const uint64_t TENS[DIGITS] = {
    1,          10,          100,          1000,          10000,          100000,          1000000,          10000000,  100000000,
    1000000000, 10000000000, 100000000000, 1000000000000, 10000000000000, 100000000000000, 1000000000000000, TEN_TO_16,
};

/* ---- digits ---- */

#define ALL_BYTES(byte) (UINT64_C(0x0101010101010101) * (byte))

/* The eight decimal digits of value < 10^8 as bytes 0..9, the first lowest. A lane with x
 * becomes two, x / n and, above it, x % n: that is x * 2^w - (x / n) * (n * 2^w - 1). */
static inline uint64_t eight_digits(uint32_t value) {
    uint64_t x = value;
    x = (x << 32) - x / 10000 * ((UINT64_C(10000) << 32) - 1);
    x = (x << 16) - (x * 10486 >> 20 & UINT64_C(0x0000007f0000007f)) * ((100 << 16) - 1);
    return (x << 8) - (x * 103 >> 10 & UINT64_C(0x000f000f000f000f)) * ((10 << 8) - 1);
}

static inline void put_word(char *out, uint64_t word) { memcpy(out, &word, sizeof word); }

/* value < 10^8 without leading zeros. */
static inline size_t put_short(char *out, uint32_t value) {
    uint64_t digits = eight_digits(value);
    unsigned zeros = (unsigned)__builtin_ctzll(digits | UINT64_C(1) << 56) / 8; /* 0 keeps its last digit */
    put_word(out, (digits | ALL_BYTES('0')) >> 8 * zeros);
    return 8 - zeros;
}

static size_t put_unsigned(char *out, uint64_t value) {
    const uint64_t block = 100000000;
    if (ADVLOG_LIKELY(value < block)) return put_short(out, (uint32_t)value);
    size_t length = put_unsigned(out, value / block);
    put_word(out + length, eight_digits((uint32_t)(value % block)) | ALL_BYTES('0'));
    return length + 8;
}

size_t advlog_number_int(char *out, int64_t value) {
    if (ADVLOG_LIKELY(value >= 0)) return put_unsigned(out, (uint64_t)value);
    *out = '-';
    return 1 + put_unsigned(out + 1, -(uint64_t)value);
}

/* ---- the shortest decimal ---- */

/* significand * 10^exponent */
typedef struct {
    uint64_t significand;
    int exponent;
} decimal;

/* floor(e * log10(2)), of 3/4 * 2^e if so asked, and floor(e * log2(10)): exact in a double's range. */
static inline int floor_log10_pow2(int e, bool three_quarters) { return (e * 1262611 - (three_quarters ? 524031 : 0)) >> 22; }
static inline int floor_log2_pow10(int e) { return (e * 1741647) >> 19; }

/* The upper 64 bits of power * c, the last of them set if anything below is: enough to
 * compare with any decimal of the precision needed. */
static inline uint64_t round_to_odd(struct power_of_ten power, uint64_t c) {
    __uint128_t low = (__uint128_t)power.low * c;
    __uint128_t high = (__uint128_t)power.high * c + (uint64_t)(low >> 64);
    return (uint64_t)(high >> 64) | ((uint64_t)high > 1);
}

static inline int shift_of(int q, int k) { return q + floor_log2_pow10(-k) + 1; }

/* The decimal with the fewest digits in the interval of the reals that round to the double
 * c * 2^q, and of those the one nearest to it. */
static inline decimal shortest(uint64_t c, int q, bool power_of_two) {
    int k = floor_log10_pow2(q, power_of_two);
    int shift = shift_of(q, k);
    struct power_of_ten power = POWERS_OF_TEN[-k - POWERS_FIRST];
    /* Four times the value and the interval's ends, in units of 10^k. */
    uint64_t value = round_to_odd(power, 4 * c << shift);
    uint64_t lower = round_to_odd(power, (4 * c - (power_of_two ? 1 : 2)) << shift) + (c & 1); /* ends belong to an even c only */
    uint64_t upper = round_to_odd(power, (4 * c + 2) << shift) - (c & 1);

    /* Selections and no branches: on values from training each of them would go either way. */
    uint64_t s = value / 4;
    uint64_t tens = s / 10 * 10;
    bool tens_down = lower <= 4 * tens, tens_up = 4 * tens + 40 <= upper;
    bool ones_down = lower <= 4 * s, ones_up = 4 * s + 4 <= upper;
    bool nearer_up = value + (s & 1) > 4 * s + 2;
    uint64_t of_tens = tens + (tens_up ? 10 : 0);
    uint64_t of_ones = s + ((ones_up & !ones_down) | (nearer_up & (ones_up == ones_down)));
    uint64_t fewer = -(uint64_t)(tens_down != tens_up);
    return (decimal){(of_tens & fewer) | (of_ones & ~fewer), k};
}

/* The decimal of so many digits that is nearest to the double c * 2^q, of two the one that ends in an even digit. Of a
 * subnormal double that has no more digits than that which mean something: 0. */
static inline decimal nearest(uint64_t c, int q, unsigned digits) {
    int k = floor_log10_pow2(q, false);
    /* Four times the value in units of 10^k. It is odd where it is not exact, and so never the middle between two. */
    uint64_t value = round_to_odd(POWERS_OF_TEN[-k - POWERS_FIRST], 4 * c << shift_of(q, k));
    unsigned count = DIGITS;
    while (count > 1 && value / 4 < TENS[count - 1]) count--;
    if (ADVLOG_UNLIKELY(c >> FRACTION_BITS == 0 && count <= digits)) return (decimal){0, 0};
    uint64_t unit = 4 * TENS[count - digits];
    uint64_t whole = value / unit, rest = value % unit;
    whole += rest > unit / 2 || (rest == unit / 2 && (whole & 1));
    bool carry = whole == TENS[digits];
    return (decimal){carry ? TENS[digits - 1] : whole, k + (int)(count - digits) + carry};
}

/* ---- doubles ---- */

static ADVLOG_COLD size_t put_nonfinite(char *out, double value) {
    /* The sign of a NaN means nothing, and "-nan" reads back nowhere. */
    const char *text = isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
    size_t length = strlen(text);
    memcpy(out, text, length);
    return length;
}

/* The digits as text, the first lowest: 0-7, 8-15, 16 and zeros. */
typedef struct {
    uint64_t word[3];
    unsigned count; /* without the zeros at the end; at least 1 */
} text17;

static inline text17 text_of(uint64_t significand) {
    uint64_t first = significand / TEN_TO_16;
    uint64_t rest = significand % TEN_TO_16;
    uint64_t middle = eight_digits((uint32_t)(rest / 100000000));
    uint64_t last = eight_digits((uint32_t)(rest % 100000000));
    uint64_t tail = last ? last : middle;
    unsigned zeros = tail ? (unsigned)__builtin_clzll(tail) / 8 : 8;
    return (text17){
        {
            first | middle << 8 | ALL_BYTES('0'),
            middle >> 56 | last << 8 | ALL_BYTES('0'),
            last >> 56 | ALL_BYTES('0'),
        },
        DIGITS - (last ? 0 : 8) - zeros,
    };
}

/* The same of at most eight digits, those of the number between 10^7 and 10^8. */
static inline text17 text_of_eight(uint32_t significand) {
    uint64_t digits = eight_digits(significand);
    return (text17){{digits | ALL_BYTES('0'), ALL_BYTES('0'), ALL_BYTES('0')}, 8 - (unsigned)__builtin_clzll(digits) / 8};
}

/* Decimal notation, the point after the first `point` digits. */
static inline char *put_decimal(char *out, const text17 *t, int point) {
    if (point <= 0) {
        memcpy(out, "0.000", 5);
        out += 2 - point;
        for (int i = 0; i < 3; i++) put_word(out + 8 * i, t->word[i]);
        return out + t->count;
    }
    if (ADVLOG_LIKELY(point < 8)) {
        /* In registers: to load what was just stored in other pieces would stall. */
        uint64_t before = (UINT64_C(1) << 8 * point) - 1;
        put_word(out, (t->word[0] & before) | (uint64_t)'.' << 8 * point | (t->word[0] & ~before) << 8);
        put_word(out + 8, t->word[0] >> 56 | t->word[1] << 8);
        put_word(out + 16, t->word[1] >> 56 | t->word[2] << 8);
    } else {
        memcpy(out, t->word, 16);
        out[point] = '.';
        memcpy(out + point + 1, (const char *)t->word + point, (size_t)(24 - point));
    }
    unsigned shown = t->count > (unsigned)point ? t->count : (unsigned)point + 1;
    return out + shown + 1;
}

/* d.ddde+xx */
static char *put_scientific(char *out, const text17 *t, int exponent) {
    out = put_decimal(out, t, 1);
    if (t->count == 1) out -= 2; /* the ".0" */
    *out++ = 'e';
    *out++ = exponent < 0 ? '-' : '+';
    unsigned size = (unsigned)(exponent < 0 ? -exponent : exponent);
    if (size < 10) *out++ = '0';
    return out + put_short(out, size);
}

/* The parts of a double's bits, and what they stand for: c * 2^q. */
static inline unsigned exponent_of(uint64_t bits) { return bits >> FRACTION_BITS & 0x7ff; }

static inline uint64_t c_of(uint64_t bits) {
    uint64_t fraction = bits & FRACTION_MASK;
    return exponent_of(bits) == 0 ? fraction : fraction | UINT64_C(1) << FRACTION_BITS;
}

static inline int q_of(uint64_t bits) {
    unsigned biased = exponent_of(bits);
    return (int)biased + (biased == 0) - EXPONENT_BIAS;
}

/* Whether the double's lower neighbour is nearer than the upper one. */
static inline bool is_power_of_two(uint64_t bits) { return (bits & FRACTION_MASK) == 0 && exponent_of(bits) > 1; }

size_t advlog_number_double(char *out, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (ADVLOG_UNLIKELY(exponent_of(bits) == 0x7ff)) return put_nonfinite(out, value);
    char *p = out;
    *p = '-';
    p += bits >> 63;
    if (bits << 1 == 0) {
        memcpy(p, "0.0", 3);
        return (size_t)(p + 3 - out);
    }
    decimal d = shortest(c_of(bits), q_of(bits), is_power_of_two(bits));
    /* To 17 digits. Zeros at the end are not shown, so those that this adds are harmless. */
    bool shorter = d.significand < TEN_TO_16;
    d.significand *= 1 + 9 * shorter;
    d.exponent -= shorter;
    while (ADVLOG_UNLIKELY(d.significand < TEN_TO_16)) {
        d.significand *= 10;
        d.exponent--;
    }
    text17 text = text_of(d.significand);
    int point = d.exponent + DIGITS;
    p = ADVLOG_LIKELY(point > -4 && point <= 16) ? put_decimal(p, &text, point) : put_scientific(p, &text, point - 1);
    return (size_t)(p - out);
}

size_t advlog_number_text(char *out, double value, unsigned digits) {
    if (value > -EXACT_INTEGERS && value < EXACT_INTEGERS && value == (double)(int64_t)value) {
        *out = '-';
        return signbit(value) && value == 0 ? 1 + advlog_number_int(out + 1, 0) : advlog_number_int(out, (int64_t)value);
    }
    if (digits >= ADVLOG_ALL_DIGITS || !isfinite(value)) return advlog_number_double(out, value);
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    char *p = out;
    *p = '-';
    p += bits >> 63;
    decimal d = nearest(c_of(bits), q_of(bits), digits);
    if (ADVLOG_UNLIKELY(d.significand == 0)) return advlog_number_double(out, value);
    text17 text = digits <= 8 ? text_of_eight((uint32_t)(d.significand * TENS[8 - digits]))
                              : text_of(d.significand * TENS[DIGITS - digits]);
    int point = d.exponent + (int)digits;
    if (point <= -4 || point > (int)digits) return (size_t)(put_scientific(p, &text, point - 1) - out);
    p = put_decimal(p, &text, point);
    if (text.count <= (unsigned)(point > 0 ? point : 0)) p -= 2; /* the ".0" */
    return (size_t)(p - out);
}
