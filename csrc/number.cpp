/* Numbers to text: an extern "C" shim over std::to_chars, the one source of the
 * shortest digits that read back as the same double. */
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <ctime>

extern "C" {
#include "compiler.h"
}

/* std::to_chars writes at most 24 bytes; two more make an integer a double. */
static constexpr size_t DOUBLE_BYTES = 24;
static constexpr size_t INT_BYTES = 20;

/* From here on every double is an integer. */
static constexpr double ALL_INTEGERS = 4503599627370496.0;

static size_t put_nonfinite(char *out, double value) {
    /* The sign of a NaN means nothing, and "-nan" reads back nowhere. */
    const char *text = std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
    size_t length = std::strlen(text);
    std::memcpy(out, text, length);
    return length;
}

extern "C" size_t advlog_number_double(char *out, double value) {
    if (ADVLOG_UNLIKELY(!std::isfinite(value))) return put_nonfinite(out, value);
    size_t length = static_cast<size_t>(std::to_chars(out, out + DOUBLE_BYTES, value).ptr - out);
    /* Only an integer can lack both '.' and exponent, and would come back as an int. */
    if (std::fabs(value) >= ALL_INTEGERS || static_cast<double>(static_cast<int64_t>(value)) == value) {
        for (size_t i = 0; i < length; i++)
            if (out[i] == '.' || out[i] == 'e') return length;
        out[length++] = '.';
        out[length++] = '0';
    }
    return length;
}

extern "C" size_t advlog_number_int(char *out, int64_t value) {
    return static_cast<size_t>(std::to_chars(out, out + INT_BYTES, value).ptr - out);
}
