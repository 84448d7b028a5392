"""Numbers in text and JSON lines read back as the same number, to the bit."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from advlog_fast._native import ffi, lib
from advlog_fast.control.text import value_text

MANY = 1_000_000
LONGEST = 24
_BUFFER = ffi.new("char[]", lib.ADVLOG_NUMBER_BYTES)
_VIEW = ffi.buffer(_BUFFER)
_DOUBLE = re.compile(rb"[.e]|^-?inf$|^nan$")
_JSON_NUMBER = re.compile(rb"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")


def formatted(value: float) -> bytes:
    length = lib.advlog_number_double(_BUFFER, value)
    assert 0 < length <= LONGEST
    return bytes(_VIEW[:length])


def test_a_million_random_bit_patterns_come_back_to_the_bit():
    bits = np.random.default_rng(20261122).integers(0, 2**64, MANY, dtype=np.uint64)
    values = bits.view(np.float64)
    texts = [formatted(value) for value in values.tolist()]
    assert max(map(len, texts)) <= LONGEST
    assert not [text for text in texts if not _DOUBLE.search(text)]
    back = np.array([float(text) for text in texts])
    numbers = ~np.isnan(values)
    np.testing.assert_array_equal(back.view(np.uint64)[numbers], bits[numbers])
    assert texts.count(b"nan") == MANY - np.count_nonzero(numbers) > 0


def test_numbers_are_written_as_python_writes_them():
    """Each exponent, its neighbours, integers, decimals of few digits, and a million doubles between 0 and 1."""
    random = np.random.default_rng(7)
    powers = np.concatenate([2.0 ** np.arange(-1074, 1024), np.array([float(f"1e{e}") for e in range(-323, 309)])])
    values = np.concatenate(
        [
            powers,
            np.nextafter(powers, 0),
            np.nextafter(powers, np.inf),
            random.integers(0, 2**52, 100_000, dtype=np.uint64).view(np.float64),  # subnormal
            random.integers(-(10**17), 10**17, 100_000).astype(np.float64),
            np.round(random.random(100_000) * 1000, 3),
            random.random(MANY),
        ]
    ).tolist()
    differ = [(value, formatted(value)) for value in values if formatted(value) != repr(value).encode()]
    assert differ == []


@settings(max_examples=2000, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_finite_double_is_a_json_number_that_json_does_not_read_as_an_integer(value: float):
    text = formatted(value)
    assert _JSON_NUMBER.fullmatch(text)
    assert b"." in text or b"e" in text
    assert np.float64(float(text)).view(np.uint64) == np.float64(value).view(np.uint64)
    assert text == repr(value).encode()


def test_numbers_at_the_edges_are_spelled_so():
    spelled = [
        (0.0, b"0.0"),
        (-0.0, b"-0.0"),
        (1.0, b"1.0"),
        (-1.5, b"-1.5"),
        (0.1, b"0.1"),
        (5e-324, b"5e-324"),
        (1.7976931348623157e308, b"1.7976931348623157e+308"),
        (2.0**53, b"9007199254740992.0"),
        (float("inf"), b"inf"),
        (float("-inf"), b"-inf"),
    ]
    assert [(value, formatted(value)) for value, _ in spelled] == spelled
    negative_nan = np.array([0xFFF8_0000_0000_0001], dtype=np.uint64).view(np.float64)[0]
    assert formatted(float("nan")) == formatted(float(negative_nan)) == b"nan"


def shortened(value: float, digits: int) -> bytes:
    length = lib.advlog_number_text(_BUFFER, value, digits)
    assert 0 < length <= LONGEST
    return bytes(_VIEW[:length])


def test_records_and_events_show_the_same_digits():
    """A record's line is made in C, an event's in Python; a reader finds one number in both."""
    random = np.random.default_rng(11)
    values = np.concatenate(
        [
            random.integers(0, 2**64, 50_000, dtype=np.uint64).view(np.float64),
            10.0 ** random.uniform(-20, 20, 50_000),
            random.integers(-(10**9), 10**9, 20_000) / 1000,
            random.integers(-(2**54), 2**54, 20_000).astype(np.float64),
            np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 2.0**53, 2.0**53 - 1, 0.5, 999999.5, 9.999995, 1e-5, 1e-4]),
        ]
    ).tolist()
    for digits in (1, 4, 6, 15, 16, 17):
        differ = [v for v in values if shortened(v, digits) != value_text(v, digits).encode()]
        assert differ == [], digits


@settings(max_examples=2000, deadline=None)
@given(st.integers(-(2**63), 2**63 - 1))
def test_an_integer_is_its_decimal_digits(value: int):
    length = lib.advlog_number_int(_BUFFER, value)
    assert bytes(_VIEW[:length]) == str(value).encode()
