"""The slow path of a record into the ring: converts values that C does not take as they are, then makes the same C call
again, so that a record has one way into the ring.

csrc/producer.c comes here through `_log_batch_slowly` and its neighbours in logger.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, Protocol

from .._native import Producer, lib
from .._tensors import defers, is_deferrable
from ..checks import INT64_MAX, Intake, has_plain_item, mapping, names_are_full, no_room_for_name
from ..exceptions import expected
from ..records import CORE_METRICS, INTEGER_COLUMNS, TrainingMetrics
from ..sampling.memory_sampler import MemorySample, MemorySampler
from .deferred import Deferral
from .entry import Entry
from .ring import slots_for

_BATCH_ARGUMENTS = ("epoch", "batch", "total_batches", *CORE_METRICS, "step")
_REQUIRED = ("epoch", "batch", "total_batches", "loss")
_INTEGERS = frozenset(INTEGER_COLUMNS)
_ROW_ARGUMENTS = ("metrics", "step")
_PERFORMANCE_ARGUMENTS = ("batch_time", "data_time")
_YEARS = range(1678, 2262)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
_TURNS = 4
"""Pushes of one record at most: as it is; with its new names learned; without those that found no room; and one more,
should the logger be bound to another ring meanwhile."""


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


def _row_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Record:
    """The arguments of `log_metrics` by name.

    :raises TypeError: one is missing, unknown, or comes twice.
    """
    values = _bound("log_metrics", _ROW_ARGUMENTS, args, kwargs)
    _no_others("log_metrics(metrics, step=None)", _ROW_ARGUMENTS, values)
    if "metrics" not in values:
        raise TypeError("metrics: expected log_metrics(metrics, step=None), but 'metrics' is missing")
    return values


def _performance_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Record:
    """The arguments of `log_performance_metrics` by name.

    :raises TypeError: one is missing, unknown, or comes twice.
    """
    values = _bound("log_performance_metrics", _PERFORMANCE_ARGUMENTS, args, kwargs)
    _no_others("log_performance_metrics(batch_time, data_time=None)", _PERFORMANCE_ARGUMENTS, values)
    if "batch_time" not in values:
        raise TypeError(expected("batch_time", "seconds", None))
    return values


def _row_of(metrics: object, intake: Intake) -> tuple[Mapping[str, Any], int]:
    """The values of one row, and its time in nanoseconds since 1970; 0 for now.

    :raises TypeError: `metrics` is neither a mapping nor a :class:`TrainingMetrics`.
    """
    if isinstance(metrics, TrainingMetrics):
        values = dict(vars(metrics))
        return values, _nanoseconds(values.pop("timestamp", None), intake)
    if metrics is None:
        return {}, 0
    try:
        return mapping("metrics", metrics), 0
    except TypeError:
        raise TypeError(expected("metrics", "a mapping or a TrainingMetrics", metrics)) from None


def log_batch(producer: Producer, session: Session, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Pushes one batch with the arguments of `log_batch_progress`; returns the last `advlog_status`, ADVLOG_OFF or
    ADVLOG_CLOSED if the logger was closed meanwhile."""
    values = _batch_arguments(args, kwargs)
    row = _Row(producer, session)
    # The required ones stand first, so that a record is the same however its call was written.
    row.take({**{name: values[name] for name in _REQUIRED}, **values})
    status = row.push(lib.ADVLOG_KIND_BATCH, 0)
    _learn_scalars(producer, values)
    row.report()
    return status


def _learn_scalars(producer: Producer, values: Mapping[Any, Any]) -> None:
    """Has the next call with values of these kinds not come here."""
    with contextlib.suppress(Exception):  # a mapping or an object of the user's
        for kind in {type(value) for value in values.values()} - {float, int, str, bool}:
            if has_plain_item(kind):
                producer._learn_scalar(kind, defers(kind))


def log_performance(producer: Producer, session: Session, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Pushes the times of one batch, given as to `log_performance_metrics`."""
    row = _Row(producer, session)
    row.take(_performance_arguments(args, kwargs))
    status = row.push(lib.ADVLOG_KIND_PERFORMANCE, 0)
    row.report()
    return status


def log_row(producer: Producer, session: Session, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Pushes one row of metrics, given as to `log_metrics`; nothing if it has no value.

    :raises TypeError: an argument is missing or unknown, or `metrics` is neither a mapping nor a
        :class:`TrainingMetrics`.
    """
    arguments = _row_arguments(args, kwargs)
    row = _Row(producer, session)
    values, time_ns = _row_of(arguments["metrics"], row.intake)
    row.take(values)
    row.take({"step": arguments.get("step")})
    status = row.push(lib.ADVLOG_KIND_METRICS, time_ns)
    _learn_scalars(producer, values)
    row.report()
    return status


def log_memory(producer: Producer, session: Session, samples: list[MemorySample]) -> int:
    """Pushes a sample of memory, and adds it to `samples`."""
    sample = session.parts.sampler.usage()
    samples.append(sample)
    row = _Row(producer, session)
    row.record.update(sample.metrics())
    return row.push(lib.ADVLOG_KIND_MEMORY, sample.time_ns)


class _Row:
    """One call's record, and the misuses found in it.

    :ivar record: its values in the form that C takes; a placeholder replaces each value on an accelerator until it
        arrives.
    """

    def __init__(self, producer: Producer, session: Session) -> None:
        self.record: Record = {}
        self.intake = Intake()
        self._producer = producer
        self._entry = session.entry
        self._deferral = session.parts.deferral

    def take(self, values: Mapping[Any, Any]) -> None:
        """Takes the values in, those that can be logged."""
        record, intake, defer = self.record, self.intake, self._deferral is not None
        given: set[str] = set()
        for name, value in intake.entries("metrics", values):
            if name in INTEGER_COLUMNS:
                self._take_integer(name, value)
                continue
            core = name in CORE_METRICS
            shown = name if core else f"metrics[{name!r}]"
            if name in given:
                intake.refuse(name, "duplicate", "each name once, nested ones written with '/'", value, shown)
            elif core or intake.metric_name(name):
                given.add(name)
                taken = intake.number(name, value, shown, defer=defer)
                if taken is not None:
                    record[name] = taken
        self._defer()

    def _take_integer(self, name: str, value: object) -> None:
        taken: int | None
        if name == "epoch":
            taken, progress = self.intake.epoch(value)
            if progress is not None:
                self.record.setdefault("epoch_progress", progress)
        elif name == "total_batches":
            taken = self.intake.total(name, value)
        elif name == "step":
            taken = self.intake.integer(name, value, -INT64_MAX - 1, INT64_MAX)
        else:
            taken = self.intake.integer(name, value)
        if taken is not None:
            self.record[name] = taken

    def _defer(self) -> None:
        tensors = {name: value for name, value in self.record.items() if is_deferrable(value)}
        if self._deferral is None or not tensors:
            return
        values = self._deferral.defer(list(tensors.values()))
        if values is not None:
            self.record.update(zip(tensors, values, strict=True))
            return
        for name, tensor in tensors.items():  # a subclass that says another size now
            del self.record[name]
            self.intake.refuse(name, "type", "a number", tensor)

    def push(self, kind: int, time_ns: int) -> int:
        """Pushes the record into the ring, or counts it as dropped. A record with more metrics than one can have
        becomes several, with the same integers. Returns the last `advlog_status`, never ADVLOG_SLOW.

        :param time_ns: the time of the record; 0 for now.
        """
        status = int(lib.ADVLOG_OK)
        for part in self._split():
            if status == lib.ADVLOG_OK:  # where one part was dropped, the others would say of what is not there
                status = self._push_one(kind, time_ns, part)
            if kind == lib.ADVLOG_KIND_BATCH:
                kind = lib.ADVLOG_KIND_METRICS  # the batch is counted
        return status

    def report(self) -> None:
        """Has the misuses counted, said, and raised if the user asked for that."""
        if self.intake.misuses:
            self._entry.misuse.take(self.intake.misuses, self._entry.steps.of(self.record))

    def _split(self) -> list[Record]:
        most, record = self._entry.most_metrics, self.record
        if len(record) <= most:
            return [record]
        integers = {name: record[name] for name in INTEGER_COLUMNS if name in record}
        core = {name: record[name] for name in CORE_METRICS if name in record}
        others = [name for name in record if name not in integers and name not in core]
        parts = [others[first : first + most] for first in range(0, len(others), most)] or [[]]
        records = [{**integers, **{name: record[name] for name in part}} for part in parts]
        records[0] = {**integers, **core, **records[0]}
        return records

    def _push_one(self, kind: int, time_ns: int, record: Record) -> int:
        """Pushes a record; not one without a value, unless it is a batch."""

        def try_push() -> int:
            status = self._producer._try_record(kind, time_ns, record)
            if status == lib.ADVLOG_STEPS:
                self._entry.steps.settle(self._producer, record)
                status = self._producer._try_record(kind, time_ns, record)
            return status

        for turn in range(_TURNS):
            if kind != lib.ADVLOG_KIND_BATCH and record.keys() <= _INTEGERS:
                return int(lib.ADVLOG_OK)
            status = self._entry.push(try_push, slots_for(len(record)))
            if status not in (lib.ADVLOG_SLOW, lib.ADVLOG_STEPS):
                return status
            self._learn_names(record, last=turn > 0)
        self._entry.count_drop("full")
        return int(lib.ADVLOG_FULL)

    def _learn_names(self, record: Record, *, last: bool) -> None:
        """Gives ids to the record's new names, and leaves out the values for whose names there is no room.

        :param last: leaves out the names without room for now, too; else they are tried once more.
        """
        learned = {name: self._producer._learn(name) for name in _metrics_beside_the_core(record)}
        full = [name for name, known in learned.items() if known is False]
        not_now = [name for name, known in learned.items() if known is None and last]
        for name in full:
            names_are_full(self.intake, name)
        for name in not_now:
            no_room_for_name(self.intake, name)
        for name in (*full, *not_now):
            del record[name]
        if full and not self._entry.misuse.raises:
            self._producer._skip_new_names()  # from here on C counts them


def _metrics_beside_the_core(record: Iterable[str]) -> list[str]:
    return [name for name in record if name not in CORE_METRICS and name not in INTEGER_COLUMNS]


def _bound(call: str, order: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Record:
    if len(args) > len(order):
        raise TypeError(f"{call}: expected at most {len(order)} positional arguments, got {len(args)}")
    values = dict(zip(order, args, strict=False))
    for name, value in kwargs.items():
        plain = str.__str__(name)
        if plain in values:
            raise TypeError(f"{plain}: expected one value, got another by keyword in {call}(...)")
        values[plain] = value
    return values


def _no_others(call: str, order: tuple[str, ...], values: Record) -> None:
    for name in values:
        if name not in order:
            raise TypeError(f"{name}: expected {call}")


def _nanoseconds(timestamp: Any, intake: Intake) -> int:
    """Returns nanoseconds since 1970; a naive time is local. 0 is the time of the call."""
    if timestamp is None:
        return 0
    with contextlib.suppress(Exception):  # a time zone may be the user's
        if not isinstance(timestamp, datetime):
            intake.refuse("timestamp", "type", "a datetime", timestamp)
            return 0
        if timestamp.year in _YEARS:
            return (timestamp.astimezone(timezone.utc) - _EPOCH) // _MICROSECOND * 1000
    intake.refuse("timestamp", "range", f"a time in the years {_YEARS[0]} to {_YEARS[-1]}", timestamp)
    return 0
