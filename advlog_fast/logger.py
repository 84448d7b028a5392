"""`AdvancedLogger`. csrc/producer.c has its hot call, control_calls.py the calls that go to the control plane; engine/
and session/ do the work of the others."""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ._hooks import importing
from ._native import Producer, lib
from .config import LoggerConfig, check_seconds, end_status, is_disabled, status_of
from .control_calls import ControlCalls
from .exceptions import RunBusyError, warn_or_tell

if TYPE_CHECKING:
    from typing_extensions import Self

    from .checks import Misuse
    from .control.base import Control
    from .engine.child import ChildSession
    from .sampling.memory_sampler import MemorySample
    from .session.session import Session
    from .snapshots import Health

_END_SECONDS = 10.0
_UNDO_SECONDS = 1.0
_OWN = ("config", "enabled", "_warned", "_engine", "_contexts", "_events", "_slow_path", "_off", "_around")
"""Attributes of a logger that a pickle does not carry; those of a subclass it does."""


class AdvancedLogger(Producer, ControlCalls):
    """Logs a training run: batches through a ring in shared memory, everything else directly to files.

    Make one on every rank, in the same way, and keep it for the whole training. Making one takes some 20 ms and 4 MiB
    of shared memory; logging a batch costs about as much as an empty Python method. Any thread may call it.

    `with AdvancedLogger(...) as log` closes the logger at the end. The exit of the interpreter and the garbage
    collector close it, too. A child process that was forked, or received the logger by pickling (a DataLoader's
    worker), logs into the same run: its records have `worker` set, and its events become lines of the training log.

    :param log_dir: the directory for all files of the run; created if missing.
    :param experiment_name: the run's name. A second start with the same name is a new attempt of the same run.
    :param log_level: the lowest level of the text logs and the console; metrics, events and errors are never filtered.
    :param max_log_files: files kept of each rotated series.
    :param max_log_size: bytes of each file before it rotates.

    The other options are keyword-only. `help(advlog_fast.LoggerConfig)` documents every one.

    :raises TypeError: an option has the wrong type, or is unknown.
    :raises ValueError: an option is out of its range.
    :raises OSError: `log_dir` cannot be made or written.
    :raises RunBusyError: another live process logs this rank of this run.

    >>> with AdvancedLogger("logs", "mnist", console="off") as log:
    ...     log.log_batch_progress(epoch=1, batch=1, total_batches=100, loss=0.5, learning_rate=1e-3)
    >>> read_run("logs", "mnist").metrics["loss"].to_pylist()
    [0.5]
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] = "logs",
        experiment_name: str = LoggerConfig.experiment_name,
        log_level: int | str = LoggerConfig.log_level,
        max_log_files: int = LoggerConfig.max_log_files,
        max_log_size: int = LoggerConfig.max_log_size,
        *,
        metrics: Sequence[str] = LoggerConfig.metrics,
        group: str | None = LoggerConfig.group,
        tags: Sequence[str] = LoggerConfig.tags,
        best_metric: str | None = LoggerConfig.best_metric,
        best_mode: str | None = LoggerConfig.best_mode,
        first_epoch: int | None = LoggerConfig.first_epoch,
        text: bool = LoggerConfig.text,
        jsonl: bool = LoggerConfig.jsonl,
        parquet: bool = LoggerConfig.parquet,
        training_log_every: int = LoggerConfig.training_log_every,
        text_digits: int = LoggerConfig.text_digits,
        text_ranks: str = LoggerConfig.text_ranks,
        rank: int | None = LoggerConfig.rank,
        world_size: int | None = LoggerConfig.world_size,
        console: str = LoggerConfig.console,
        ring_bytes: int = LoggerConfig.ring_bytes,
        ring_dir: str | os.PathLike[str] | None = LoggerConfig.ring_dir,
        overflow: str = LoggerConfig.overflow,
        overflow_timeout_s: float | None = LoggerConfig.overflow_timeout_s,
        memory_interval_s: float = LoggerConfig.memory_interval_s,
        part_interval_s: float = LoggerConfig.part_interval_s,
        part_rows: int = LoggerConfig.part_rows,
        close_timeout_s: float = LoggerConfig.close_timeout_s,
        deferred_values: int = LoggerConfig.deferred_values,
        deferred_timeout_s: float = LoggerConfig.deferred_timeout_s,
        fsync: str = LoggerConfig.fsync,
        handle_signals: bool | str = LoggerConfig.handle_signals,
        capture_logging: bool = LoggerConfig.capture_logging,
        enabled: bool = LoggerConfig.enabled,
        on_misuse: str = LoggerConfig.on_misuse,
    ) -> None:
        options = {name: value for name, value in locals().items() if name != "self"}
        self.config: LoggerConfig = LoggerConfig(**options)
        self.enabled: bool = self.config.enabled and not is_disabled()
        """False if every call is a no-op."""
        self._around = id(sys.exc_info()[1])
        """The exception that was being handled when the logger was made: a training that begins again in `except`."""
        self._warned: set[str] = set()
        self._engine: Session | ChildSession | None = None
        self._load(self.config.experiment_name)
        if not self.enabled:
            return
        with importing():
            from .session import registry

        session = registry.new_session(self.config, self)
        # The session must not keep the logger alive, or it could never be dropped.
        weakref.finalize(self, session.close, self.config.close_timeout_s).atexit = False
        try:
            registry.start(session)
            if self.config.handle_signals:
                session.handle_sigterm(self.config.handle_signals)
            self._engine = session
        except BaseException as error:
            session.close(min(_UNDO_SECONDS, self.config.close_timeout_s), "interrupted")
            with importing():
                from .session import handles
            if not isinstance(error, RunBusyError) or not handles.become_worker(self, session.paths):
                raise
        # The traceback of an interrupt at this point must not keep the logger alive.
        del self

    @classmethod
    def shared(
        cls, log_dir: str | os.PathLike[str] = "logs", experiment_name: str = "experiment", **options: Any
    ) -> Self:
        """Return a handle on the logger of the run that this process has open, or on a new one.

        For programs of which several parts log into one run: a second `AdvancedLogger` would close the first. The run
        ends with the `close()` of its last handle, at the exit, or when an `AdvancedLogger` supersedes it.

        :param options: as of :class:`AdvancedLogger`.
        :raises ValueError: an option differs from the open logger's; otherwise as :class:`AdvancedLogger`.

        >>> one, two = (AdvancedLogger.shared("logs", "shared", console="off") for _ in range(2))
        >>> one.log_metrics({"loss": 0.5}, step=1)
        >>> one.close(), two.log_metrics({"loss": 0.25}, step=2), two.close()
        (True, None, True)
        """
        with importing():
            from .session.shared import shared

        return shared(cls, log_dir, experiment_name, options)  # type: ignore[no-any-return]

    def _load(self, experiment_name: str) -> None:
        """Imports what only a logger needs, and keeps it: a call in the last destructors can no longer import."""
        with importing():
            from .control import contexts, disabled
        self._contexts: Any = contexts
        self._events: Any = None
        self._slow_path: Any = None
        self._off = disabled.DisabledControl(experiment_name)
        """Takes the calls while there is no session."""
        if self.config.enabled and not self.enabled:
            disabled.say_disabled()
        if self.enabled:
            with importing():
                from .control import events
                from .engine import slow_path
            self._events, self._slow_path = events, slow_path

    @property
    def _session(self) -> Session | ChildSession | None:
        """The session, or in a child process its stand-in."""
        engine = self._engine
        if engine is not None and engine.pid != os.getpid():
            engine = self._engine = engine.in_child()
        return engine

    @property
    def _control(self) -> Control:
        session = self._session
        return self._off if session is None else session.parts.control

    @property
    def _plane(self) -> Control:
        """The control plane that takes events; after close() one that drops them, with one warning."""
        session = self._session
        if session is None or not session.closed:
            return self._control
        self._warn("closed", session.after_close())
        return self._off

    def _take_misuses(self, misuses: Sequence[Misuse]) -> None:
        """Has misuses counted and said; raises the first one if the option `on_misuse` says so."""
        session = self._session
        if misuses and session is not None:
            session.entry.misuse.take(misuses)

    def end_training(self, final_metrics: Mapping[str, Any] | None = None, status: str | None = None) -> None:
        """End the training: write everything logged, seal it into Parquet, and set the summary's status.

        The logger stays open. The call takes as long as the disk needs, and waits for a hanging disk for 20 s at most.

        :param final_metrics: values of any type to keep in the summary, by name.
        :param status: `completed`, `failed` or `interrupted`. None is `completed`; where the call stands in an `except`
            or `finally` that an exception led to, `failed`, or `interrupted` for a Ctrl-C.
        :raises TypeError: `final_metrics` is no mapping.
        :raises ValueError: the status is none of these.

        >>> log.end_training({"final_loss": 0.31})
        >>> log.get_training_summary()["status"]
        'completed'
        """
        wanted = end_status(status) or self._status_in_flight()
        self._emit(lambda events: events.training_end(final_metrics, wanted))
        session = self._session
        if session is not None and not session.closed:
            session.shielded(partial(_seal, session, min(_END_SECONDS, self.config.close_timeout_s)))

    # -- records beside the hot call -----------------------------------------------------------------------------

    def log_memory_usage(self) -> MemorySample | None:
        """Log a memory sample and return it; None if the logger is disabled or closed.

        Call it when memory matters, such as after the first batch; the logger also takes a sample every
        `memory_interval_s` seconds. The first call reads the memory itself, in some hundred microseconds. Later calls
        never wait for a probe: they log and return the latest sample (`time_ns` says when it was taken), and request a
        fresh one. `stale` is True if the sample is older than three intervals because a probe hangs. With
        `memory_interval_s=0` every call reads the memory itself.

        >>> sample = log.log_memory_usage()
        >>> sample.metrics()["cpu_memory_gb"] > 0
        True
        """
        samples: list[MemorySample] = []
        self._log(lambda slow_path, session: slow_path.log_memory(self, session, samples))
        return samples[0] if samples else None

    def _log_batch_slowly(self, /, *args: Any, **kwargs: Any) -> None:
        """Does what log_batch_progress does, for arguments that C does not take as they are."""
        self._log(lambda slow_path, session: slow_path.log_batch(self, session, args, kwargs))

    def _log_metrics_slowly(self, /, *args: Any, **kwargs: Any) -> None:
        """Does what log_metrics does, for arguments that C does not take as they are."""
        self._log(lambda slow_path, session: slow_path.log_row(self, session, args, kwargs))

    def _log_performance_slowly(self, /, *args: Any, **kwargs: Any) -> None:
        """Does what log_performance_metrics does, for arguments that C does not take as they are."""
        self._log(lambda slow_path, session: slow_path.log_performance(self, session, args, kwargs))

    def _log(self, log: Callable[[Any, Session | ChildSession], int]) -> None:
        """Has `log` push a record with the module `engine.slow_path`, if the logger takes records."""
        if (session := self._open_session()) is None:
            return
        status = log(self._slow_path, session)
        if status == lib.ADVLOG_FULL and (dropped := session.entry.after_drop()) is not None:
            self._warn(*dropped)
        elif status not in (lib.ADVLOG_OK, lib.ADVLOG_FULL) and self._open_session() is not None:
            session.entry.count_drop("closed")  # it is being closed; once it is, _open_session counts

    def _open_session(self) -> Session | ChildSession | None:
        """The session that takes a record. None if there is none: then the record is counted, with one warning."""
        session = self._session
        if session is None:
            return None
        if (refused := session.admit(self)) is None:
            return session
        self._warn(*refused)
        return None

    def _warn(self, kind: str, message: str) -> None:
        # While the interpreter ends, a thread or destructor that still logs is not a mistake.
        ending = sys.is_finalizing() or (self._session is not None and self._session.at_exit)
        if message and kind not in self._warned and not ending:
            self._warned.add(kind)
            warn_or_tell(message)

    # -- the end, and questions ----------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until the operating system has everything logged before; return False if the timeout came first.

        What was flushed survives even the removal of the container, but not a power loss: see the option `fsync`. A
        SIGKILL of the process loses nothing, flushed or not.

        :param timeout: seconds, up to 10**6; None is the option `close_timeout_s`.
        :raises TypeError: it is no number.
        :raises ValueError: it is out of range.

        >>> log.flush()
        True
        """
        return True if self._session is None else self._session.flush(self._seconds(timeout))

    def close(self, timeout: float | None = None, status: str | None = None) -> bool:
        """End the attempt: write everything logged, seal it into Parquet and write the summary; return False if
        something is missing: the timeout came first, or the disk failed. It never raises for that.

        `with AdvancedLogger(...) as log` calls it, and so does the exit of the interpreter. A second call waits for the
        first and returns the same. A later call that logs warns once, writes nothing and is counted. An interrupt
        (Ctrl-C) ends the wait; the logger still closes.

        :param timeout: seconds, up to 10**6; None is the option `close_timeout_s`. The next start recovers what is left
            then.
        :param status: how the attempt ended: `completed`, `failed` or `interrupted`. None is what `end_training` was
            given, or what is known of an exception or a Ctrl-C: one that is being handled, or that left a `with`
            block or the program; else `completed`. A `sys.exit(1)` outside of a `with` block is not seen.
        :raises TypeError: the timeout is no number.
        :raises ValueError: it is out of range, or the status is none of these.

        >>> log.close()
        True
        """
        seconds, said, session = self._seconds(timeout), end_status(status), self._session
        in_flight = self._status_in_flight() if said is None else None
        return True if session is None else session.close(seconds, said or in_flight, by_user=said is not None)

    def _status_in_flight(self) -> str | None:
        error = sys.exc_info()[1]
        return None if error is None or id(error) == self._around else status_of(error)

    def _seconds(self, timeout: float | None) -> float:
        if timeout is None:
            return self.config.close_timeout_s
        check_seconds("timeout", timeout, 0.0)
        return timeout

    def health(self) -> Health:
        """Return the delivery counts so far, and what logging costs: see :class:`~advlog_fast.Health`.

        Use it to assert that nothing was dropped. It takes some tens of microseconds and waits for nothing.

        >>> health = log.health()
        >>> health.offered == health.accepted + sum(health.dropped_at_entry.values())
        True
        """
        if self._session is None:
            from .snapshots import Health

            return Health.nothing(self._off.status)
        return self._session.health()

    @property
    def attempt(self) -> int:
        """The number of this start of the run, from 1; 0 if the logger is disabled.

        >>> log.attempt
        1
        """
        return 0 if self._session is None else self._session.parts.run.attempt

    @property
    def paths(self) -> dict[str, Path]:
        """The path of each file of this rank, by its content, without outputs that are switched off; empty if the
        logger is disabled.

        >>> log.paths["metrics_jsonl"].name
        'run_metrics.jsonl'
        """
        paths = None if self._session is None else self._session.paths
        return {} if paths is None else {name: getattr(paths, name) for name in self.config.outputs(paths.rank)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = status_of(error)
        with contextlib.suppress(Exception):
            if isinstance(error, Exception) and status is not None:
                self._control.log_leaving(error, "training")
            elif isinstance(error, SystemExit) and status is not None:
                self._control.logger.error("sys.exit(%r) left the run", error.code)
        if self._session is not None:
            self._session.close(self.config.close_timeout_s, status)

    def __reduce__(self) -> tuple[Any, ...]:
        """Unpickled in another process, a logger becomes a handle on this one: it logs into this run, marked by
        `worker`."""
        with importing():
            from .session import handles

        return handles.pickled(self, {name: value for name, value in vars(self).items() if name not in _OWN})

    def __repr__(self) -> str:
        session = self._session
        state = "disabled" if session is None else "closed" if session.has_ended else f"attempt {self.attempt}"
        return f"<AdvancedLogger {self.config.experiment_name!r} in {str(self.config.log_dir)!r}: {state}>"


def _seal(session: Session | ChildSession, timeout_s: float) -> None:
    session.seal(timeout_s)
    # Again: the summary has the sinks' counts, which are complete only now.
    session.parts.control.write_summary()
