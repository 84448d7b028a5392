"""Writes powers_of_ten.h: the powers of ten that number.c multiplies with, from Python's exact integers."""

from __future__ import annotations

from pathlib import Path

FIRST, LAST = -292, 324
"""What a double needs: 10^-k for every k = floor(log10(2^q)), q in -1074..971, its boundaries included."""

HEAD = f"""\
/* Written by powers_of_ten.py. Entry k - POWERS_FIRST is 10^k, scaled by a power of two into
 * [2^127, 2^128) and rounded up: high half, low half. */
#pragma once

#include <stdint.h>

#define POWERS_FIRST {FIRST}
#define POWERS_LAST {LAST}

static const struct power_of_ten {{
    uint64_t high, low;
}} POWERS_OF_TEN[POWERS_LAST - POWERS_FIRST + 1] = {{
"""


def scaled(k: int) -> int:
    """ceil(10^k * 2^n), for the n that puts it into [2^127, 2^128)."""
    if k >= 0:
        power = 10**k
        shift = 128 - power.bit_length()
        return power << shift if shift >= 0 else -(-power >> -shift)
    divisor = 10**-k
    shift = 127 + divisor.bit_length()
    return -(-(1 << shift) // divisor)


def header() -> str:
    rows = []
    for k in range(FIRST, LAST + 1):
        high, low = divmod(scaled(k), 1 << 64)
        rows.append(f"    {{0x{high:016x}, 0x{low:016x}}}, /* {k} */\n")
    return HEAD + "".join(rows) + "};\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".h").write_text(header())
