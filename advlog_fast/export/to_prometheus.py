"""The state of a run as a text file for Prometheus, such as node_exporter's textfile collector reads."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..store.files import write_whole
from ..store.paths import local_path
from .records import metric_columns
from .targets import Run, Target

if TYPE_CHECKING:
    import pyarrow as pa

_WINDOW_S = 60.0
_DROPPED_S = 10.0
"""A summary, which counts what was dropped, is written as often."""
_HELP = {
    "last": ("gauge", "The newest value of a metric."),
    "min": ("gauge", "The lowest finite value of the last one to two minutes."),
    "max": ("gauge", "The highest finite value of the last one to two minutes."),
    "values_total": ("counter", "Values of a metric."),
    "nonfinite_total": ("counter", "Values of a metric that are NaN or infinite."),
}


def connect(place: str, run: Run) -> TextFile:
    """Return the target of a file; see `Destination.connect`."""
    return TextFile(local_path("--to", place), run)


@dataclass
class _Metric:
    last: float = math.nan
    values: int = 0
    nonfinite: int = 0
    low: float = math.inf
    high: float = -math.inf
    low_before: float = math.inf
    high_before: float = -math.inf

    def shown(self) -> dict[str, float]:
        low, high = min(self.low, self.low_before), max(self.high, self.high_before)
        if low > high:  # nothing finite came of late: a graph stays where it was
            low = high = self.last
        counts = {"values_total": self.values, "nonfinite_total": self.nonfinite}
        return {"last": self.last, "min": low, "max": high, **counts}


class TextFile(Target):
    """Replaces the file whenever rows came. A scrape sees the newest value alone, so the extremes stand beside it."""

    takes_columns = True

    def __init__(self, path: Path, run: Run) -> None:
        self._path = path
        self._run = run
        self._metrics: dict[tuple[int, str], _Metric] = {}
        self._rows: dict[int, int] = {}
        self._newest: dict[int, tuple[int, float]] = {}
        """For each rank the time of its newest row in µs, and how late it came, in seconds."""
        self._window_at = time.monotonic()
        self._dropped: dict[int, int] = {}
        self._dropped_at = -math.inf

    def resume(self, memory: Mapping[str, Any] | None) -> bool:
        self._metrics, self._rows, self._newest = {}, {}, {}
        if memory is not None:
            self._rows = dict(memory["rows"])
            self._newest = {rank: (time_us, lag_s) for rank, time_us, lag_s in memory["newest"]}
            for rank, name, last, values, nonfinite in memory["metrics"]:
                self._metrics[rank, name] = _Metric(float.fromhex(last), values, nonfinite)
        return True

    def memory(self) -> dict[str, Any]:
        metrics = [
            [rank, name, each.last.hex(), each.values, each.nonfinite] for (rank, name), each in self._metrics.items()
        ]
        newest = [[rank, *times] for rank, times in self._newest.items()]
        return {"rows": list(self._rows.items()), "newest": newest, "metrics": metrics}

    def add(self, batch: pa.RecordBatch) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        self._renew_window()
        rank, last = batch.column("rank")[0].as_py(), batch.num_rows - 1
        self._rows[rank] = self._rows.get(rank, 0) + batch.num_rows
        time_us = batch.column("timestamp").cast(pa.int64())[last].as_py()
        self._newest[rank] = time_us, max(time.time() - time_us / 1e6, 0.0)
        for name in metric_columns(batch):
            values = batch.column(name).drop_null()
            if not len(values):
                continue
            metric = self._metrics.setdefault((rank, name), _Metric())
            finite = values.filter(pc.is_finite(values))
            metric.last = values[len(values) - 1].as_py()
            metric.values += len(values)
            metric.nonfinite += len(values) - len(finite)
            if len(finite):
                ends = pc.min_max(finite)
                metric.low = min(metric.low, ends["min"].as_py())
                metric.high = max(metric.high, ends["max"].as_py())

    def _renew_window(self) -> None:
        now = time.monotonic()
        if now - self._window_at >= _WINDOW_S:
            self._window_at = now
            for metric in self._metrics.values():
                metric.low_before, metric.high_before = metric.low, metric.high
                metric.low, metric.high = math.inf, -math.inf

    def accept(self) -> bool:
        write_whole(self._path, self._text().encode())
        return True

    def _text(self) -> str:
        lines: list[str] = []

        def family(name: str, kind: str, text: str, samples: Iterable[tuple[Mapping[str, object], float]]) -> None:
            shown = [f"{name}{self._labels(labels)} {_number(value)}" for labels, value in samples]
            if shown:
                lines.extend([f"# HELP {name} {text}", f"# TYPE {name} {kind}", *shown])

        shown = {key: metric.shown() for key, metric in self._metrics.items()}
        for name, (kind, text) in _HELP.items():
            samples = [({"rank": rank, "metric": metric}, each[name]) for (rank, metric), each in shown.items()]
            family(f"advlog_metric_{name}", kind, text, samples)
        newest = self._newest.items()
        family("advlog_rows_total", "counter", "Rows of a rank.", [({"rank": r}, n) for r, n in self._rows.items()])
        times = [({"rank": rank}, time_us / 1e6) for rank, (time_us, _) in newest]
        family("advlog_last_row_timestamp_seconds", "gauge", "When a rank logged its newest row.", times)
        lags = [({"rank": rank}, lag_s) for rank, (_, lag_s) in newest]
        family("advlog_lag_seconds", "gauge", "How long after its call the newest row of a rank was read.", lags)
        family("advlog_dropped_total", "counter", "Records that a rank could not take in.", self._drops())
        return "\n".join([*lines, ""])

    def _drops(self) -> list[tuple[dict[str, object], float]]:
        now = time.monotonic()
        if now - self._dropped_at >= _DROPPED_S:
            self._dropped_at, self._dropped = now, dict(self._run.dropped())
        return [({"rank": rank}, count) for rank, count in sorted(self._dropped.items())]

    def _labels(self, labels: Mapping[str, object]) -> str:
        pairs = {"run": self._run.name, **labels}
        return "{" + ",".join(f'{name}="{_escaped(str(value))}"' for name, value in pairs.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)
