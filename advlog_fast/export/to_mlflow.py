"""Rows as the metrics of an MLflow run, which is found again by a tag."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

from .records import Record, Series
from .targets import Notice, Run, Target, name_of, require

_TAG = "advlog.series"
_EXPERIMENT = "advlog"
_LONGEST_NAME = 250
_LONGEST_PARAM = 500
_BATCH = 1000
_PARAM_BATCH = 100
_STATUS = {"completed": "FINISHED", "failed": "FAILED"}


def connect(place: str, run: Run) -> MlflowRuns:
    """Return the target of a tracking URI; see `Destination.connect`.

    :raises ExportError: mlflow is not installed.
    """
    require("mlflow", "mlflow")
    return MlflowRuns(place, run)


class MlflowRuns(Target):
    """An MLflow run for each series, in the experiment of `MLFLOW_EXPERIMENT_NAME`, else "advlog".

    Each is found by its tag. MLflow keeps a value once for each (name, time in ms, step,
    value): what is sent again is not doubled.
    """

    def __init__(self, uri: str, run: Run) -> None:
        self._uri = uri
        self._client: Any = None
        self._run = run
        self._ids: dict[Series, str] = {}
        self._known: dict[str, str] = {}
        """The ids that an earlier process noted: to end runs to which this one sends nothing."""
        self._waiting: dict[Series, list[Any]] = {}
        self._names: dict[str, str] = {}
        self._say = Notice()

    def resume(self, memory: Mapping[str, Any] | None) -> bool:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=self._uri)
        self._known = dict(memory["runs"]) if memory is not None else {}
        return True

    def send(self, series: Series, records: Iterable[Record]) -> None:
        from mlflow.entities import Metric

        if series not in self._ids:
            self._ids[series] = self._found(series)
        waiting = self._waiting.setdefault(series, [])
        for (_, _, _, step, time_us), values in records:
            for name, value in values:
                if math.isinf(value):
                    self._say("inf", "MLflow has no infinity: it keeps ±1.797e308 in its place")
                waiting.append(Metric(self._names.get(name) or self._name(name), value, time_us // 1000, step))
            if len(waiting) >= _BATCH:
                self._log(series)

    def accept(self) -> bool:
        for series in list(self._waiting):
            self._log(series)
        return True

    def memory(self) -> dict[str, Any]:
        ids = {series.suffix: run_id for series, run_id in self._ids.items()}
        return {"runs": {**self._known, **ids}}

    def errors(self) -> tuple[type[Exception], ...]:
        from mlflow.exceptions import MlflowException

        return (MlflowException,)

    def ended(self, status: str) -> None:
        from mlflow.exceptions import MlflowException

        for run_id in self.memory()["runs"].values():
            with contextlib.suppress(MlflowException):  # removed since
                self._client.set_terminated(run_id, _STATUS.get(status, "KILLED"))

    def _log(self, series: Series) -> None:
        waiting = self._waiting[series]
        for start in range(0, len(waiting), _BATCH):
            self._client.log_batch(self._ids[series], metrics=waiting[start : start + _BATCH], synchronous=True)
        waiting.clear()  # in place: `send` goes on filling it

    def _name(self, name: str) -> str:
        taken = self._names[name] = metric_name(name)
        if taken != name:
            self._say(
                "names", f"MLflow takes no metric of the name {name!r}: it is called {taken!r} there, others likewise"
            )
        return taken

    def _found(self, series: Series) -> str:
        """The id of the series' run, which is made if there is none."""
        tag = f"{self._run.run_id}/{series.suffix}"
        experiment = self._experiment()
        runs = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{tag}'", max_results=1)
        if runs:
            return str(runs[0].info.run_id)
        name = "-".join(filter(None, [self._run.name, series.suffix]))
        run_id = str(self._client.create_run(experiment, tags={_TAG: tag}, run_name=name).info.run_id)
        self._log_config(run_id)
        return run_id

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(name))
        except MlflowException:  # another export has made it meanwhile
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)

    def _log_config(self, run_id: str) -> None:
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        params = [Param(metric_name(name), str(value)[:_LONGEST_PARAM]) for name, value in self._run.config.items()]
        for start in range(0, len(params), _PARAM_BATCH):
            with contextlib.suppress(MlflowException):  # settings are a help; the metrics are what was asked for
                self._client.log_batch(run_id, params=params[start : start + _PARAM_BATCH], synchronous=True)


def metric_name(name: str) -> str:
    """Return the name that a metric has in MLflow: its own where that can be, else one like it with a hash.

    >>> metric_name("val/loss"), metric_name("f1[0]")
    ('val/loss', 'f1_0_-1f2d75cb')
    """
    parts = name.split("/")
    if all(part not in ("", ".", "..") for part in parts):
        return name_of(name, r"\w/.\- :", _LONGEST_NAME)
    like = "/".join("_" if part in ("", ".", "..") else part for part in parts)  # no path that leads elsewhere
    return name_of(name, r"\w/.\- :", _LONGEST_NAME, like=like)
