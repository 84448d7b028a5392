"""Formats values and messages as text: one line for each entry, whatever it contains."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from ..records import ALL_DIGITS
from .readable import readable, strict_json

MAX_LINE_BYTES = 4096
"""The most bytes of a line that goes through the ring."""

_EXACT = 1 << 53
"""Up to here each integer is a float64 of its own."""

_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_UNSAFE = re.compile(f"[\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff{_BIDI}]")
_SHORT = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_BARE = re.compile(r'[^\s"=\\\[\]{}]+\Z')


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def escape(text: str) -> str:
    """The text as one physical line that no terminal obeys: control characters, line breaks, lone surrogates
    and characters that turn the direction of writing become `\\n`, `\\xNN` or `\\uNNNN`; a backslash is
    doubled."""
    return _UNSAFE.sub(_escaped, text)


def quoted(text: str) -> str:
    """The text escaped, between double quotes."""
    return '"' + escape(text).replace('"', '\\"') + '"'


def _token(text: str) -> str:
    return text if _BARE.match(text) and not _UNSAFE.search(text) else quoted(text)


def fields_text(fields: Mapping[str, object], digits: int | None = None) -> str:
    """`epoch=1 accuracy=0.9123 best=true`: None is left out, strings are quoted where they need it, and what
    has no shorter form is JSON in quotes.

    :param digits: of each float; None is as many as it takes to read the same float back.
    """
    present = ((name, value) for name, value in fields.items() if value is not None)
    return " ".join(f"{_token(name)}={value_text(value, digits)}" for name, value in present)


def with_nulls(settings: Mapping[str, object]) -> dict[str, object]:
    """For :func:`fields_text`, so that None is not left out: as a setting it has a meaning."""
    return {name: "null" if value is None else value for name, value in settings.items()}


def value_text(given: object, digits: int | None = None) -> str:
    """A value as it stands after its `=`."""
    value = readable(given)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and digits is not None:
        return _short(value, digits)
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return _token(value)
    return quoted(dumps(value if digits is None else _rounded(value, digits)))


def _short(value: float, digits: int) -> str:
    """Integral values in full, others with so many significant digits and no zeros in the place of unknown ones:
    `1234567`, `0.6931`, `1.235e+06`."""
    if value.is_integer() and abs(value) < _EXACT:
        return f"{value:.0f}"
    if digits >= ALL_DIGITS:
        return repr(value)
    text = f"{value:.{digits}g}"
    # A subnormal has few digits that mean something, and repr shows no other: 5e-324, not 4.94066e-324.
    return min(text, repr(value), key=len) if abs(value) < sys.float_info.min else text


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, float) and math.isfinite(value):
        return round(value) if 10**digits <= abs(value) < _EXACT else float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {name: _rounded(item, digits) for name, item in value.items()}
    return [_rounded(item, digits) for item in value] if isinstance(value, list) else value


def clipped(text: str, max_bytes: int = MAX_LINE_BYTES) -> str:
    """The text, cut to so many bytes of UTF-8 with "..." at its end where it is longer."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= max_bytes:
        return text
    return data[: max_bytes - 3].decode("utf-8", "ignore") + "..."


def time_text(time_ns: int) -> str:
    """Nanoseconds since 1970 as `2026-11-22T19:31:04.123456Z`, UTC."""
    # Not strftime, which imports, nor a timedelta, which crashes some 3.13: the last destructors may log.
    microseconds = time_ns // 1000
    moment = datetime.fromtimestamp(microseconds // 1_000_000, timezone.utc)
    whole = moment.replace(microsecond=microseconds % 1_000_000, tzinfo=None)
    return whole.isoformat(timespec="microseconds") + "Z"


def dumps(value: object) -> str:
    """One line of strict JSON: what it lacks made readable, NaN and the infinities as the strings "nan",
    "inf" and "-inf"."""
    return strict_json(_named_nonfinite(readable(value)))


def _named_nonfinite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, dict):
        return {name: _named_nonfinite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_named_nonfinite(item) for item in value]
    return value
