"""Turns any value into JSON: numbers stay, the rest becomes short strings that a person can read.

Nothing here raises, whatever the value does, or imports what the value came from: tensors and arrays are told
by their attributes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from itertools import islice
from os import PathLike
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from .fields import Fields, Unreadable, fields_of

MAX_DEPTH = 16
MAX_LEAVES = 10_000
"""Of one value, at all depths."""
MAX_STRING = 16_384
MAX_REPR = 300
MAX_COST = 1 << 20
"""About the characters of one value's JSON."""

_MOST_COUNTED = 1_000_000
_SURROGATE = re.compile("[\ud800-\udfff]")
_JSON_UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def readable(value: object) -> Any:
    """`value` as None, bool, int, float, str, or lists and string-keyed dicts of these.

    Floats stay floats, NaN too. One-element tensors on the CPU and numpy scalars are their number; larger ones become
    their shape, dtype and device, never their data. Sizes and depth are limited; the result says what was left out.
    """
    return _Reader().read(value, 0)


def strict_json(value: Any, indent: int | None = None) -> str:
    """JSON of what :func:`readable` made, without characters that a terminal or a line reader acts on.

    :raises ValueError: a float in it is not finite.
    """
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=separators, indent=indent)
    # JSON has no lone surrogates, and strict readers refuse their escapes: they stand as the text of one.
    text = _SURROGATE.sub(lambda m: f"\\\\u{ord(m[0]):04x}", text)
    return _JSON_UNSAFE.sub(lambda m: f"\\u{ord(m[0]):04x}", text)


class _Reader:
    def __init__(self) -> None:
        self._cost = 0
        self._leaves = 0
        self._open: set[int] = set()

    def read(self, value: Any, depth: int) -> Any:
        try:
            return self._read(value, depth)
        except Exception:  # noqa: BLE001 - a value of the user's may do anything
            return f"<{type(value).__name__}: unreadable>"

    def _read(self, value: Any, depth: int) -> Any:
        self._cost += 8
        if value is None or value is True or value is False:
            return value
        if isinstance(value, Enum):
            # A combination of flags may have no name.
            name = getattr(value, "name", None)
            return self._text(f"{type(value).__name__}.{name}" if name else str(value))
        if isinstance(value, str):
            return self._text(str.__str__(value))
        if isinstance(value, int):
            number = int(value)
            return number if number.bit_length() < 64 else _large(number)
        if isinstance(value, float):
            return float(value)
        kind = type(value)
        if hasattr(kind, "shape") and hasattr(kind, "dtype"):
            return self._array(value)
        if isinstance(value, Unreadable):
            return f"<unreadable: {value.error}>"
        fields = None if isinstance(value, type) else fields_of(value)
        if fields is not None:
            return self._within(value, depth, lambda: self._mapping(fields, depth))
        if isinstance(value, (list, tuple, AbstractSet)) or (isinstance(value, Sequence) and not _is_binary(value)):
            return self._within(value, depth, lambda: self._items(value, depth))
        return self._text(self._described(value))

    def _described(self, value: Any) -> str:
        if isinstance(value, PathLike):
            path = value.__fspath__()
            return path if isinstance(path, str) else repr(path)
        if isinstance(value, (date, time)):
            return value.isoformat()
        if isinstance(value, (timedelta, Decimal, Fraction)):
            return str(value)
        if isinstance(value, type):
            home = "" if value.__module__ == "builtins" else f"{value.__module__}."
            return home + value.__qualname__
        if isinstance(value, (FunctionType, BuiltinFunctionType, MethodType)):
            return f"{value.__module__}.{value.__qualname__}"
        kind = type(value)
        if _is_binary(value):
            return f"<{kind.__name__}: {len(value)} bytes>"
        if isinstance(value, BaseException):
            shown = f"{kind.__name__}: {value}"
        elif kind.__name__ in ("dtype", "device", "complex", "range", "slice", "UUID") or _names_a_dtype(kind):
            shown = str(value)
        else:
            # Never a repr: it may show what a key of ours would have hidden.
            home = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
            shown = f"<{home}{kind.__qualname__}>"
        return shown if len(shown) <= MAX_REPR else f"{shown[: MAX_REPR - 3]}..."

    def _text(self, text: str) -> str:
        self._cost += min(len(text), MAX_STRING)
        if len(text) > MAX_STRING or self._cost > MAX_COST:
            kept = text[: MAX_STRING if self._cost <= MAX_COST else 40]
            text = f"{kept}... ({len(text)} characters)" if len(kept) < len(text) else text
        return text

    def _array(self, value: Any) -> Any:
        device = getattr(value, "device", None)
        shape = tuple(int(n) for n in value.shape)
        if math.prod(shape) == 1 and (device is None or str(device) == "cpu"):
            item = value.item()
            # A long double's item is itself.
            return float(item) if type(item) is type(value) else self._read(item, 0)
        # Since numpy 2 its arrays have a device too, always the same.
        on = "" if device is None or type(value).__module__ == "numpy" else f", device={device}"
        return f"{_kind_of_array(value)}(shape={shape}, dtype={value.dtype}{on})"

    def _within(self, value: Any, depth: int, read: Any) -> Any:
        name = type(value).__name__
        if id(value) in self._open:
            return f"<{name}: contains itself>"
        if depth >= MAX_DEPTH or self._cost > MAX_COST:
            return f"<{name}: too deep>" if depth >= MAX_DEPTH else f"<{name}: too large>"
        self._open.add(id(value))
        try:
            return read()
        finally:
            self._open.discard(id(value))

    def _mapping(self, fields: Fields, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, item in fields:
            if self._is_full():
                result["..."] = f"{1 + sum(1 for _ in islice(fields, _MOST_COUNTED))} more"
                break
            name = self._text(key) if type(key) is str else self._key(key, depth)
            if name in result:
                name = f"{name} ({type(key).__name__})"
            result[name] = self._leaf(item, depth)
        return result

    def _is_full(self) -> bool:
        return self._leaves >= MAX_LEAVES or self._cost > MAX_COST

    def _leaf(self, item: Any, depth: int) -> Any:
        found = self.read(item, depth + 1)
        self._leaves += not isinstance(found, (dict, list))
        return found

    def _key(self, key: Any, depth: int) -> str:
        name = self.read(key, depth + 1)
        return name if isinstance(name, str) else str(name) if isinstance(name, float) else strict_json(name)

    def _items(self, value: Any, depth: int) -> list[Any]:
        result: list[Any] = []
        # By their places, where that can be: one that raises costs only itself.
        for index, item in enumerate(value if isinstance(value, (list, tuple, AbstractSet)) else _each(value)):
            if self._is_full():
                result.append(f"... {len(value) - index} more")
                break
            result.append(self._leaf(item, depth))
        if isinstance(value, AbstractSet):
            result.sort(key=repr)
        return result


def _kind_of_array(value: Any) -> str:
    name = type(value).__name__
    return {"Tensor": "tensor", "ndarray": "array"}.get(name, name)


def _each(value: Sequence[Any]) -> Iterator[Any]:
    for index in range(len(value)):
        try:
            yield value[index]
        except Exception as error:  # noqa: BLE001 - such as a value that is missing from a list of OmegaConf's
            yield Unreadable(type(error).__name__)


def _names_a_dtype(kind: type) -> bool:
    return kind.__module__.startswith("numpy.dtypes")


def _is_binary(value: object) -> bool:
    return isinstance(value, (bytes, bytearray, memoryview))


def _large(number: int) -> str:
    # Readers of JSON have 64 bits for an integer, and Python itself refuses to print very long ones.
    return str(number) if number.bit_length() < 4096 else f"<int: {number.bit_length()} bits>"
