"""Messages and fields as text of one line."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_files import strict_json, unescape

from advlog_fast.control.text import (
    clipped,
    dumps,
    escape,
    fields_text,
    quoted,
    time_text,
    with_nulls,
)

ANY_TEXT = st.text(alphabet=st.characters(), max_size=200)
FORGED = "a\r\nERROR forged\x1b[2J\x00"


def test_a_forged_line_is_one_physical_line():
    assert escape(FORGED) == "a\\r\\nERROR forged\\x1b[2J\\x00"


@pytest.mark.parametrize(
    "character",
    ["\x7f", "\x85", "\x9b", "\u2028", "\u2029", "\u202e", "\u2066", "\u061c", chr(0xD800), chr(0xDFFF)],
)
def test_characters_that_end_a_line_or_steer_a_terminal_are_escaped(character):
    code = ord(character)
    assert escape(character) == (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def test_letters_of_any_script_stay_as_they_are():
    text = "naïve Größe 損失 потеря 😀"
    assert escape(text) == text


@given(ANY_TEXT)
def test_escaping_can_be_undone_and_leaves_one_line_of_utf8(text):
    escaped = escape(text)
    assert unescape(escaped) == text
    assert len(escaped.splitlines()) <= 1
    escaped.encode()


@given(ANY_TEXT)
def test_a_quoted_text_ends_at_its_own_quote(text):
    shown = quoted(text)
    assert shown[0] == shown[-1] == '"'
    inside = shown[1:-1]
    assert '"' not in inside.replace("\\\\", "").replace('\\"', "")
    assert unescape(inside) == text


def test_fields_are_shortest_numbers_bare_tokens_and_quoted_texts():
    fields = {
        "epoch": 1,
        "accuracy": 0.9123,
        "best": True,
        "skipped": None,
        "run": "a/b-1.ckpt",
        "why": "too big",
    }
    assert fields_text(fields) == 'epoch=1 accuracy=0.9123 best=true run=a/b-1.ckpt why="too big"'


def test_a_setting_that_is_none_is_told():
    assert fields_text(with_nulls({"momentum": None, "lr": 0.1})) == "momentum=null lr=0.1"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (-0.0, "-0.0"),
        (5e-324, "5e-324"),
        ("", '""'),
        ('say "x"', '"say \\"x\\""'),
        ("a=b", '"a=b"'),
        ("a\nb", '"a\\nb"'),
        ({"k": [1, 2]}, '"{\\"k\\":[1,2]}"'),
        (False, "false"),
    ],
)
def test_a_value_stands_so_in_a_line(value, shown):
    assert fields_text({"v": value}) == f"v={shown}"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.2067729234695435, "1.207"),
        (0.5, "0.5"),
        (64.0, "64"),
        (1234567.0, "1234567"),
        (float(2**53 - 1), "9007199254740991"),
        (float(2**53), "9.007e+15"),
        (1234567.891, "1.235e+06"),
        (12345.6, "1.235e+04"),
        (-0.00012345, "-0.0001234"),
        (3e-7, "3e-07"),
        (-0.0, "-0"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (123456, "123456"),
        (True, "true"),
        ("1.23456", "1.23456"),
        ([9.99996, {"x": -0.00012345, "y": 1234567.891}], r'"[10.0,{\"x\":-0.0001234,\"y\":1234568}]"'),
    ],
)
def test_with_four_digits_no_number_shows_zeros_that_it_does_not_have(value, shown):
    assert fields_text({"v": value}, 4) == f"v={shown}".replace("\\\\", "\\")


def test_a_name_with_a_blank_cannot_pass_for_two_fields():
    assert fields_text({"a b": 1}) == '"a b"=1'


@pytest.mark.parametrize("text", ["x" * 5000, "ü" * 3000, "😀" * 2000])
def test_a_clipped_text_fits_and_says_that_it_was_cut(text):
    cut = clipped(text, 4096)
    assert 4090 <= len(cut.encode()) <= 4096
    assert cut.endswith("...")
    assert text.startswith(cut[:-3])


def test_a_text_that_fits_is_not_cut():
    assert clipped("x" * 4096, 4096) == "x" * 4096


@pytest.mark.parametrize(
    ("time_ns", "shown"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1_795_375_864_123_456_999, "2026-11-22T19:31:04.123456Z"),
        (999_999_999, "1970-01-01T00:00:00.999999Z"),
    ],
)
def test_a_time_is_utc_in_whole_microseconds_rounded_down(time_ns, shown):
    assert time_text(time_ns) == shown


@given(st.recursive(st.none() | st.booleans() | st.floats() | ANY_TEXT, lambda inner: st.lists(inner, max_size=3)))
def test_json_is_strict_and_one_line_whatever_it_holds(value):
    text = dumps({"v": value})
    assert len(text.splitlines()) == 1
    text.encode()
    assert set(strict_json(text)) == {"v"}


def test_json_names_what_is_not_finite():
    assert strict_json(dumps([math.nan, math.inf, -math.inf, -0.0])) == ["nan", "inf", "-inf", -0.0]
