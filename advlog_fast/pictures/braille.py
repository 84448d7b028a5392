"""Draws buckets with the dots of Braille characters, two columns and four rows of them in each."""

from __future__ import annotations

import math
from typing import NamedTuple

from .svg import Axis, Curve, short, value_range, wants_log

_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_LABEL = 9
"""Columns of the values' labels."""


class Drawn(NamedTuple):
    """A chart as text.

    :ivar marks: over the chart: `▲` where a value is not finite, `●` where one lies beyond the axis.
    :ivar lines: each with its label.
    :ivar axis: the places under it.
    """

    marks: str
    lines: list[str]
    axis: str


def braille(curve: Curve, width: int, height: int, *, ascii_only: bool = False) -> Drawn:
    """Draws a curve's band from its least to its greatest values: a column is filled from the one to the other, so that
    a single value far off is a whole column.

    :param width: in characters, with the labels.
    :param height: in characters.
    :param ascii_only: `#` in place of dots.
    """
    columns = max(width - _LABEL - 1, 4)
    log = wants_log([curve])
    low, high = value_range([curve], log=log)
    rows = [row for row in zip(curve.x, curve.low, curve.high, curve.nonfinite, strict=True) if row[0] is not None]
    cells = [[0] * columns for _ in range(height)]
    marks = [" "] * columns
    if not rows:
        return Drawn("", ["no value".rjust(_LABEL)] + [""] * (height - 1), "")
    first, last = rows[0][0], rows[-1][0]
    assert first is not None, "filtered"
    assert last is not None, "filtered"
    across = Axis(first, last, 0, 2 * columns - 1)
    down = Axis(low, high, 4 * height - 1, 0, log=log)
    for at, least, most, bad in rows:
        assert at is not None, "filtered"
        column = round(across(at)) if last > first else columns
        if least is not None and most is not None and (least > 0 or not log):
            for row in range(round(down(most)), round(down(least)) + 1):
                cells[row >> 2][column >> 1] |= _DOTS[column & 1][row & 3]
            if (most > high or least < low) and marks[column >> 1] == " ":
                marks[column >> 1] = "o" if ascii_only else "●"
        if bad:
            marks[column >> 1] = "^" if ascii_only else "▲"
    lines = []
    for number, line in enumerate(cells):
        text = "".join((("#" if cell else " ") if ascii_only else chr(0x2800 + cell)) for cell in line)
        lines.append(f"{_label(number, height, low, high, log=log):>{_LABEL}} {text}")
    begin, end = short(first), short(last)
    axis = " " * (_LABEL + 1) + begin + " " * max(columns - len(begin) - len(end), 1) + end
    return Drawn(" " * (_LABEL + 1) + "".join(marks), lines, axis)


def _label(number: int, height: int, low: float, high: float, *, log: bool) -> str:
    every = max(height // 4, 1)
    if number % every and number != height - 1:
        return ""
    share = (number + 0.5) / height
    if log:
        return short(10 ** (math.log10(high) * (1 - share) + math.log10(low) * share))
    return short(high * (1 - share) + low * share)
