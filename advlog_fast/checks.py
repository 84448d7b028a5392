"""Checks of the arguments of calls. A wrong argument raises at once and is named."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping
from numbers import Real
from types import ModuleType
from typing import Any

from ._native import Deferred
from ._tensors import is_deferrable
from .exceptions import expected
from .records import SEVERITIES

INT32_MAX = (1 << 31) - 1
INT64_MAX = (1 << 63) - 1
_MAX_METRICS = 10_000


def integer(argument: str, value: Any, low: int, high: int) -> int:
    """Returns the value as an int; it may be an int, or an integer of numpy or torch.

    :raises TypeError: it is none.
    :raises ValueError: it lies outside `low` and `high`.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        number = None
    if number is None:
        raise TypeError(expected(argument, "an integer", value))
    if not low <= number <= high:
        raise ValueError(expected(argument, f"an integer from {low} to {high}", value))
    return number


def step(argument: str, value: Any) -> int:
    """Return the value as an int64."""
    return integer(argument, value, -INT64_MAX - 1, INT64_MAX)


def whole(argument: str, value: Any, low: int = -INT32_MAX - 1) -> int:
    """Returns the value as an int32: see :func:`integer`."""
    return integer(argument, value, low, INT32_MAX)


def whole_or_none(argument: str, value: Any, low: int = 0) -> int | None:
    """Returns the value as an int32, or None."""
    return None if value is None else whole(argument, value, low)


def text(argument: str, value: Any, *, or_empty: bool = False) -> str:
    """Returns the value if it is a string, and not empty unless that is allowed.

    :raises TypeError: it is no string.
    :raises ValueError: it is empty.
    """
    if not isinstance(value, str):
        raise TypeError(expected(argument, "a string", value))
    if not value and not or_empty:
        raise ValueError(expected(argument, "a string that is not empty", value))
    return value


def severity(value: Any) -> str:
    """The severity in capitals.

    :raises TypeError: it is no string.
    :raises ValueError: it is none of the severities.
    """
    wanted = "one of " + ", ".join(SEVERITIES)
    if not isinstance(value, str):
        raise TypeError(expected("severity", wanted, value))
    if value.upper() not in SEVERITIES:
        raise ValueError(expected("severity", wanted, value))
    return value.upper()


def error(value: Any) -> BaseException | str:
    """The value, if it is an error as `log_error` takes one.

    :raises TypeError: it is neither an exception nor a string.
    """
    if not isinstance(value, (BaseException, str)):
        raise TypeError(expected("error", "an exception or a string", value))
    return value


def report(reported: Any, operation: Any, context: Any, wanted: Any) -> str:
    """Checks the arguments of `log_error`; returns the severity in capitals.

    :raises TypeError: one has the wrong type.
    :raises ValueError: the severity is none.
    """
    error(reported)
    text("operation", operation, or_empty=True)
    if context is not None:
        mapping("context", context)
    return severity(wanted)


def flag(argument: str, value: Any) -> bool:
    """Returns the value as a bool; it may be True, False, or a 0-dimensional array of one, such as `accuracy > best`.

    :raises TypeError: it is neither.
    """
    kind = str(getattr(value, "dtype", "")).removeprefix("torch.")
    if isinstance(value, bool) or (kind == "bool" and tuple(value.shape) == ()):
        return bool(value)
    raise TypeError(expected(argument, "True or False", value))


def mapping(argument: str, value: Any) -> Mapping[Any, Any]:
    """The value, if it is a mapping.

    :raises TypeError: it is none.
    """
    if not isinstance(value, Mapping):
        raise TypeError(expected(argument, "a mapping", value))
    return value


def settings(argument: str, value: Any) -> Mapping[Any, Any]:
    """Returns settings by name, from a mapping or from the attributes of an object such as an argparse.Namespace or a
    dataclass.

    :raises TypeError: it is neither.
    """
    if isinstance(value, Mapping):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    # A class, a function and a module have attributes too, but those are no settings.
    if hasattr(value, "__dict__") and not callable(value) and not isinstance(value, ModuleType):
        attributes: dict[str, Any] = vars(value)
        return attributes
    raise TypeError(expected(argument, "a mapping, or an object whose attributes are the settings", value))


def metric_values(argument: str, value: Any, *, defer: bool = False) -> dict[str, Any]:
    """Names to float64: nested mappings flatten with `/`, None is left out, arrays of one element are their
    number.

    :param defer: as of :func:`number`.

    :raises TypeError: it is no mapping, a name is no string, or a value is no number.
    :raises ValueError: a name is empty or comes twice, or an integer is one that float64 cannot hold.
    """
    result: dict[str, Any] = {}
    _flatten(argument, mapping(argument, value), "", result, 0, defer)
    return result


def _flatten(
    argument: str, values: Mapping[Any, Any], prefix: str, into: dict[str, Any], depth: int, defer: bool
) -> None:
    for name, value in values.items():
        if not isinstance(name, str):
            raise TypeError(expected(f"{argument}: a metric's name", "a string", name))
        if not name or not _is_unicode(name):
            wanted = "valid Unicode that is not empty"
            raise ValueError(expected(f"{argument}: a metric's name", wanted, name))
        full = prefix + name
        if isinstance(value, Mapping):
            if depth >= 20:
                raise ValueError(expected(f"{argument}[{full!r}]", "at most 20 nested mappings", value))
            _flatten(argument, value, full + "/", into, depth + 1, defer)
        elif value is not None:
            if full in into:
                raise ValueError(expected(argument, "each name once, nested ones written with '/'", full))
            into[full] = number(f"{argument}[{full!r}]", value, defer=defer)
        if len(into) > _MAX_METRICS:
            raise ValueError(expected(argument, f"at most {_MAX_METRICS} metrics", len(into)))


def _is_unicode(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def number(argument: str, value: Any, *, defer: bool = False) -> Any:
    """Return the value as a float64: a float, an int, any other `numbers.Real` (`Fraction`), a `Decimal`, or an array
    or tensor of one element, by its `item()`.

    :param defer: return a tensor on an accelerator, and a `Deferred`, as it is.

    :raises TypeError: it is no number.
    :raises ValueError: it is an integer that float64 cannot hold.
    """
    plain = value
    if defer and isinstance(value, Deferred):
        return value
    if defer and is_deferrable(value):
        if value.numel() != 1:
            raise TypeError(expected(argument, "a number", value))
        return value
    if hasattr(type(value), "item") and hasattr(type(value), "shape"):
        try:
            plain = value.item()
        except Exception:  # noqa: BLE001 - several elements, or none, or a tensor without data
            raise TypeError(expected(argument, "a number", value)) from None
    if isinstance(plain, float):
        return float(plain)
    if not isinstance(plain, Real):
        from decimal import Decimal  # no Real, and too rare to be imported with all else

        if not isinstance(plain, Decimal):
            raise TypeError(expected(argument, "a number", value))
    try:
        result = float(plain)
        if not isinstance(plain, int) or int(result) == plain:
            return result
    except OverflowError:
        pass
    raise ValueError(expected(argument, "a number that float64 can hold", value))
