"""Tables of text, and lines that no terminal obeys. Columns are as wide as their content: a terminal wraps long
lines, a pipe gets them whole."""

from __future__ import annotations

import math
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, TextIO

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def aligned(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Return the lines of a table, with numbers aligned to the right."""
    table = [list(row) for row in rows]
    texts = [list(head), *([shown(value) for value in row] for row in table)]
    widths = [max(map(_width, column)) for column in zip(*texts, strict=True)]
    right = [any(isinstance(row[i], (int, float)) for row in table) for i in range(len(head))]
    return [
        "  ".join(
            " " * (width - _width(text)) + text if is_right else text + " " * (width - _width(text))
            for text, width, is_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in texts
    ]


def shown(value: Any) -> str:
    """Return a value as text: floats with four significant digits, times to the second, None as `-`."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, list):
        return printable(",".join(map(str, value))) or "-"
    return printable(str(value))


def printable(text: str) -> str:
    """Return the text as one line: what a terminal would obey, or turn around, becomes `\\xNN` or `\\uNNNN`."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def say(line: str, file: TextIO | None = None) -> None:
    """Print a line, whatever names stand in it."""
    print(printable(line), file=sys.stdout if file is None else file)


def _width(text: str) -> int:
    """Return the columns that a terminal needs for the text."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(map(bool, map(unicodedata.combining, text)))


def duration(seconds: float | None) -> str:
    """Return seconds as text, such as `1 h 02 min`, `3 min 20 s`, `5.1 s` or `12.3 ms`."""
    if seconds is None or math.isnan(seconds):
        return "-"
    seconds = float(f"{seconds:.3g}") if seconds < 60 else seconds
    if seconds >= 3600:
        return f"{int(seconds) // 3600} h {int(seconds) // 60 % 60:02} min"
    if seconds >= 60:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02} s"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def size(count: int) -> str:
    """Return a number of bytes as text, such as `12.3 MiB`."""
    scaled = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if scaled < 1000:
            return f"{scaled:.3g} {unit}"
        scaled /= 1024
    return f"{scaled:.3g} TiB"
