"""Tables of text. Columns are as wide as their content: a terminal wraps long lines, a pipe gets them whole."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any


def aligned(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Return the lines of a table, with numbers aligned to the right."""
    table = [list(row) for row in rows]
    texts = [list(head), *([shown(value) for value in row] for row in table)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    right = [any(isinstance(row[i], (int, float)) for row in table) for i in range(len(head))]
    return [
        "  ".join(
            text.rjust(width) if is_right else text.ljust(width)
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
        return ",".join(map(str, value)) or "-"
    return str(value)


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
