"""Checks of the arguments of calls. What is wrong in the code at every call raises at once; a value that cannot be
logged is a *misuse*: it is left out and noted, and the rest of its record is kept."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import operator
import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from numbers import Real
from typing import Any, NamedTuple, cast

from ._native import Deferred
from ._tensors import has_memory, is_deferrable, read_together
from .exceptions import expected, shown
from .records import MAX_METRIC_NAMES, SEVERITIES, name_fault

INT32_MAX = (1 << 31) - 1
INT64_MAX = (1 << 63) - 1
NAMES_FULL = "names_full"
"""Stands for all metrics whose names no longer fit."""
_MAX_SHOWN_NAME = 300
_MAX_DEPTH = 20
_MAX_ENTRIES = 100_000
"""Entries of one mapping that are looked at, nested ones included."""
_UNKNOWN_TOTALS = (-1, sys.maxsize, math.inf)
"""What loaders and trainers give for a total that they do not know."""


@dataclasses.dataclass(frozen=True)
class Misuse:
    """A value that a call could not take as it came."""

    name: str
    """Of the argument or the metric."""
    kind: str
    """`type`, `range`, `name`, `duplicate`, `nesting`, `unreadable`, `rounded`, `names_full` or `no_room`."""
    argument: str
    """As the caller wrote it: `metrics['acc']`."""
    wanted: str
    value: object

    def message(self) -> str:
        """What was expected, and what came."""
        return expected(self.argument, self.wanted, self.value)

    def error(self) -> Exception:
        """The exception of `on_misuse="raise"`."""
        return (TypeError if self.kind == "type" else ValueError)(self.message())


class UnfitError(Exception):
    """A value that cannot be logged as it is.

    :param instead: what is logged in its place; None leaves it out.
    """

    def __init__(self, kind: str, wanted: str, instead: float | None = None) -> None:
        super().__init__(kind, wanted)
        self.kind = kind
        self.wanted = wanted
        self.instead = instead


class Report(NamedTuple):
    """The arguments of `log_error`, checked."""

    error: BaseException | str
    operation: str
    context: Mapping[Any, Any]
    severity: str


class Intake:
    """Takes in the values of one call. No method raises because of a value.

    :ivar misuses: what could not be taken in as it came.
    """

    def __init__(self) -> None:
        self.misuses: list[Misuse] = []

    def refuse(self, name: str, kind: str, wanted: str, value: object, argument: str | None = None) -> None:
        """Notes a misuse."""
        self.misuses.append(Misuse(_clipped(name), kind, _clipped(argument or name), wanted, value))

    def integer(self, name: str, value: object, low: int = -INT32_MAX - 1, high: int = INT32_MAX) -> int | None:
        """An integer, a float that is one, or an integer of numpy or torch; None if there is none."""
        if value is None:
            return None
        try:
            return _integer(value, low, high)
        except UnfitError as why:
            self.refuse(name, why.kind, why.wanted, value)
            return None

    def epoch(self, value: object) -> tuple[int | None, float | None]:
        """The number of an epoch, and its progress where a float came: 2.5 is in the middle of epoch 3, and no number;
        2.0 is both."""
        with contextlib.suppress(Exception):  # `integer` says what is wrong
            plain = value.item() if _is_array(value) else value  # type: ignore[attr-defined]
            if isinstance(plain, float):
                progress = float.__pos__(plain)
                return self.integer("epoch", progress) if progress.is_integer() else None, progress
        return self.integer("epoch", value), None

    def total(self, name: str, value: object, low: int = -INT32_MAX - 1) -> int | None:
        """A total, such as of batches; None if it is unknown, which infinity, -1 and `sys.maxsize` mean."""
        with contextlib.suppress(Exception):  # a subclass may compare as it likes
            plain = value.item() if _is_array(value) else value  # type: ignore[attr-defined]
            if plain is None or (isinstance(plain, (int, float)) and plain in _UNKNOWN_TOTALS):
                return None
        return self.integer(name, value, low)

    def number(self, name: str, value: object, argument: str | None = None, *, defer: bool = False) -> Any:
        """A float64, by :func:`number`; None if there is none."""
        if type(value) is float:
            return value
        try:
            return number(value, defer=defer)
        except UnfitError as why:
            self.refuse(name, why.kind, why.wanted, value, argument)
            return why.instead

    def entries(self, argument: str, values: Mapping[Any, Any]) -> list[tuple[str, Any]]:
        """The values of a mapping by name, nested mappings flattened with `/`, None left out. Names are plain strings
        that are not empty and valid Unicode."""
        left = [_MAX_ENTRIES]
        found = list(self._flat(argument, values, "", (id(values),), left))
        if left[0] < 0:
            self.refuse(argument, "range", f"at most {_MAX_ENTRIES} entries", len(found))
        return found

    def _flat(
        self, argument: str, values: Mapping[Any, Any], prefix: str, around: tuple[int, ...], left: list[int]
    ) -> Iterator[tuple[str, Any]]:
        try:
            items = [(name, value) for name, value in islice(values.items(), left[0] + 1)]
        except Exception:  # noqa: BLE001 - a mapping of the user's
            self.refuse(prefix or argument, "unreadable", "a mapping whose items can be read", values, argument)
            return
        for given, value in items:
            left[0] -= 1
            if left[0] < 0:
                return
            name = given if type(given) is str else _plain(given)
            if name is None or not name or not _is_unicode(name):
                shown = prefix + (f"<{type(given).__name__}>" if name is None else ascii(name)[1:-1] or "''")
                wanted = "a string" if name is None else "valid Unicode that is not empty"
                self.refuse(shown, "name", wanted, given, f"{argument}: a metric's name")
                continue
            full = prefix + name
            if value is None:
                continue
            if type(value) is float or not is_mapping(value):
                yield full, value
            elif len(around) > _MAX_DEPTH or id(value) in around:
                wanted = f"at most {_MAX_DEPTH} nested mappings, none within itself"
                self.refuse(full, "nesting", wanted, value, f"{argument}[{full!r}]")
            else:
                yield from self._flat(argument, value, full + "/", (*around, id(value)), left)

    def metrics(self, argument: str, values: object) -> dict[str, Any]:
        """Names to float64, from a mapping as of :meth:`entries`; None is an empty one.

        :raises TypeError: it is no mapping.
        """
        result: dict[str, Any] = {}
        entries = self.entries(argument, mapping(argument, {} if values is None else values))
        with contextlib.suppress(Exception):  # a tensor of the user's: read one by one, it is said which
            entries = read_together(entries)
        for name, value in entries:
            shown = f"{argument}[{name!r}]"
            if name in result:
                self.refuse(name, "duplicate", "each name once, nested ones written with '/'", value, shown)
                continue
            taken = self.number(name, value, shown)
            if taken is not None:
                result[name] = taken
        return result

    def metric_name(self, name: str) -> bool:
        """Whether a metric may have the name, which is as of :meth:`entries`."""
        wanted = name_fault(name)
        if wanted:
            self.refuse(name, "name", wanted, name, "metric name")
        return not wanted

    def flag(self, name: str, value: Any) -> bool:
        """A bool, or a 0-dimensional array of one, such as `accuracy > best`; else False."""
        with contextlib.suppress(Exception):  # an object of the user's
            kind = str(getattr(value, "dtype", "")).removeprefix("torch.")
            if isinstance(value, bool) or (kind == "bool" and tuple(value.shape) == ()):
                return bool(value)
        self.refuse(name, "type", "True or False", value)
        return False

    def error(self, value: object) -> BaseException | str:
        """An exception or a string; else the text of the value."""
        if _is_a(BaseException, value):
            return cast("BaseException", value)
        plain = _plain(value)
        if plain is not None:
            return plain
        self.refuse("error", "type", "an exception or a string", value)
        return shown(value)

    def text(self, name: str, value: object, *, or_empty: bool = False) -> str:
        """A string; else the name of the value's type."""
        plain = _plain(value)
        if plain or (plain == "" and or_empty):
            return plain
        if plain is None:
            self.refuse(name, "type", "a string", value)
            return f"<{type(value).__name__}>"
        self.refuse(name, "range", "a string that is not empty", value)
        return f"<no {name}>"


def _plain(value: Any) -> str | None:
    """The string that a `str`, or one of a subclass such as numpy.str_, holds; None for all else."""
    return str.__str__(value) if _is_a(str, value) else None


def _is_unicode(name: str) -> bool:
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def is_mapping(value: object) -> bool:
    """Whether it is a mapping; False for what cannot even be asked."""
    return _is_a(Mapping, value)


def _is_a(kind: type, value: object) -> bool:
    """Whether it is an instance; False for what cannot even be asked."""
    try:
        return isinstance(value, kind)
    except Exception:  # noqa: BLE001 - `__class__` of an object of the user's
        return False


def names_are_full(intake: Intake, name: str) -> None:
    """Notes that there is no room for one more metric's name."""
    intake.refuse(NAMES_FULL, "names_full", f"at most {MAX_METRIC_NAMES} different names", name, "metric name")


def no_room_for_name(intake: Intake, name: str) -> None:
    """Notes that there is no room for one more metric's name now."""
    intake.refuse(NAMES_FULL, "no_room", "room in shared memory for the name of one more metric", name, "metric name")


def _clipped(name: str) -> str:
    return name if len(name) <= _MAX_SHOWN_NAME else name[: _MAX_SHOWN_NAME - 3] + "..."


def _is_array(value: object) -> bool:
    """Whether it is an array or a tensor, or a scalar of one's library: what has an `item()`."""
    return hasattr(type(value), "item") and hasattr(type(value), "shape")


def has_plain_item(kind: type) -> bool:
    """Whether `item()` of such a value is the number to log; it is not where numpy may have masked it."""
    return hasattr(kind, "item") and hasattr(kind, "shape") and not hasattr(kind, "mask")


def _is_masked(value: Any) -> bool:
    return hasattr(type(value), "mask") and bool(sys.modules["numpy"].ma.getmaskarray(value).all())


def _integer(value: Any, low: int, high: int) -> int:
    """:raises UnfitError: it is no integer from `low` to `high`."""
    try:
        if _is_array(value):
            value = value.item()
        if isinstance(value, float) and float.is_integer(value):
            value = int(float.__pos__(value))
        whole = None if isinstance(value, bool) else operator.index(value)
    except Exception:  # noqa: BLE001 - an object of the user's
        whole = None
    if whole is None:
        raise UnfitError("type", "an integer")
    if not low <= whole <= high:
        raise UnfitError("range", f"an integer from {low} to {high}")
    return whole


def number(value: Any, *, defer: bool = False) -> Any:
    """Return the value as a float64: a float, an int, any other `numbers.Real` (`Fraction`), a `Decimal`, or an array
    or tensor of one element, by its `item()`; NaN for one that numpy has masked.

    :param defer: return a tensor on an accelerator, and a `Deferred`, as it is.
    :raises UnfitError: it is no number, or none that float64 can hold.
    """
    try:
        return _number(value, defer)
    except UnfitError:
        raise
    except Exception:  # noqa: BLE001 - several elements, or none, a tensor without data, an object of the user's
        raise UnfitError("type", "a number") from None


def _number(value: Any, defer: bool) -> Any:
    if defer and isinstance(value, Deferred):
        return value
    if defer and is_deferrable(value):
        if value.numel() != 1 or not has_memory(value):
            raise UnfitError("type", "a number")
        return value
    if _is_array(value):
        value = math.nan if _is_masked(value) else value.item()
    if isinstance(value, float):
        return float.__pos__(value)  # the value itself: a subclass may convert itself as it likes
    if not isinstance(value, Real):
        decimal = sys.modules.get("decimal")  # no Real, and only a program that has imported it has one
        if decimal is None or not isinstance(value, decimal.Decimal):
            raise UnfitError("type", "a number")
        if value.is_nan():
            return math.nan
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if math.isinf(result) and value != result:
        raise UnfitError("range", "a number that float64 can hold")
    if isinstance(value, int) and int(result) != value:
        raise UnfitError("rounded", "an integer that float64 holds exactly", result)
    return result


# -- what is wrong in the code ---------------------------------------------------------------------------------------


def severity(value: Any) -> str:
    """The severity in capitals.

    :raises TypeError: it is no string.
    :raises ValueError: it is none of the severities.
    """
    wanted = "one of " + ", ".join(SEVERITIES)
    if not _is_a(str, value):
        raise TypeError(expected("severity", wanted, value))
    if value.upper() not in SEVERITIES:
        raise ValueError(expected("severity", wanted, value))
    return str(value.upper())


def report(intake: Intake, error: object, operation: object, context: object, wanted: object) -> Report:
    """The arguments of `log_error`.

    :raises TypeError: the context is no mapping, or the severity no string.
    :raises ValueError: the severity is none.
    """
    level = severity(wanted)
    values = {} if context is None else _items_of(mapping("context", context))
    return Report(intake.error(error), intake.text("operation", operation, or_empty=True), values, level)


def _items_of(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """A plain copy, each value that cannot be read named in its place."""
    found: dict[Any, Any] = {}
    try:
        for key in islice(values, _MAX_ENTRIES):
            found[key] = None
            try:
                found[key] = values[key]
            except Exception as error:  # noqa: BLE001 - a mapping of the user's
                found[key] = f"<unreadable: {type(error).__name__}>"
    except Exception as error:  # noqa: BLE001
        found["..."] = f"<unreadable: {type(error).__name__}>"
    return found


def mapping(argument: str, value: Any) -> Mapping[Any, Any]:
    """The value, if it is a mapping.

    :raises TypeError: it is none.
    """
    if not is_mapping(value):
        raise TypeError(expected(argument, "a mapping", value))
    found: Mapping[Any, Any] = value
    return found
