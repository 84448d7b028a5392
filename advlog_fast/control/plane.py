"""The control plane: handles everything of a run except records. It writes events, errors and the main log at once,
sends lines to the training log through the ring, and keeps what the summary says."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ..checks import Intake
from ..config import LoggerConfig
from ..records import ErrorLog
from ..snapshots import EpochTotals, Totals
from ..store.paths import RunPaths
from ..store.ranks import RunIdentity
from . import events
from .base import RingLink
from .console import Console
from .contexts import ContextStats
from .error_reports import ErrorReports
from .errors import ErrorRecorder
from .events import Event
from .masking import masked
from .outputs import EventOutputs
from .provenance import gather
from .readable import readable
from .resumption import Resumption
from .summaries import build_summary, overhead, write_summary
from .text import clipped, fields_text
from .training import Training

_SUMMARY_INTERVAL_S = 5.0
# For what must not wait: the summary between epochs may lag by what the drain has not counted yet.
_PLACE_S = 0.2
"""How long a validation waits for the step of the last record."""
_SOON_S = 0.1


class ControlPlane:
    """One rank's control plane in one attempt. Every method may be called from any thread, and from a signal
    handler; none but the constructor raises for a fault of the disk.

    :ivar outputs: where its events go; the session opens and closes them.
    :raises OSError: the main log, the errors' or the events' file cannot be made.
    """

    def __init__(
        self, config: LoggerConfig, paths: RunPaths, run: RunIdentity, link: RingLink, console: Console
    ) -> None:
        self._paths = paths
        self._run = run
        self._config = config
        self.console = console
        self._link = link
        self._pid = os.getpid()
        self._closed = False
        self._ended = False
        self._was_running = False
        """Whether the training had no end when the attempt ended."""
        self._summary_written_s = 0.0
        self._errors: ErrorReports
        # Through a lambda: the main log is made before the reports that it reports to.
        on_error = lambda *report: self._errors.log_from_logger(*report)  # noqa: E731, PLW0108
        self.outputs = EventOutputs(config, paths, run, link, console, on_error)
        self.handler: logging.Handler = self.outputs.main.handler
        """Writes what any logger is given to the main log."""
        self._errors = ErrorReports(
            ErrorRecorder(self.outputs.errors_file, run.attempt),
            lambda event, in_main_log: self.outputs.write(event, in_main_log=in_main_log),
        )
        self._contexts = ContextStats()
        self._training = Training(run, (config.best_metric, config.best_mode))
        training = partial(self._training.read, lambda state: (state.best, state.duration_s))
        self._resumption = Resumption(paths, run, link.totals, link.seq, link.first_epoch, training)
        identity, options = dataclasses.asdict(run), masked(dataclasses.asdict(config))
        start = Event(
            "attempt_start",
            {**identity, "options": options},
            identity,
            in_training_log=False,
            console=f"{run.name}: attempt {run.attempt}, logs in {config.log_dir}",
            console_fields={},
        )
        self.outputs.write(start)
        self.outputs.note(logging.INFO, f"options {fields_text(options)}")

    @property
    def logger(self) -> logging.Logger:
        """A logger of the standard library that writes to the main log."""
        return self.outputs.logger

    @property
    def status(self) -> str:
        """ "running", "completed", "failed", "interrupted" or "killed"."""
        return self._training.status

    # -- events --------------------------------------------------------------------------------------------------

    def emit(self, event: Event) -> None:
        """Takes an event in and writes it."""
        emit: Callable[[Event], None] = {
            "training_start": self._start_training,
            "training_end": self._end_training,
            "epoch_start": lambda start: self.outputs.write(
                self._training.start_epoch(start, partial(_counted, self._link, start))
            ),
            "epoch_end": self._end_epoch,
            "resumed": self._resume,
            "validation": lambda validation: self._write(_placed(validation, self._link)),
            "recovery": lambda recovery: self._write(self._errors.recovered(recovery)),
        }.get(event.kind, self._write)
        emit(event)

    def _write(self, event: Event) -> None:
        self.outputs.write(self._training.update(event))

    def _start_training(self, event: Event) -> None:
        provenance = gather()
        fields = {"config": event.fields["config"], "provenance": provenance}
        self._write(dataclasses.replace(event, fields=fields))
        for name, value in provenance.items():
            if value is not None:
                self.outputs.note(logging.INFO, f"system {fields_text({name: value})}")
        self.write_summary(_SOON_S)

    def _end_training(self, event: Event) -> None:
        def end() -> None:
            self._write(event)
            self.write_summary()

        self._link.shielded(end)

    def _end_epoch(self, event: Event) -> None:
        self.outputs.write(self._training.end_epoch(event, _counted(self._link, event)))
        if time.monotonic() - self._summary_written_s >= _SUMMARY_INTERVAL_S:
            self.write_summary(_SOON_S)

    def _resume(self, event: Event) -> None:
        def resume() -> None:
            origin = dict(event.fields["resumed_from"])
            kept, remarks = self._resumption.resume(origin)
            self._write(dataclasses.replace(event, fields={**event.fields, "kept": kept}))
            for level, text in remarks:
                self.outputs.note(level, text)
            if kept:
                self._link.go_on(origin, same_run=origin["run_id"] == self._run.run_id)
            self.write_summary(_SOON_S)

        self._link.shielded(resume)

    # -- errors and contexts -------------------------------------------------------------------------------------

    def log_error(
        self,
        error: BaseException | str,
        operation: str = "",
        context: Mapping[str, Any] | None = None,
        severity: str = "ERROR",
        intake: Intake | None = None,
    ) -> ErrorLog:
        """Writes an error now: see :meth:`ErrorReports.log`."""
        return self._errors.log(error, operation, context, severity, intake)

    def log_leaving(self, error: BaseException, operation: str) -> None:
        """Notes an exception that leaves the whole run, unless it was logged before."""
        self._errors.log_once(error, operation)

    def context_started(self, path: tuple[str, ...]) -> int:
        """Called by a context on its way in."""
        if os.getpid() != self._pid:
            return 0
        self._contexts.started(path[-1])
        self.outputs.write(events.context_start(path))
        return self._errors.tick()

    def context_ended(
        self, path: tuple[str, ...], started: int, duration_s: float, error: BaseException | None
    ) -> None:
        """Called by a context on its way out."""
        if os.getpid() != self._pid:
            # A forked child leaves what its parent entered: no lock and no file here is its own.
            left = events.context_end(path, duration_s, "left by a child")
            self._link.line(logging.INFO, clipped(left.line()))
            return
        failed = isinstance(error, Exception)
        if isinstance(error, Exception):
            if not self._errors.is_recorded(error, started):
                where = {"context": "/".join(path), "duration_s": round(duration_s, 6)}
                epoch = self._training.epoch
                context = where if epoch is None else {**where, "epoch": epoch}
                self._errors.log_from_context(error, path[-1], context)
        elif isinstance(error, KeyboardInterrupt):
            self._training.interrupt()
        self._contexts.ended(path[-1], duration_s, failed)
        outcome = "completed" if error is None else "failed" if failed else _leaving(error)
        self.outputs.write(events.context_end(path, duration_s, outcome))

    # -- the summary and the end ---------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Returns where the attempt stands, for a checkpoint."""
        return self._resumption.state()

    def summary(self, timeout_s: float = 1.0) -> dict[str, Any]:
        """Returns the current summary, which covers every call that returned before, or says how many are `pending`."""
        return self._summary(self._link.totals(timeout_s))

    def _summary(self, totals: Totals) -> dict[str, Any]:
        recorder = self._errors.recorder
        build = partial(
            build_summary,
            self._run,
            totals=totals,
            health=self._link.health(),
            memory=readable(self._link.memory()),
            errors=recorder.summary(),
            recoveries=recorder.recoveries(),
            contexts=self._contexts.summary(),
            group=self._config.group,
            tags=self._config.tags,
        )
        return self._training.read(build)

    def write_summary(self, timeout_s: float = 1.0, *, sync: bool = False) -> bool:
        """Replaces the summary's file; whether it could be."""
        self._summary_written_s = time.monotonic()
        written = write_summary(self._paths.summary, self.summary(timeout_s), self._paths.temporary, sync=sync)
        if not written:
            self.outputs.note(logging.WARNING, "the summary could not be written")
        return written

    def end(self, status: str | None = None, *, by_user: bool = False) -> None:
        """Ends the attempt: its status and its duration are known from here on.

        :param status: None is "completed".
        :param by_user: the status holds, even if the training already has a final one.
        """
        if self._ended:
            return
        self._ended = True
        self._was_running = not self._training.is_over
        self._training.end(status or "completed", by_user=by_user)

    def say_end(self) -> None:
        """Says in the training log how the attempt ended: its last line."""
        status, duration_s = self._training.end("completed")
        level = logging.INFO if status == "completed" else logging.WARNING
        shown = fields_text({"status": status, "duration_s": round(duration_s, 6)})
        self._link.line(level, f"attempt_end {shown}")

    def close(self, status: str | None = None) -> bool:
        """Ends the attempt, and closes the files; returns whether all of its outputs could be written."""
        self.end(status)
        if self._closed:
            return True
        self._closed = True
        status, duration_s = self._training.end("completed")
        recorder = self._errors.recorder
        recorder.close()
        fields = {"status": status, "duration_s": round(duration_s, 6)}
        end = Event("attempt_end", {**fields, "errors": recorder.total}, fields, in_training_log=False)
        # Without waiting: all is counted, or the drain hangs and has cost the caller enough.
        cost = overhead(self._link.totals(0.0), self._link.health(), duration_s)
        if cost["timed"]:
            self.outputs.note(logging.INFO, f"overhead {fields_text(cost, self._config.text_digits)}")
        self.outputs.write(end)
        if self._was_running:
            self.outputs.announce(f"{self._run.name}: {status} after {duration_s:.1f} s", last=True)
        written = self.write_summary(0.0, sync=True)
        self.outputs.close()
        return written and not any(self.outputs.lost().values())


def _counted(link: RingLink, event: Event) -> EpochTotals | None:
    """What has been counted of the epoch of an event."""
    return link.totals().epochs.get(event.fields["epoch"])


def _placed(validation: Event, link: RingLink) -> Event:
    """The validation, at the step of the last record if it says none."""
    fields = validation.fields
    if fields["step"] is not None:
        return validation
    return dataclasses.replace(validation, fields={**fields, "step": link.totals(_PLACE_S).last_step})


def _leaving(error: BaseException | None) -> str:
    return "interrupted" if isinstance(error, KeyboardInterrupt) else f"left by {type(error).__name__}"
