"""The control plane: all of a run that is no batch. It writes events, errors and the main log at once, sends
lines to the training log through the ring, and keeps what the summary says.

Above 500 lines because each call of the logger that is no batch has its method here.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from .._native import Guard
from ..config import LoggerConfig
from ..exceptions import expected
from ..records import SEVERITIES, ErrorLog
from ..snapshots import NonFinite, Totals
from ..store.paths import RunPaths
from ..store.ranks import RunIdentity
from . import checks
from .base import RingLink
from .console import Console
from .contexts import ContextStats, TrainingContext
from .epochs import Best, Epochs
from .errors import ErrorRecorder, RecordedError
from .events import EventLog
from .line_file import LineFile
from .main_log import MainLog
from .masking import masked
from .milestones import Progress
from .model_info import describe_model
from .provenance import gather
from .readable import readable
from .recorded_errors import RecordedErrors
from .resumption import checked_state, keep_origin, state_of
from .summaries import RunState, build_summary, first_nonfinite, overhead, write_summary
from .text import clipped, escape, fields_text, rounded, time_text, with_nulls

FINAL_STATUSES = ("completed", "failed", "interrupted", "killed")

_SUMMARY_INTERVAL_S = 5.0
# For what must not wait: the summary between epochs may lag by what the drain has not counted yet.
_SOON_S = 0.1


class ControlPlane:
    """One rank's control plane in one attempt. Every method may be called from any thread, and from a signal
    handler.

    Every method checks its arguments first and raises TypeError or ValueError for them; a fault of the disk
    never raises, but for the constructor's.

    :raises OSError: the main log, the errors' or the events' file cannot be made.
    """

    def __init__(
        self, config: LoggerConfig, paths: RunPaths, run: RunIdentity, link: RingLink, console: Console
    ) -> None:
        self.console = console
        self._config = config
        self._paths = paths
        self._run = run
        self._link = link
        self._pid = os.getpid()
        self._lock = Guard()
        self._files: list[LineFile] = []
        try:
            main, errors, events = map(self._open, (paths.main_log, paths.errors_log, paths.events_jsonl))
        except OSError:
            self._close_files()
            raise
        self._main = MainLog(
            main, run.name, config.log_level, config.capture_logging, self._logged_exception, link.line
        )
        self._errors = ErrorRecorder(errors, run.attempt)
        self._events = EventLog(events, run.attempt, run.rank)
        self._contexts = ContextStats()
        self._recorded = RecordedErrors()
        self._epochs = Epochs()
        self._best = Best()
        self._status = "running"
        self._closed = False
        self._silent = False
        self._started_ns = time.time_ns()
        self._started_s = time.monotonic()
        self._ended_ns: int | None = None
        self._ended_s = 0.0
        self._training: dict[str, Any] = {}
        self._hyperparameters: dict[str, Any] = {}
        self._model: dict[str, Any] | None = None
        self._final_metrics: dict[str, Any] = {}
        self._provenance: dict[str, Any] = {}
        self._resumed_from: dict[str, Any] | None = None
        self._overall_milestones: dict[str, str] = {}
        self._epoch_milestones: dict[str, Any] = {"epoch": None, "percents": []}
        self._milestones = 0
        self._summary_written_s = 0.0
        identity = dataclasses.asdict(run)
        self._event("attempt_start", {**identity, "options": dataclasses.asdict(config)})
        self._main.say(logging.INFO, f"attempt_start {fields_text(identity)}")
        self._main.say(logging.INFO, f"options {fields_text(dataclasses.asdict(config))}")

    @property
    def logger(self) -> logging.Logger:
        """A stdlib logger that writes to the main log."""
        return self._main.logger

    @property
    def status(self) -> str:
        """ "running", "completed", "failed", "interrupted" or "killed"."""
        return self._status

    # ---- the training and its epochs ----

    def start_training(self, config: object = None) -> None:
        """Begins the training: notes its configuration, secrets masked, and where the run comes from."""
        given = masked(checks.settings("config", config)) if config is not None else {}
        provenance = gather()
        with self._lock:
            self._training.update(given)
            self._provenance = provenance
            self._started_ns = time.time_ns()
            self._started_s = time.monotonic()
            self._ended_ns = None
            self._status = "running"
        self._event("training_start", {"config": given, "provenance": provenance})
        self._tell(logging.INFO, "training_start", {"attempt": self._run.attempt, **with_nulls(given)}, ring_fields={})
        for name, value in provenance.items():
            if value is not None:
                self._main.say(logging.INFO, f"system {fields_text({name: value})}")
        self._say(f"{self._run.name}: attempt {self._run.attempt}, logs in {self._config.log_dir}")
        self.write_summary(_SOON_S)

    def end_training(self, final_metrics: Mapping[str, Any] | None = None) -> None:
        """Ends the training, as completed unless it was interrupted; does not close."""
        final = masked(checks.mapping("final_metrics", final_metrics)) if final_metrics is not None else {}
        self._link.shielded(partial(self._end_training, final))

    def _end_training(self, final: dict[str, Any]) -> None:
        with self._lock:
            self._final_metrics.update(final)
            self._end("completed")
            status, duration_s = self._status, self._duration_s()
        fields = {"status": status, "duration_s": round(duration_s, 6)}
        self._event("training_end", {**fields, "final_metrics": final})
        self._tell(logging.INFO, "training_end", {**fields, **final})
        self._say(f"{self._run.name}: {status} after {duration_s:.1f} s", final, last=True)
        self.write_summary()

    def start_epoch(self, epoch: int, total_epochs: int | None = None) -> None:
        """Begins an epoch; its time runs from here."""
        epoch = checks.whole("epoch", epoch)
        total = checks.whole_or_none("total_epochs", total_epochs)
        with self._lock:
            self._epochs.start(epoch, total)
        fields = {"epoch": epoch, "total_epochs": total}
        self._event("epoch_start", fields)
        self._tell(logging.INFO, "epoch_start", fields)

    def end_epoch(self, epoch: int, metrics: Mapping[str, Any] | None = None) -> None:
        """Ends an epoch: its duration, its rates, and the metrics given."""
        epoch = checks.whole("epoch", epoch)
        values = checks.metric_values("metrics", metrics) if metrics is not None else {}
        totals = self._link.totals()
        with self._lock:
            entry = self._epochs.end(epoch, values, totals.epoch)
            of = "" if self._epochs.total is None else f"/{self._epochs.total}"
        self._event("epoch_end", entry)
        shown = {name: value for name, value in entry.items() if name != "metrics"}
        self._tell(logging.INFO, "epoch_end", {**shown, **values})
        took = "" if entry["duration_s"] is None else f" in {entry['duration_s']:.1f} s"
        self._say(f"epoch {epoch}{of} done{took}", values)
        if time.monotonic() - self._summary_written_s >= _SUMMARY_INTERVAL_S:
            self.write_summary(_SOON_S)

    def log_validation(self, epoch: int, metrics: Mapping[str, Any], is_best: bool = False) -> None:
        """Notes a validation and, if it is the best so far, keeps it as such (see :class:`Best`)."""
        epoch = checks.whole("epoch", epoch)
        values = checks.metric_values("metrics", metrics)
        given = checks.flag("is_best", is_best)
        with self._lock:
            best = self._best.offer(epoch, values, given)
        self._event("validation", {"epoch": epoch, "metrics": values, "is_best": given, "best_so_far": best})
        shown = {"epoch": epoch, **values, **({"best": True} if given else {})}
        self._tell(logging.INFO, "validation", shown)
        self._say("validation", shown)

    def milestone(self, passed: Progress) -> None:
        """Notes a mark of an epoch or of the whole."""
        fields = passed.fields()
        with self._lock:
            self._milestones += 1
            if passed.scope == "overall":
                self._overall_milestones[str(passed.percent)] = time_text(time.time_ns())
            else:
                if self._epoch_milestones["epoch"] != passed.epoch:
                    self._epoch_milestones = {"epoch": passed.epoch, "percents": []}
                self._epoch_milestones["percents"].append(passed.percent)
        self._event("milestone", fields)
        self._tell(logging.INFO, "milestone", fields)

    def state(self) -> dict[str, Any]:
        """Where the attempt stands, for a checkpoint."""
        return state_of(self._run, self._link.totals())

    def resume(self, state: object) -> None:
        """Notes that the attempt goes on from a state of another one."""
        origin = checked_state(state)
        if origin is not None:
            self._link.shielded(partial(self._resume, origin))

    def _resume(self, origin: dict[str, Any]) -> None:
        with self._lock:
            self._resumed_from = origin
        self._event("resumed", {"resumed_from": origin})
        self._tell(logging.INFO, "resumed", with_nulls(origin))
        if trouble := keep_origin(self._paths, self._run, origin):
            self._main.say(logging.WARNING, trouble)
        self.write_summary(_SOON_S)

    # ---- what the run is ----

    def log_hyperparameters(self, hyperparameters: object) -> None:
        """Notes hyperparameters, secrets masked; a later call adds to those before."""
        given = masked(checks.settings("hyperparameters", hyperparameters))
        with self._lock:
            self._hyperparameters.update(given)
        self._event("hyperparameters", {"hyperparameters": given})
        self._main.say(logging.INFO, f"hyperparameters {fields_text(with_nulls(given))}")

    def log_model_info(self, model: Any) -> None:
        """Notes what the model is made of: parameters, bytes, dtypes, devices, layers."""
        found = masked(describe_model(model))
        with self._lock:
            self._model = found
        self._event("model_info", {"model": found})
        shown = {name: value for name, value in found.items() if name != "layers"}
        self._main.say(logging.INFO, f"model {fields_text(shown)}")

    def log_event(self, name: str, /, **fields: Any) -> None:
        """Notes an event of the user's own, secrets masked."""
        name = checks.text("name", name)
        given = masked(fields)
        self._event(name, given)
        self._tell(logging.INFO, escape(name), given)

    def recovered(self, report: Mapping[str, Any], text: str) -> None:
        """Notes what was recovered of an attempt before this one."""
        self._event("recovered", report)
        self._main.say(logging.WARNING, f"recovered {escape(text)}")

    def nonfinite(self, name: str, found: NonFinite) -> None:
        """Notes the first value of a metric that was NaN or infinite."""
        where = first_nonfinite(found) or {}
        where.pop("timestamp")
        seq = where.pop("seq")
        self._event("nonfinite", {"metric": name, **where, "first_seq": seq}, level="WARNING")
        shown = {"metric": name, **where}
        self._tell(logging.WARNING, "nonfinite", shown)
        self._say("first value that is not finite:", shown, logging.WARNING)

    # ---- errors ----

    def log_error(
        self,
        error: BaseException | str,
        operation: str = "",
        context: Mapping[str, Any] | None = None,
        severity: str = "ERROR",
    ) -> ErrorLog:
        """Writes the error to errors.log now. An exception that a context has recorded on its way here counts
        no second time: what is known here is added to it."""
        severity = checks.report(error, operation, context, severity)
        before = self._recorded.take(error)
        if before is None:
            recorded = self._errors.record(error, operation, context, severity)
            self._recorded.remember(error, recorded, by_context=False)
            self._tell_error(recorded)
            return recorded.log
        added = self._errors.add_context(before, operation, context, severity)
        if added.written:
            fields = {"id": added.id, "operation": added.log.operation, "context": added.context}
            self._event("error_context", fields, level=severity)
        return added.log

    def log_leaving(self, error: BaseException, operation: str) -> None:
        """Notes an exception that leaves the whole run, unless it was logged before."""
        if isinstance(error, Exception) and not self._recorded.since(error, 0):
            self.log_error(error, operation)

    def log_recovery(self, operation: str, action: str, success: bool = True) -> None:
        """Notes an attempt to recover from the last error of `operation`."""
        checks.text("operation", operation)
        checks.text("action", action)
        success = checks.flag("success", success)
        category = self._errors.recovery(operation, action, success)
        level = logging.INFO if success else logging.WARNING
        fields = {"operation": operation, "action": action, "success": success, "category": category}
        self._event("recovery", fields, level=logging.getLevelName(level))
        self._tell(level, "recovery", fields)

    def training_context(self, name: str) -> TrainingContext:
        """A span of the training, for `with` or `async with`."""
        return TrainingContext(self, checks.text("name", name))

    def context_started(self, path: tuple[str, ...]) -> int:
        """Called by a context on its way in."""
        if os.getpid() != self._pid:
            return 0
        self._contexts.started(path[-1])
        self._event("context_start", {"context": path[-1], "path": "/".join(path)})
        self._main.say(logging.INFO, f"context_start {fields_text({'context': '/'.join(path)})}")
        return self._recorded.tick()

    def context_ended(
        self, path: tuple[str, ...], started: int, duration_s: float, error: BaseException | None
    ) -> None:
        """Called by a context on its way out."""
        if os.getpid() != self._pid:
            # A forked child leaves what its parent entered: no lock and no file here is its own.
            fields = {"context": "/".join(path), "duration_s": round(duration_s, 6), "outcome": "left by a child"}
            self._link.line(logging.INFO, clipped(f"context_end {fields_text(fields)}"))
            return
        failed = isinstance(error, Exception)
        if isinstance(error, Exception):
            if not self._recorded.since(error, started):
                self._record_from_context(error, path, duration_s)
        elif isinstance(error, KeyboardInterrupt):
            with self._lock:
                if self._status == "running":
                    self._status = "interrupted"
        outcome = "completed" if error is None else "failed" if failed else _leaving(error)
        self._contexts.ended(path[-1], duration_s, failed)
        fields = {"path": "/".join(path), "duration_s": round(duration_s, 6), "outcome": outcome}
        self._event("context_end", {"context": path[-1], **fields})
        self._main.say(logging.INFO, f"context_end {fields_text(fields)}")

    def _record_from_context(self, error: Exception, path: tuple[str, ...], duration_s: float) -> None:
        context: dict[str, Any] = {"context": "/".join(path), "duration_s": round(duration_s, 6)}
        if self._epochs.current is not None:
            context["epoch"] = self._epochs.current
        recorded = self._errors.record(error, path[-1], context)
        self._recorded.remember(error, recorded, by_context=True)
        self._tell_error(recorded)

    def _logged_exception(self, error: BaseException, level: int, function: str, message: str) -> None:
        """An exception that the main log was given with a message, which alone stands there; unless it was recorded
        before."""
        if self._recorded.since(error, 0):
            return
        severity = next((name for name in reversed(SEVERITIES) if getattr(logging, name) <= level), SEVERITIES[0])
        recorded = self._errors.record(error, function, {"logged": message}, severity)
        self._recorded.remember(error, recorded, by_context=True)
        self._tell_error(recorded, in_main_log=False)

    def _tell_error(self, recorded: RecordedError, *, in_main_log: bool = True) -> None:
        """An error in the other outputs; inside a storm as seldom as in errors.log."""
        if not recorded.written:
            return
        log = recorded.log
        level = int(getattr(logging, log.severity))
        fields: dict[str, Any] = {
            "id": recorded.id,
            "category": recorded.category,
            "operation": log.operation,
            "type": log.error_type,
            "message": clipped(log.error_message, 1000),
            "repeated": recorded.count if recorded.count > 1 else None,
        }
        self._event("error", {**fields, "context": recorded.context}, level=log.severity)
        self._tell(level, "error", fields, in_main_log=in_main_log)
        self._say(log.severity.lower(), fields, level)

    # ---- the summary and the end ----

    def summary(self, timeout_s: float = 1.0) -> dict[str, Any]:
        """The summary as of now, covering every call that returned before, or naming how many are
        `pending`."""
        return self._summary(self._link.totals(timeout_s))

    def write_summary(self, timeout_s: float = 1.0, *, sync: bool = False) -> bool:
        """Replaces the summary's file; whether it could be."""
        self._summary_written_s = time.monotonic()
        written = write_summary(self._paths.summary, self.summary(timeout_s), self._paths.temporary, sync=sync)
        if not written:
            self._main.say(logging.WARNING, "the summary could not be written")
        return written

    def close(self, status: str) -> None:
        """Ends the attempt with this status, unless it has a final one already; the files are closed."""
        if status not in FINAL_STATUSES:
            raise ValueError(expected("status", "one of " + ", ".join(FINAL_STATUSES), status))
        with self._lock:
            if self._closed:
                return
            self._closed = True
            was_running = self._ended_ns is None
            self._end(status)
            status, duration_s = self._status, self._duration_s()
        self._errors.close()
        fields = {"status": status, "duration_s": round(duration_s, 6)}
        self._event("attempt_end", {**fields, "errors": self._errors.total})
        # Without waiting: all is counted, or the drain hangs and has cost the caller enough.
        totals = self._link.totals(0.0)
        cost = overhead(totals, self._link.health(), duration_s)
        if cost["timed"]:
            self._main.say(logging.INFO, f"overhead {fields_text(cost)}")
        self._main.say(logging.INFO, f"attempt_end {fields_text(fields)}")
        if was_running:
            self._say(f"{self._run.name}: {status} after {duration_s:.1f} s", last=True)
        self.write_summary(0.0, sync=True)
        self._main.close()
        self._close_files()
        self._silent = True

    def abandon(self) -> None:
        """Closes the files of an attempt that did not come about."""
        self._main.close()
        self._close_files()
        self._silent = True

    def lost(self) -> dict[str, int]:
        """Entries that could not be written, by file name."""
        return {file.path.name: file.lost for file in self._files}

    def fault(self) -> str | None:
        """The last fault of one of those files, named; None while there was none."""
        faults = (f"{file.path.name}: {file.error}" for file in self._files if file.error is not None)
        return next(faults, None)

    def _summary(self, totals: Totals) -> dict[str, Any]:
        health, memory = self._link.health(), readable(self._link.memory())
        errors, recoveries = self._errors.summary(), self._errors.recoveries()
        contexts = self._contexts.summary()
        with self._lock:
            state = RunState(
                run=self._run,
                status=self._status,
                started_ns=self._started_ns,
                ended_ns=self._ended_ns,
                duration_s=self._duration_s(),
                epochs=self._epochs,
                errors=errors,
                recoveries=recoveries,
                best=self._best.summary(),
                validations=self._best.validations,
                config=self._training,
                hyperparameters=self._hyperparameters,
                model=self._model,
                contexts=contexts,
                milestones={
                    "total": self._milestones,
                    "overall": self._overall_milestones,
                    "epoch": self._epoch_milestones,
                },
                memory=memory,
                final_metrics=self._final_metrics,
                provenance=self._provenance,
                resumed_from=self._resumed_from,
            )
            return build_summary(state, totals, dataclasses.replace(health, status=state.status))

    def _end(self, status: str) -> None:
        if self._status == "running":
            self._status = status
        if self._ended_ns is None:
            self._ended_ns = time.time_ns()
            self._ended_s = time.monotonic()

    def _duration_s(self) -> float:
        return (self._ended_s if self._ended_ns is not None else time.monotonic()) - self._started_s

    def _event(self, name: str, fields: Mapping[str, Any], level: str = "INFO") -> None:
        self._events.emit(name, fields, seq=self._link.seq(), level=level)

    def _tell(
        self,
        level: int,
        what: str,
        fields: Mapping[str, Any],
        ring_fields: Mapping[str, Any] | None = None,
        *,
        in_main_log: bool = True,
    ) -> None:
        """A line in the main log, and the same or a shorter one in the training log."""
        if in_main_log:
            self._main.say(level, f"{what} {fields_text(fields)}".rstrip())
        shown = fields if ring_fields is None else ring_fields
        self._link.line(level, clipped(f"{what} {fields_text(shown)}".rstrip()))

    def _say(
        self, what: str, fields: Mapping[str, Any] | None = None, level: int = logging.INFO, *, last: bool = False
    ) -> None:
        # What reaches no file any more is not shown as if it did.
        if not self._silent:
            self.console.say(f"{what} {fields_text(rounded(fields or {}))}".rstrip(), level, last=last)

    def _open(self, path: Any) -> LineFile:
        file = LineFile(path, max_bytes=self._config.max_log_size, max_files=self._config.max_log_files)
        self._files.append(file)
        return file

    def _close_files(self) -> None:
        for file in self._files:
            file.close()


def _leaving(error: BaseException | None) -> str:
    return "interrupted" if isinstance(error, KeyboardInterrupt) else f"left by {type(error).__name__}"
