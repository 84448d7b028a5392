"""Counts the records of an attempt of a rank again, from its files: what a drain that was killed knew of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .._native import ffi, lib
from ..engine.totals import quantiles_of
from ..reader.statistics import merged, statistics_of
from ..reader.steps import INTERVAL_COLUMN, Moment, with_intervals
from ..reader.stream_reader import StreamReader
from ..records import CORE_METRICS, INTEGER_COLUMNS, TIMES
from ..snapshots import EpochTotals, MetricStats, NonFinite, Quantiles, Totals
from ..store.paths import RunPaths

if TYPE_CHECKING:
    import pyarrow as pa

_WORDS = {math.inf: "inf", -math.inf: "-inf"}


@dataclass(frozen=True)
class Counted:
    """What the files hold of an attempt of a rank."""

    totals: Totals = field(default_factory=Totals)
    latest_ns: int = 0
    """The latest time of a record; 0 without any."""


def count(paths: RunPaths, attempt: int, epoch_from: int, jumps: Sequence[tuple[int, int]]) -> Counted:
    """Counts the records of this rank.

    :param epoch_from: the seq of the last record of the epochs that have ended.
    :param jumps: where the wall clock was set, as :func:`with_intervals` takes it.
    :raises OSError: a file cannot be read.
    """
    key = attempt, paths.rank
    metrics = _Stream(StreamReader(paths, "metrics", key))
    batches = _Batches(epoch_from, jumps)
    unresolved: Counter[str] = Counter()
    for batch in metrics.batches():
        batches.add(batch)
        entries = batch.column("unresolved").drop_null().to_pylist()
        unresolved.update(reason for row in entries for _, reason in row)
    system = _Stream(StreamReader(paths, "system", key))
    for _ in system.batches():
        pass
    last = metrics.integers
    statistics = metrics.statistics()
    of_samples = system.statistics()
    interval = _stats(merged(batches.intervals), batches.last_interval)
    quantiles = {name: metrics.quantiles(name, statistics) for name in TIMES}
    quantiles |= {f"performance/{name}": system.quantiles(name, of_samples) for name in TIMES}
    quantiles["step_interval"] = quantiles_of(batches.sketch, interval)
    totals = Totals(
        metric_records=metrics.records,
        system_records=system.records,
        last_epoch=last.get("epoch"),
        last_batch=last.get("batch"),
        last_total_batches=last.get("total_batches"),
        last_step=last.get("step"),
        last_time_ns=metrics.last_us * 1000,
        unresolved=dict(unresolved),
        metrics=statistics,
        system=of_samples,
        names=sum(name not in CORE_METRICS for name in statistics),
        step_interval=interval,
        epoch=batches.epoch(),
        quantiles=quantiles,
    )
    return Counted(totals, max(metrics.latest_us, system.latest_us) * 1000)


class _Stream:
    """The statistics of every metric of a stream."""

    def __init__(self, reader: StreamReader) -> None:
        self.reader = reader
        self.records = 0
        self.last_us = 0
        self.latest_us = 0
        self.integers: dict[str, int] = {}
        """The latest of each integer column that is not null: of the process itself, once it has logged a record."""
        self._has_own = False
        self._parts: dict[str, list[dict[str, Any]]] = {}
        self._last: dict[str, float] = {}
        self._first: dict[str, NonFinite] = {}
        self._sketches = {name: ffi.new("advlog_sketch *") for name in TIMES}

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yields the batches, each counted."""
        schema = self.reader.schema
        for key in self.reader.keys:
            for batch in self.reader.batches(key, schema):
                if batch.num_rows:
                    self._count(batch)
                    yield batch

    def _count(self, batch: pa.RecordBatch) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        self.records += batch.num_rows
        times = batch.column("timestamp").cast(pa.int64())
        self.last_us = times[-1].as_py()
        self.latest_us = max(self.latest_us, pc.max(times).as_py())
        self._keep_integers(batch)
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if column.type == pa.float64() and column.null_count < len(column):
                self._count_metric(name, column, batch)

    def _keep_integers(self, batch: pa.RecordBatch) -> None:
        import pyarrow.compute as pc

        own = batch.filter(pc.equal(batch.column("worker"), 0))
        if own.num_rows and not self._has_own:
            self._has_own, self.integers = True, {}
        said = own if self._has_own else batch
        for name in INTEGER_COLUMNS:
            if name in said.schema.names and len(given := said.column(name).drop_null()):
                self.integers[name] = given[-1].as_py()

    def _count_metric(self, name: str, column: pa.Array, batch: pa.RecordBatch) -> None:
        import pyarrow.compute as pc

        told = statistics_of(column)
        self._parts.setdefault(name, []).append(told)
        values = column.drop_null()
        self._last[name] = values[-1].as_py()
        if name in TIMES:
            _add(self._sketches[name], values)
        if name not in self._first and told["nan"] + told["posinf"] + told["neginf"]:
            at = pc.index(pc.fill_null(pc.is_finite(column), True), False).as_py()
            self._first[name] = _nonfinite(column[at].as_py(), batch, at)

    def statistics(self) -> dict[str, MetricStats]:
        """Those of the metrics that have a value."""
        found = {}
        for name, parts in self._parts.items():
            stats = _stats(merged(parts), self._last[name])
            found[name] = replace(stats, first_nonfinite=self._first.get(name))
        return found

    def quantiles(self, name: str, statistics: dict[str, MetricStats]) -> Quantiles:
        return quantiles_of(self._sketches[name], statistics.get(name, MetricStats()))


class _Batches:
    """The times between the batches, and the epoch that had not ended.

    A batch is known by its number: files do not tell a call without one from another row of metrics.
    """

    def __init__(self, epoch_from: int, jumps: Sequence[tuple[int, int]]) -> None:
        self._running: dict[int | None, _Running] = {}
        self.intervals: list[dict[str, Any]] = []
        self.last_interval = math.nan
        self.sketch = ffi.new("advlog_sketch *")
        self._epoch_from = epoch_from
        self._jumps = jumps
        self._before: Moment | None = None
        self._epoch_before: int | None = None
        self._latest: int | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        is_batch = pc.and_(pc.is_valid(batch.column("batch")), pc.equal(batch.column("worker"), 0))
        mine = batch.filter(is_batch)
        if not mine.num_rows:
            return
        columns = mine.select(["timestamp", "seq", "epoch", "batch_time"])
        timed, self._before = with_intervals(columns, self._before, self._jumps)
        epochs = mine.column("epoch")
        earlier = pa.concat_arrays([pa.array([self._epoch_before], pa.int32()), epochs.slice(0, len(epochs) - 1)])
        follows = pc.or_(pc.is_null(epochs), pc.fill_null(pc.equal(epochs, earlier), False))
        counts = pc.and_(follows, pc.is_null(mine.column("batch_time")))
        seconds = timed.column(INTERVAL_COLUMN).filter(counts).drop_null()
        if len(seconds):
            self.intervals.append(statistics_of(seconds))
            self.last_interval = seconds[-1].as_py()
            _add(self.sketch, seconds)
        self._epoch_before = epochs[-1].as_py()
        self._add_epoch(mine.filter(pc.greater(mine.column("seq"), self._epoch_from)))

    def _add_epoch(self, rows: pa.RecordBatch) -> None:
        import pyarrow.compute as pc

        if not rows.num_rows:
            return
        of = rows.column("epoch")
        self._latest = of[-1].as_py()
        mine = rows.filter(pc.is_null(of) if self._latest is None else pc.equal(of, self._latest))
        self._running.setdefault(self._latest, _Running()).add(mine)

    def epoch(self) -> EpochTotals | None:
        """The epoch of the latest batch, as far as it had not ended."""
        running = self._running.get(self._latest)
        return None if running is None else running.totals(self._latest)


@dataclass
class _Running:
    """An epoch that has not ended."""

    records: int = 0
    numbers: list[int] = field(default_factory=list)
    """The first batch and the last one."""
    micros: list[int] = field(default_factory=list)
    """Their times."""
    amounts: dict[str, float] = field(default_factory=lambda: {"samples": 0.0, "tokens": 0.0})

    def add(self, rows: pa.RecordBatch) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        self.records += rows.num_rows
        for ends, name in ((self.numbers, "batch"), (self.micros, "timestamp")):
            values = rows.column(name).cast(pa.int64())
            ends[:] = [ends[0] if ends else values[0].as_py(), values[-1].as_py()]
        for name in self.amounts:
            if name in rows.schema.names:
                self.amounts[name] += pc.sum(rows.column(name)).as_py() or 0.0

    def totals(self, epoch: int | None) -> EpochTotals:
        first, last = self.numbers
        # Where only every n-th batch is logged, each stands for n.
        between = max(last - first, self.records - 1)
        stride = between / (self.records - 1) if self.records > 1 else 1.0
        return EpochTotals(
            epoch=0 if epoch is None else epoch,
            batches=between + round(stride),
            first_ns=self.micros[0] * 1000,
            last_ns=self.micros[1] * 1000,
            samples=self.amounts["samples"] * stride,
            tokens=self.amounts["tokens"] * stride,
            loss=MetricStats(),
            accuracy=MetricStats(),
            first_batches=round(stride),
        )


def _nonfinite(value: float, batch: pa.RecordBatch, at: int) -> NonFinite:
    names = batch.schema.names
    where = {name: batch.column(name)[at].as_py() if name in names else None for name in ("step", "epoch", "batch")}
    return NonFinite(
        value=_WORDS.get(value, "nan"),
        seq=batch.column("seq")[at].as_py(),
        time_ns=batch.column("timestamp")[at].value * 1000,
        **where,
    )


def _stats(told: dict[str, Any], last: float) -> MetricStats:
    classes = {name: told[name] for name in ("nan", "posinf", "neginf")}
    moments = {name: told[name] for name in ("mean", "std", "min", "max")}
    return MetricStats(count=told["count"], last=last, **moments, **classes)


def _add(sketch: Any, values: pa.Array) -> None:
    data = values.buffers()[1]
    if data is not None and len(values):
        address = data.address + values.offset * 8
        lib.advlog_sketch_add_all(sketch, ffi.cast("const double *", address), len(values))
