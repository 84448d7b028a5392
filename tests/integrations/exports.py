"""Runs that are exported, and what the targets then hold, as each target's own reader tells it."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from advlog_fast import AdvancedLogger

HEAVY = ("tensorboard", "wandb", "mlflow", "prometheus_client", "torch", "google.protobuf", "sqlalchemy")

_EXPORT = """
import sys
from advlog_fast.export import export, parse_target
export(sys.argv[1], "run", parse_target(sys.argv[2]), points="all" if sys.argv[3] == "all" else None, accept_s=0.0)
"""


class Value(NamedTuple):
    name: str
    step: int
    time_us: int
    value: str
    """The repr of it: a NaN is itself."""


def opened(folder: Path, **options) -> AdvancedLogger:
    return AdvancedLogger(folder, "run", **{"console": "off", "memory_interval_s": 0, **options})


def log_values(folder: Path, values: list[float], name: str = "x", **options) -> None:
    with opened(folder, **options) as log:
        for step, value in enumerate(values):
            log.log_metrics({name: value}, step=step)


class Place:
    """Where the exports of a test go to."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.path = folder / {"csv": "points.csv", "tensorboard": "events", "mlflow": "m.db", "wandb": "wandb"}[kind]
        self.to = f"{kind}:{self.path}"
        if kind == "mlflow":
            self.to = f"mlflow:sqlite:///{self.path}"
        if kind == "wandb":
            self.to = "wandb:project"

    def prepare(self) -> None:
        """Makes what a kill of the target's own making would leave unusable: MLflow makes its tables one by one."""
        if self.kind == "mlflow":
            from mlflow.tracking import MlflowClient

            MlflowClient(tracking_uri=f"sqlite:///{self.path}").search_experiments()

    def environment(self) -> dict[str, str]:
        """With nothing that reaches out of the machine."""
        quiet = {"WANDB_MODE": "offline", "WANDB_DIR": str(self.folder), "WANDB_SILENT": "true"}
        return {**os.environ, **quiet, "WANDB_ERROR_REPORTING": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}

    def export(self, log_dir: Path, points: str = "all", failpoint: str = "") -> int:
        """Exports in a process of its own, and returns how that ended."""
        command = [sys.executable, "-c", _EXPORT, str(log_dir), self.to, points]
        environment = {**self.environment(), "ADVLOG_FAILPOINT": failpoint}
        ended = subprocess.run(command, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=300)
        assert ended.returncode in (0, -9), ended.stderr
        return ended.returncode

    def begin_following(self, log_dir: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "advlog_fast", "export", str(log_dir), "run", "--to", self.to]
        command += ["--follow", "--points", "all"]
        return subprocess.Popen(command, env=self.environment(), cwd=self.folder, stdout=subprocess.DEVNULL)

    def values(self) -> list[Value]:
        """What the target holds, in order of name and time."""
        return sorted({"csv": _csv, "tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}[self.kind](self))


def _csv(place: Place) -> Iterator[Value]:
    with open(place.path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield Value(row["metric"], int(row["step"]), int(row["timestamp_us"]), row["value"])


def _tensorboard(place: Place) -> Iterator[Value]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(place.path), size_guidance={"scalars": 0})
    events.Reload()
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            yield Value(tag, event.step, round(event.wall_time * 1e6), repr(event.value))


def _mlflow(place: Place) -> Iterator[Value]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{place.path}")
    (run,) = client.search_runs([client.get_experiment_by_name("advlog").experiment_id])
    for name in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, name):
            yield Value(name, metric.step, metric.timestamp * 1000, repr(metric.value))


def _wandb(place: Place) -> Iterator[Value]:
    from advlog_fast.export.wandb_files import rows_in

    steps = []
    for path in sorted(place.folder.glob("wandb/offline-run-*/run-*.wandb")):
        for own_step, row in rows_in(path):
            steps.append(own_step)
            for name, value in row.items():
                if not name.startswith(("_", "advlog/")):
                    yield Value(name, row["advlog/step"], round(row["_timestamp"] * 1e6), repr(float(value)))
    assert len(set(steps)) == len(steps), "W&B drops a row whose step it has"
