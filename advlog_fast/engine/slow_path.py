"""The slow path of a record into the ring: converts values that C does not take as they are, then makes the same C call
again, so that a record has one way into the ring.

Read with csrc/producer.c, whose `_log_batch_slowly` this is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, Protocol

from .._native import Producer, lib
from .._tensors import defers, is_deferrable
from ..checks import metric_values, number, step, whole
from ..config import checked_metric_name
from ..exceptions import expected
from ..records import CORE_METRICS, INTEGER_COLUMNS, MAX_METRIC_NAMES, TrainingMetrics
from ..sampling.memory_sampler import MemorySample, MemorySampler
from .deferred import Deferral
from .entry import Entry
from .ring import slots_for

_BATCH_ARGUMENTS = ("epoch", "batch", "total_batches", *CORE_METRICS, "step")
_REQUIRED = ("epoch", "batch", "total_batches", "loss")
_PERFORMANCE_ARGUMENTS = ("batch_time", "data_time")
_YEARS = range(1678, 2262)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


class Parts(Protocol):
    @property
    def deferral(self) -> Deferral | None: ...

    @property
    def sampler(self) -> MemorySampler: ...


class Session(Protocol):
    """The session that takes a record: the run's, or its stand-in in a child."""

    entry: Entry

    @property
    def parts(self) -> Parts: ...


Record = dict[str, Any]
"""Values by name as C takes them: exact ints and floats, names checked, nested mappings flattened, None left out."""


def _batch_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Record:
    """The arguments of `log_batch_progress` by name, as Python would bind them.

    :raises TypeError: one is missing, or comes twice, or there are too many.
    """
    values = _bound("log_batch_progress", _BATCH_ARGUMENTS, args, kwargs)
    for name in _REQUIRED:
        if name not in values:
            call = f"log_batch_progress(epoch, batch, total_batches, loss, ...), but {name!r} is missing"
            raise TypeError(f"{name}: expected {call}")
    return values


def _performance_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Record:
    """The arguments of `log_performance_metrics` by name.

    :raises TypeError: one is missing, unknown, or comes twice.
    """
    values = _bound("log_performance_metrics", _PERFORMANCE_ARGUMENTS, args, kwargs)
    for name in values:
        if name not in _PERFORMANCE_ARGUMENTS:
            raise TypeError(f"{name}: expected log_performance_metrics(batch_time, data_time=None)")
    if values.get("batch_time") is None:
        raise TypeError(expected("batch_time", "seconds", None))
    return values


def _row_of(metrics: object) -> tuple[Mapping[str, Any], int]:
    """The values of one row, and its time in nanoseconds since 1970; 0 for now.

    :raises TypeError: `metrics` is neither a mapping nor a :class:`TrainingMetrics`, or its timestamp is no datetime.
    :raises ValueError: the timestamp is too far from today for 64 bits.
    """
    if isinstance(metrics, TrainingMetrics):
        time_ns = 0 if metrics.timestamp is None else _nanoseconds(metrics.timestamp)
        return {name: value for name, value in vars(metrics).items() if name != "timestamp"}, time_ns
    if not isinstance(metrics, Mapping):
        raise TypeError(expected("metrics", "a mapping or a TrainingMetrics", metrics))
    return metrics, 0


def log_batch(producer: Producer, session: Session, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Pushes one batch with the arguments of `log_batch_progress`; returns an `advlog_status`, ADVLOG_SLOW if the
    logger was closed meanwhile."""
    values = _batch_arguments(args, kwargs)
    for name in ("epoch", "batch"):
        if values[name] is None:
            raise TypeError(expected(name, "an integer", None))
    required = {name: values[name] for name in _REQUIRED}
    record = _converted({**required, **values}, session.parts.deferral)
    arguments = {**dict.fromkeys(_REQUIRED), **record}
    status = _push(producer, session, lambda: producer._try_batch(**arguments), record)
    for kind in map(type, values.values()):
        if hasattr(kind, "item") and hasattr(kind, "shape"):
            producer._learn_scalar(kind, defers(kind))  # the next call with such a value need not come here
    return status


def log_performance(producer: Producer, session: Session, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Pushes the times of one batch, given as to `log_performance_metrics`."""
    record = _converted(_performance_arguments(args, kwargs), session.parts.deferral)
    return _push(producer, session, lambda: producer._try_performance(**record), record)


def log_row(producer: Producer, session: Session, metrics: object, step: int | None) -> int:
    """Pushes one row of metrics.

    :raises ValueError: there is no value at all.
    """
    values, time_ns = _row_of(metrics)
    record = _converted(values, session.parts.deferral)
    if not record:
        raise ValueError(expected("metrics", "at least one value", metrics))
    if step is not None:
        record |= _converted({"step": step}, session.parts.deferral)
    return _push(producer, session, lambda: producer._try_record(lib.ADVLOG_KIND_METRICS, time_ns, record), record)


def log_memory(producer: Producer, session: Session, samples: list[MemorySample]) -> int:
    """Pushes a sample of memory, and adds it to `samples`."""
    sample = session.parts.sampler.usage()
    samples.append(sample)
    record, time_ns = sample.metrics(), sample.time_ns
    return _push(producer, session, lambda: producer._try_record(lib.ADVLOG_KIND_MEMORY, time_ns, record), record)


def _push(producer: Producer, session: Session, try_push: Callable[[], int], record: Mapping[str, Any]) -> int:
    """Pushes the record into the ring, or counts it as dropped. Returns an `advlog_status`: ADVLOG_SLOW if its names
    could not be learned because the logger was closed meanwhile.

    :raises ValueError: it has more metrics than a ring of this size can take, or the run has too many names.
    """
    entry, slots = session.entry, slots_for(len(record))
    while (status := entry.push(try_push, slots)) == lib.ADVLOG_SLOW:
        if not _learn_names(producer, entry, record):
            return status
    if status == lib.ADVLOG_TOO_LONG:
        wanted = f"fewer metrics in one call: the ring has {entry.slots} slots"
        raise ValueError(expected("metrics", wanted, len(record)))
    return status


def _learn_names(producer: Producer, entry: Entry, record: Mapping[str, Any]) -> bool:
    """Gives ids to the record's new names; returns False if the logger was closed meanwhile."""
    # All or none: a record that is refused must not use up what the next one needs.
    names = [name for name in record if name not in CORE_METRICS and name not in INTEGER_COLUMNS]
    fits = entry.has_room_for_names(names)
    for name in names:
        if not fits or not producer._learn(name):
            if entry.is_closed():
                return False
            wanted = f"at most {MAX_METRIC_NAMES} different names, of 64 KiB in all"
            raise ValueError(expected("metrics", wanted, name))
    return True


def _converted(values: Mapping[str, Any], deferral: Deferral | None) -> Record:
    """Returns the record in the form that C takes; a placeholder replaces each value on an accelerator until it
    arrives.

    :raises TypeError: a value is no number.
    :raises ValueError: a number is out of range, or a name cannot be a metric's.
    """
    record: Record = {}
    others: dict[str, Any] = {}
    defer = deferral is not None
    for name, value in values.items():
        if value is None:
            continue
        if name in INTEGER_COLUMNS:
            record[name] = step(name, value) if name == "step" else whole(name, value)
        elif name in CORE_METRICS:
            record[name] = number(name, value, defer=defer)
        else:
            others[name] = value
    if others:
        for name, value in metric_values("metrics", others, defer=defer).items():
            record[checked_metric_name(name)] = value
    tensors = {name: value for name, value in record.items() if is_deferrable(value)}
    if deferral is not None and tensors:
        record.update(zip(tensors, deferral.defer(list(tensors.values())) or (), strict=True))
    return record


def _bound(call: str, order: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Record:
    if len(args) > len(order):
        raise TypeError(f"{call}: expected at most {len(order)} positional arguments, got {len(args)}")
    values = dict(zip(order, args, strict=False))
    for name, value in kwargs.items():
        if name in values:
            raise TypeError(f"{name}: expected one value, got another by keyword in {call}(...)")
        values[name] = value
    return values


def _nanoseconds(timestamp: Any) -> int:
    """Returns nanoseconds since 1970; a naive time is local."""
    if not isinstance(timestamp, datetime):
        raise TypeError(expected("timestamp", "a datetime", timestamp))
    if timestamp.year in _YEARS:
        with contextlib.suppress(OverflowError, OSError, ValueError):
            return (timestamp.astimezone(timezone.utc) - _EPOCH) // _MICROSECOND * 1000
    raise ValueError(expected("timestamp", f"a time in the years {_YEARS[0]} to {_YEARS[-1]}", timestamp))
