"""Copies the drain's counts out of C; stats.c and totals.c count."""

from __future__ import annotations

import math
from typing import Any

from .._native import ffi, lib
from ..records import CORE_METRICS, UNRESOLVED
from ..snapshots import EpochTotals, MetricStats, NonFinite, Quantiles, Totals
from .ring import Ring

LISTED_NAMES = 2000
"""Metrics beside the built-in ones whose statistics are read: the first ones that were used."""

SKETCHES = ("batch_time", "data_time", "step_interval", "performance/batch_time", "performance/data_time")
"""The times that have quantiles, in the order of the C core."""

_NONFINITE = {lib.ADVLOG_NAN: "nan", lib.ADVLOG_POSINF: "inf", lib.ADVLOG_NEGINF: "-inf"}


def read_totals(drain: Any, ring: Ring) -> Totals:
    """Returns what a drain has counted of its ring, as of one moment.

    :param drain: the C drain.
    """
    c = ffi.new("advlog_totals *")
    lib.advlog_drain_totals(drain, c)
    names = ring.names(min(c.names, LISTED_NAMES))
    present = c.last_present
    epochs = [_epoch(epoch) for epoch in c.epoch if epoch.seen]
    metrics = _by_name(drain, lib.ADVLOG_STREAM_METRICS, c.core, names)
    system = _by_name(drain, lib.ADVLOG_STREAM_SYSTEM, c.system_core, names)
    step_interval = _stats(c.step_interval)
    return Totals(
        pending=max(sum(map(ring.accepted, range(lib.ADVLOG_STREAMS))) - sum(c.records), 0),
        metric_records=c.records[lib.ADVLOG_STREAM_METRICS],
        system_records=c.records[lib.ADVLOG_STREAM_SYSTEM],
        event_records=c.records[lib.ADVLOG_STREAM_EVENTS],
        last_epoch=c.last_epoch if present & lib.ADVLOG_HAS_EPOCH else None,
        last_batch=c.last_batch if present & lib.ADVLOG_HAS_BATCH else None,
        last_total_batches=c.last_total if present & lib.ADVLOG_HAS_TOTAL else None,
        last_step=c.last_step if present & lib.ADVLOG_HAS_STEP else None,
        max_step=c.max_step if present & lib.ADVLOG_HAS_STEP else None,
        last_time_ns=c.last_ns,
        unresolved={reason: int(c.unresolved[at]) for at, reason in enumerate(UNRESOLVED) if at},
        metrics=metrics,
        system=system,
        names=c.names,
        step_interval=step_interval,
        epoch=epochs[0] if epochs else None,
        epochs=_by_number(c),
        quantiles={
            name: quantiles_of(ffi.addressof(c.sketch[i]), of)
            for i, (name, of) in enumerate(zip(SKETCHES, _timed(metrics, system, step_interval), strict=True))
        },
    )


def metric_of(number: int, ring: Ring) -> str:
    """The name of a metric: a name's id, or -1 - i for built-in metric i."""
    return CORE_METRICS[-1 - number] if number < 0 else ring.name(number)


def _by_name(drain: Any, stream: int, core: Any, names: list[str]) -> dict[str, MetricStats]:
    """The metrics of a stream that had a value: the built-in ones, then the others."""
    stats = {name: _stats(core[i]) for i, name in enumerate(CORE_METRICS) if _seen(core[i])}
    if names:
        c = ffi.new("advlog_stat[]", len(names))
        lib.advlog_drain_name_stats(drain, stream, 0, len(names), c)
        stats.update((name, _stats(c[i])) for i, name in enumerate(names) if _seen(c[i]))
    return stats


def _seen(stat: Any) -> bool:
    return bool(stat.count or stat.nan or stat.posinf or stat.neginf)


def _stats(stat: Any) -> MetricStats:
    if not _seen(stat):
        return MetricStats()
    return MetricStats(
        count=stat.count,
        mean=stat.mean if stat.count else math.nan,
        std=math.sqrt(stat.m2 / stat.count) if stat.count else math.nan,
        min=stat.min,
        max=stat.max,
        last=stat.last,
        nan=stat.nan,
        posinf=stat.posinf,
        neginf=stat.neginf,
        first_nonfinite=nonfinite_of(stat) if stat.bad_class else None,
    )


def nonfinite_of(stat: Any) -> NonFinite:
    """The first value of an `advlog_stat` that was not finite."""
    present = stat.bad_present
    return NonFinite(
        value=_NONFINITE[stat.bad_class],
        seq=stat.bad_seq,
        step=stat.bad_step if present & lib.ADVLOG_HAS_STEP else None,
        epoch=stat.bad_epoch if present & lib.ADVLOG_HAS_EPOCH else None,
        batch=stat.bad_batch if present & lib.ADVLOG_HAS_BATCH else None,
        time_ns=stat.bad_time_ns,
    )


def _by_number(c: Any) -> dict[int, EpochTotals]:
    """The epochs by their numbers: of those of one number that with the most batches, for another may be an evaluation
    within it."""
    found: dict[int, Any] = {}
    for epoch in c.epoch:
        if epoch.seen and (epoch.epoch not in found or epoch.total > found[epoch.epoch].total):
            found[epoch.epoch] = epoch
    return {number: _epoch(epoch) for number, epoch in found.items()}


def _epoch(epoch: Any) -> EpochTotals:
    counts = epoch.batches if epoch.moved else epoch.records
    return EpochTotals(
        epoch=epoch.epoch,
        batches=counts,
        first_ns=epoch.first_ns,
        last_ns=epoch.last_ns,
        samples=epoch.samples if epoch.moved else epoch.logged_samples,
        tokens=epoch.tokens if epoch.moved else epoch.logged_tokens,
        loss=_stats(epoch.loss),
        accuracy=_stats(epoch.accuracy),
        first_batches=min(epoch.first_batches if epoch.moved else 1, counts),
        left=epoch.left,
    )


def _timed(
    metrics: dict[str, MetricStats], system: dict[str, MetricStats], step_interval: MetricStats
) -> tuple[MetricStats, ...]:
    """The statistics of the times that have quantiles, in the order of SKETCHES."""
    nothing = MetricStats()
    of_batches = [metrics.get(name, nothing) for name in ("batch_time", "data_time")]
    return *of_batches, step_interval, *(system.get(name, nothing) for name in ("batch_time", "data_time"))


def quantiles_of(sketch: Any, of: MetricStats) -> Quantiles:
    # The middle of a bucket may lie outside of what it holds.
    found = (lib.advlog_sketch_quantile(sketch, q) for q in (0.5, 0.9, 0.99))
    return Quantiles(*(q if math.isnan(q) or math.isnan(of.min) else min(max(q, of.min), of.max) for q in found))
