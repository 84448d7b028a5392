"""The summary of a run."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..snapshots import Health, MetricStats, NonFinite, Quantiles, Totals
from ..store.files import check_folder, check_own, write_whole
from ..store.ranks import RunIdentity
from .epochs import Epochs
from .readable import strict_json
from .text import time_text
from .training import TrainingState

BOTTLENECK_SHARE = 0.3
"""Waiting for data above this share of the time is named a bottleneck."""


def build_summary(
    run: RunIdentity,
    state: TrainingState,
    *,
    totals: Totals,
    health: Health,
    memory: Mapping[str, Any],
    errors: Mapping[str, Any],
    recoveries: Mapping[str, Any],
    contexts: Mapping[str, Any],
    group: str | None = None,
    tags: Sequence[str] = (),
) -> dict[str, Any]:
    """The summary, which shares nothing with what it was made from. Its cost does not depend on the number of
    records.

    `total_metrics`, `total_errors`, `training_duration` (h:mm:ss), `loss_stats` and `accuracy_stats` (NaN
    where there is no value) come first. Durations end in `_s`; `pending` are records that are not
    counted here yet.
    """
    summary: dict[str, Any] = {
        "total_metrics": totals.metric_records,
        "total_errors": errors["total"],
        "training_duration": duration_text(int(state.duration_s)),
        "loss_stats": _four(totals.metrics.get("loss")),
        "accuracy_stats": _four(totals.metrics.get("accuracy")),
        "experiment": run.name,
        "group": group,
        "tags": list(tags),
        "run_id": run.run_id,
        "status": state.status,
        "attempt": run.attempt,
        "rank": run.rank,
        "world_size": run.world_size,
        "host": run.host,
        "pid": run.pid,
        "started_at": time_text(state.started_ns),
        "ended_at": None if state.ended_ns is None else time_text(state.ended_ns),
        "duration_s": round(state.duration_s, 6),
        "resumed_from": state.resumed_from,
        "signals": state.signals,
        "config": state.config,
        "hyperparameters": state.hyperparameters,
        "model": state.model,
        "best": state.best,
        "last": _last(totals),
        "final_metrics": state.final_metrics,
        "metrics": {name: _all(stats) for name, stats in totals.metrics.items()},
        "metric_names": totals.names,
        "system": {name: _all(stats) for name, stats in totals.system.items()},
        "performance": performance(totals, state.epochs),
        "epochs": list(state.epochs.finished),
        "epochs_finished": state.epochs.count,
        "validations": state.validations,
        "errors": {name: value for name, value in errors.items() if name != "total"},
        "misuse": {name: dataclasses.asdict(count) for name, count in health.misuse.items()},
        "recoveries": recoveries,
        "contexts": contexts,
        "milestones": state.milestones,
        "memory": memory,
        "accounting": dataclasses.asdict(dataclasses.replace(_plain_health(health), status=state.status)),
        "overhead": overhead(totals, health, state.duration_s),
        "provenance": state.provenance,
        "pending": totals.pending,
    }
    return copy.deepcopy(summary)


def duration_text(seconds: int) -> str:
    """`1 day, 2:03:04`."""
    # As str() of a timedelta; making one crashes some 3.13 in the last destructors.
    days, rest = divmod(seconds, 86_400)
    day = "" if days == 0 else "1 day, " if days == 1 else f"{days} days, "
    return f"{day}{rest // 3600}:{rest // 60 % 60:02}:{rest % 60:02}"


def overhead(totals: Totals, health: Health, duration_s: float) -> dict[str, Any]:
    """Returns what logging the batches cost, in seconds: all calls of `log_batch_progress`, from the few that were
    timed, and their waits for a full ring; their share of the run; and the CPU time of the threads in the background.
    NaN where no call was timed yet. What writes at once, such as an event or an epoch's end, is not in it."""
    calls_s = totals.metric_records * health.call.mean_s + health.call.stalled_s
    return {
        "timed": health.call.timed,
        "call_s": health.call.mean_s,
        "calls_s": calls_s,
        "calls_share": calls_s / duration_s if duration_s > 0 else math.nan,
        "stalls": health.call.stalls,
        "stalled_s": health.call.stalled_s,
        "background_cpu_s": health.drain_cpu_s + health.sealer_cpu_s,
    }


def performance(totals: Totals, epochs: Epochs) -> dict[str, Any]:
    """Times of a batch, rates, and whether the training waits for data.

    `batch_time` is taken as a whole batch, its wait for data included; where the waits are longer than that,
    as the computation alone. Without it the time from one batch record to the next stands in. The rates are
    over the epochs, the running one included, or else over the records of the latest epoch.
    """
    batch, batch_quantiles = _times("batch_time", totals)
    data, data_quantiles = _times("data_time", totals)
    interval = totals.step_interval
    result: dict[str, Any] = {
        "batch_time": _time_summary(batch, batch_quantiles),
        "data_time": _time_summary(data, data_quantiles),
        "step_interval": _time_summary(interval, totals.quantiles.get("step_interval")),
        "data_wait_share": math.nan,
        "bottleneck": None,
        "bottleneck_detail": None,
        "batches_per_s": math.nan,
        "samples_per_s": math.nan,
        "tokens_per_s": math.nan,
    }
    whole = batch if batch.count else interval
    if data.count and whole.count and whole.mean > 0:
        share = data.mean / whole.mean if data.mean <= whole.mean else data.mean / (data.mean + whole.mean)
        result["data_wait_share"] = share
        if share > BOTTLENECK_SHARE:
            result["bottleneck"] = "data loading"
            result["bottleneck_detail"] = (
                f"Training waits for data {share:.0%} of the time, {data.mean:.4g} s a batch on average: "
                "more loader workers, prefetching or faster storage would help."
            )
    result.update(epochs.rates(totals.epoch))
    return result


def _times(name: str, totals: Totals) -> tuple[MetricStats, Quantiles | None]:
    """Returns the statistics of a time, from the batch records or from the performance records if these have more
    values."""
    batches = totals.metrics.get(name, MetricStats())
    measured = totals.system.get(f"performance/{name}") or totals.system.get(name) or MetricStats()
    if measured.count > batches.count:
        return measured, totals.quantiles.get(f"performance/{name}")
    return batches, totals.quantiles.get(name)


def _four(stats: MetricStats | None) -> dict[str, float]:
    stats = stats or MetricStats()
    return {"min": stats.min, "max": stats.max, "mean": stats.mean, "std": stats.std}


def _all(stats: MetricStats) -> dict[str, Any]:
    return {
        "count": stats.count,
        **_four(stats),
        "last": stats.last,
        "nan": stats.nan,
        "posinf": stats.posinf,
        "neginf": stats.neginf,
        "first_nonfinite": first_nonfinite(stats.first_nonfinite),
    }


def first_nonfinite(first: NonFinite | None) -> dict[str, Any] | None:
    """Returns where a metric first was not finite: `value`, `seq`, `step`, `epoch`, `batch`, `timestamp`."""
    if first is None:
        return None
    where = {name: getattr(first, name) for name in ("value", "seq", "step", "epoch", "batch")}
    return {**where, "timestamp": time_text(first.time_ns)}


def _time_summary(stats: MetricStats, quantiles: Quantiles | None) -> dict[str, float]:
    quantiles = quantiles or Quantiles()
    return {"count": stats.count, **_four(stats), **dataclasses.asdict(quantiles)}


def _last(totals: Totals) -> dict[str, Any]:
    last: dict[str, Any] = {
        "epoch": totals.last_epoch,
        "batch": totals.last_batch,
        "total_batches": totals.last_total_batches,
        "step": totals.last_step,
        "timestamp": time_text(totals.last_time_ns) if totals.last_time_ns else None,
    }
    for name, stats in totals.metrics.items():
        if name not in last:
            last[name] = stats.last
    return last


def _plain_health(health: Health) -> Health:
    """The health with dicts for its mappings, which may be of a kind that cannot be copied."""
    return dataclasses.replace(
        health,
        dropped_at_entry=dict(health.dropped_at_entry),
        sinks=dict(health.sinks),
        unresolved=dict(health.unresolved),
        hook_faults=dict(health.hook_faults),
        gpu_values=dict(health.gpu_values),
        misuse={},
        entries_lost=dict(health.entries_lost),
    )


def write_summary(path: Path, summary: Mapping[str, Any], temporary: Path, *, sync: bool = False) -> bool:
    """Replaces the file at `path` by the summary, in one step for any reader; NaN and the infinities become
    null.

    `temporary` is a folder on the same file system, made where it is missing. Never raises for a fault of the
    disk: False then, and the old file stands.
    """
    # A folder of logs that the user removed is not for the summary to make again.
    if not path.parent.is_dir():
        return False
    text = strict_json(_null_nonfinite(summary), indent=2) + "\n"
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        check_folder(temporary)
        if os.path.lexists(path):
            check_own(os.lstat(path), path)
        write_whole(path, text.encode(), folder=temporary, sync=sync)
    except OSError:
        return False
    return True


def _null_nonfinite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _null_nonfinite(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_null_nonfinite(item) for item in value]
    return value
