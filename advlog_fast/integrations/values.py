"""What frameworks log, as records take it."""

from __future__ import annotations

import numbers
import sys
from collections.abc import Mapping
from typing import Any

from ..logger import AdvancedLogger
from ..records import INTEGER_COLUMNS, RESERVED_NAMES

_MOST_DEPTH = 4
_SHOWN_CHARACTERS = 1000


def clean(metrics: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits what a framework logs into numbers that a record takes, and the rest, such as strings and lists.

    None is dropped. A name reserved for records becomes `metric/NAME`, and so do `step`, `batch` and `total_batches`
    when the value is no int; an `epoch` that is no int becomes `epoch_progress`. It reads no value, so it waits for no
    device.
    """
    numbers_: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for key, value in metrics.items():
        name = str(key)
        if value is None:
            continue
        if isinstance(value, Mapping):
            inner, others = clean({f"{name}/{part}": each for part, each in value.items()})
            numbers_.update(inner)
            rest.update(others)
        elif not (isinstance(value, numbers.Number) or _is_single(value)):
            rest[name] = value
        elif name in INTEGER_COLUMNS and type(value) is not int:
            numbers_["epoch_progress" if name == "epoch" else f"metric/{name}"] = value
        elif name in RESERVED_NAMES and name not in INTEGER_COLUMNS:
            numbers_[f"metric/{name}"] = value
        else:
            numbers_[name] = value
    return numbers_, rest


def _is_single(value: Any) -> bool:
    """Whether it is a number of torch's, numpy's or another library's, by its shape."""
    return hasattr(value, "item") and all(size == 1 for size in getattr(value, "shape", ()))


def log_clean(log: AdvancedLogger, metrics: Mapping[str, Any], step: int | None) -> None:
    """Logs the numbers among what a framework logs as one record, and the rest as an event `logged`."""
    numbers_, rest = clean(metrics)
    if numbers_:
        if numbers_.keys() <= set(INTEGER_COLUMNS):  # a record of nothing but its place is none
            numbers_ = {f"metric/{name}": value for name, value in numbers_.items()}
        log.log_metrics(numbers_, step)
    if rest:
        shown = {name: value if _is_short(value) else repr(value)[:_SHOWN_CHARACTERS] for name, value in rest.items()}
        log.log_event("logged", step=step, values=shown)


def _is_short(value: object) -> bool:
    return isinstance(value, (bool, int, float, str)) and len(str(value)) <= _SHOWN_CHARACTERS


def detached(value: Any) -> Any:
    """Returns a tensor without the graph that it was computed by, which would live as long as it is kept."""
    return value.detach() if getattr(value, "requires_grad", False) else value


def total(count: Any) -> int | None:
    """Returns a total as a record takes it: None for one that a framework calls infinite, -1 or `sys.maxsize`."""
    try:
        return int(count) if 0 < count < min(sys.maxsize, 2**31) else None
    except (TypeError, OverflowError, ValueError):
        return None


def samples_in(batch: Any, depth: int = 0) -> int | None:
    """Returns the length of the first tensor found in a batch; None where there is none."""
    try:
        return _samples_in(batch, depth)
    except Exception:  # noqa: BLE001 - an object of the user's, or a tensor that has no shape
        return None


def _samples_in(batch: Any, depth: int) -> int | None:
    kind = type(batch)
    shape = None if kind is list or kind is tuple or kind is dict else getattr(batch, "shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) else None
    values = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (list, tuple)) else ()
    if depth < _MOST_DEPTH:
        for value in values:
            if (found := samples_in(value, depth + 1)) is not None:
                return found
    return None
