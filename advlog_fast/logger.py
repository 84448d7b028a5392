"""`AdvancedLogger`: the public calls, with their documentation. The hot call itself is csrc/producer.c; what the others do
stands in engine/, control/ and session/.

Above 400 lines because each public call stands here with its documentation; and above 20 methods because each is one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from ._hooks import importing
from ._native import Producer, lib
from .config import LoggerConfig, check_seconds
from .event_calls import EventCalls
from .records import TrainingMetrics

if TYPE_CHECKING:
    from typing_extensions import Self

    from .control.base import Control
    from .control.events import Event
    from .engine.child import ChildSession, ParentHandle
    from .sampling.memory_sampler import MemorySample
    from .session.session import Session
    from .snapshots import Health

_END_SECONDS = 10.0
_UNDO_SECONDS = 1.0


class AdvancedLogger(Producer, EventCalls):
    """Logs a training run: every batch through a ring in shared memory, everything else at once.

    :param log_dir: where every file of the run goes; made if it is missing.
    :param experiment_name: the run's name. A second start with the same name is a new attempt of the same run.
    :param log_level: the lowest level that reaches the text logs and the console; metrics, events and errors are
        never filtered.
    :param max_log_files: files kept of each rotated series.
    :param max_log_size: bytes of each file before it rotates.

    The other options are keyword-only. `help(advlog_fast.LoggerConfig)` documents every one.

    :raises TypeError: an option has the wrong type, or is unknown.
    :raises ValueError: an option is out of its range.
    :raises OSError: `log_dir` cannot be made or written.
    :raises RunBusyError: another live process logs this rank of this run.

    Safe from any thread. `with AdvancedLogger(...) as log` closes at the end; so does the exit of the interpreter, and
    the collection of a logger that nobody refers to.

    In a child process, forked or given the logger by pickling (the workers of a DataLoader), it logs into the same run:
    records have `worker` set, everything else becomes a line of the training log.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] = "logs",
        experiment_name: str = LoggerConfig.experiment_name,
        log_level: int = LoggerConfig.log_level,
        max_log_files: int = LoggerConfig.max_log_files,
        max_log_size: int = LoggerConfig.max_log_size,
        *,
        metrics: Sequence[str] = LoggerConfig.metrics,
        text: bool = LoggerConfig.text,
        jsonl: bool = LoggerConfig.jsonl,
        parquet: bool = LoggerConfig.parquet,
        training_log_every: int = LoggerConfig.training_log_every,
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
        deferred_timeout_s: float = LoggerConfig.deferred_timeout_s,
        fsync: str = LoggerConfig.fsync,
        handle_signals: bool = LoggerConfig.handle_signals,
        capture_logging: bool = LoggerConfig.capture_logging,
        enabled: bool = LoggerConfig.enabled,
    ) -> None:
        given = locals()
        self.config = LoggerConfig(**{field.name: given[field.name] for field in dataclasses.fields(LoggerConfig)})
        """The options, checked."""
        self.enabled = self.config.enabled and os.environ.get("ADVLOG_DISABLED", "0") in ("", "0")
        """False where every call is a no-op."""
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
                session.handle_sigterm()
            self._engine = session
        except BaseException:
            session.close(min(_UNDO_SECONDS, self.config.close_timeout_s), "interrupted")
            raise
        # The frame of an interrupt that comes just now must not keep what nobody else has.
        del self

    def _load(self, experiment_name: str) -> None:
        """Imports what only a logger needs, and keeps it: a call in the last destructors cannot import any more."""
        with importing():
            from .control import contexts, disabled
        self._contexts: Any = contexts
        self._events: Any = None
        self._slow_path: Any = None
        self._off = disabled.DisabledControl(experiment_name)
        """Takes the calls where there is no session, or none any more."""
        if self.enabled:
            with importing():
                from .control import events
                from .engine import slow_path
            self._events, self._slow_path = events, slow_path

    @property
    def _session(self) -> Session | ChildSession | None:
        """The session; in a child process what stands for it there."""
        engine = self._engine
        if engine is not None and engine.pid != os.getpid():
            engine = self._engine = engine.in_child()
        return engine

    @property
    def _control(self) -> Control:
        session = self._session
        if session is not None:
            return session.parts.control
        return self._off

    def get_training_summary(self) -> dict[str, Any]:
        """What is known of the training so far: every call that returned before is counted, or named in `pending`
        where the drain does not get there within 1 s. Takes the same time however many records there are.

        Statistics are over finite values, in float64; NaN where there is none yet (null in `NAME_summary.json`).
        """
        return self._control.summary()

    def state_dict(self) -> dict[str, Any]:
        """Where this attempt stands, to keep in a checkpoint beside the model's: the run's id, the attempt, the last
        record's `step`, `epoch` and `batch`, and the time; numbers and strings only. Empty where the logger is off.
        The state of any one rank is enough for all of them.

        The last record is that of the last call that returned before; the drain is waited for 1 s at most.
        """
        return self._control.state()

    def reduce_summary(self, timeout_s: float = 30.0, group: Any = None) -> dict[str, Any]:
        """The summary of all ranks together, in each of them: a collective call over torch's process group, which every
        rank of it has to make, and the only thing here that talks between machines.

        `total_metrics`, `total_errors` and `training_duration` (the longest) are the guide's, as are `loss_stats` and
        `accuracy_stats`, over all ranks; `metrics` has every metric so, and `ranks` what each rank has: its step, its
        records, its mean `batch_time` and `data_time` in seconds. Moments merge exactly.

        :param timeout_s: how long the others are waited for.
        :param group: the process group, gloo or nccl; None is the default one.
        :raises RuntimeError: torch.distributed is not initialised, and there is more than one rank.
        :raises TimeoutError: not every rank came in time. An nccl group is of no more use then.
        """
        check_seconds("timeout_s", timeout_s, 0.0)
        from .reader.reduction import reduce_summary

        world_size = 1 if self._session is None else self._session.parts.run.world_size
        return reduce_summary(self.get_training_summary(), world_size, timeout_s, group)

    @property
    def _plane(self) -> Control:
        """Where an event goes: after close() nowhere, which is warned of once."""
        session = self._session
        if session is None or not session.closed:
            return self._control
        self._warn("closed", session.after_close())
        return self._off

    def _emit(self, make: Callable[[Any], Event | None]) -> None:
        """Emits the event that `make` makes with the module `control.events`; a logger that is off makes none."""
        plane = self._plane
        event = None if plane is self._off else make(self._events)
        if event is not None:
            plane.emit(event)

    @property
    def log_level(self) -> int:
        """The option of that name. To give the main log alone another level, call `log.logger.setLevel`."""
        return self.config.log_level

    def end_training(self, final_metrics: Mapping[str, Any] | None = None) -> None:
        """End the training: everything logged is written and sealed into Parquet, and the summary says `completed`.

        The logger stays open. It takes as long as the disk; one that hangs is waited for twice 10 s at most.

        :param final_metrics: anything to keep in the summary, by name.
        :raises TypeError: `final_metrics` is no mapping.

        >>> log.end_training({"final_loss": 0.31})
        >>> log.get_training_summary()["status"]
        'completed'
        """
        self._emit(lambda events: events.training_end(final_metrics))
        session = self._session
        if session is not None and not session.closed:
            session.shielded(partial(_seal, session, min(_END_SECONDS, self.config.close_timeout_s)))

    # -- records beside the hot call -----------------------------------------------------------------------------

    def log_metrics(self, metrics: Mapping[str, Any] | TrainingMetrics, step: int | None = None) -> None:
        """Log one row of metrics, in a place in the training that the mapping may name itself.

        :param metrics: names to scalars, float64; nested mappings are flattened with `/`; `epoch`, `batch`,
            `total_batches` and `step` are the integers of that name. Or a :class:`TrainingMetrics`.
        :param step: the optimizer step, an int64; wins over the mapping's.
        :raises TypeError: a value is no number, a name no string, or `timestamp` no datetime.
        :raises ValueError: there is no value at all, a number is out of its column's range, a name cannot be a
            metric's or comes twice once flattened, or `timestamp` lies outside the years 1678 to 2261.
        """
        session = self._open_session()
        if session is not None:
            self._pushed(self._slow_path.log_row(self, session, metrics, step))

    def log_memory_usage(self) -> MemorySample | None:
        """Log a memory sample and return it; None where the logger is disabled or closed.

        The first call reads inline. Later ones never wait for a probe: they log and return the sampler's latest, whose
        `time_ns` says when it was taken, and the sampler takes a fresh one meanwhile. It is as old as the time since
        the call before, or `memory_interval_s`, whichever is less; `stale` is True where it is older than three
        intervals, since a probe hangs. With `memory_interval_s=0` every call reads inline.
        """
        session = self._open_session()
        if session is None:
            return None
        sample = session.parts.sampler.usage()
        kind, record = lib.ADVLOG_KIND_MEMORY, sample.metrics()
        self._pushed(self._slow_path.push_record(self, session, kind, record, sample.time_ns))
        return sample

    def _log_batch_slowly(self, *args: Any, **kwargs: Any) -> None:
        """Does what log_batch_progress does, with a call that C could not take as it is."""
        session = self._open_session()
        if session is not None:
            self._pushed(self._slow_path.log_batch(self, session, args, kwargs))

    def _log_performance_slowly(self, *args: Any, **kwargs: Any) -> None:
        """Does what log_performance_metrics does, likewise."""
        session = self._open_session()
        if session is not None:
            self._pushed(self._slow_path.log_performance(self, session, args, kwargs))

    def _pushed(self, status: int) -> None:
        """Counts a record that met the end of the log, and warns of it once."""
        if status not in (lib.ADVLOG_OK, lib.ADVLOG_FULL):
            self._open_session()

    def _open_session(self) -> Session | ChildSession | None:
        """Where a record goes; None where it goes nowhere: then it is counted and, once, warned of."""
        session = self._session
        if session is None:
            return None
        refused = session.admit(self)
        if refused is None:
            return session
        self._warn(*refused)
        return None

    def _warn(self, kind: str, message: str) -> None:
        # While the interpreter ends, threads and destructors that log on are nobody's mistake.
        ending = sys.is_finalizing() or (self._session is not None and self._session.at_exit)
        if message and kind not in self._warned and not ending:
            self._warned.add(kind)
            warnings.warn(message, RuntimeWarning, stacklevel=_levels_to_the_user())

    # -- the end, and questions ----------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything logged before is with the operating system; whether it was in time.

        :param timeout: seconds, up to 10**6; None is the option `close_timeout_s`.
        :raises TypeError: it is no number.
        :raises ValueError: it is out of range.
        """
        if self._session is None:
            return True
        return self._session.flush(self._seconds(timeout))

    def close(self, timeout: float | None = None) -> bool:
        """End the attempt: everything logged is written, sealed and summed up; whether it was in time.

        A second call waits for the first and says what it said. Logging afterwards warns once and counts. An interrupt
        (Ctrl-C) ends the wait; the end itself goes on, and another call waits for it again.

        :param timeout: seconds, up to 10**6; None is the option `close_timeout_s`.
        :raises TypeError: it is no number.
        :raises ValueError: it is out of range.
        """
        return self._close(timeout, None)

    def _seconds(self, timeout: float | None) -> float:
        if timeout is None:
            return self.config.close_timeout_s
        check_seconds("timeout", timeout, 0.0)
        return timeout

    def _close(self, timeout: float | None, status: str | None) -> bool:
        if self._session is None:
            return True
        return self._session.close(self._seconds(timeout), status)

    def health(self) -> Health:
        """The logger's own account, frozen: offered, accepted, each sink's written, dropped and pending, its cost."""
        if self._session is None:
            from .snapshots import Health

            return Health.nothing(self._off.status)
        return self._session.health()

    @property
    def attempt(self) -> int:
        """Which start of the run this is, from 1; 0 where the logger is disabled."""
        return 0 if self._session is None else self._session.parts.run.attempt

    @property
    def paths(self) -> dict[str, Path]:
        """Where each file of this rank is, by what it holds, but for outputs that are switched off; empty where the
        logger is disabled."""
        if self._session is None:
            return {}
        config, paths = self.config, self._session.paths
        text = config.writes_text(paths.rank)
        names = {
            "main_log": True,
            "training_log": text,
            "errors_log": True,
            "events_jsonl": True,
            "summary": True,
            "metrics_jsonl": config.jsonl,
            "metrics_parquet": config.parquet,
            "system_jsonl": config.jsonl,
            "system_parquet": config.parquet,
        }
        return {name: getattr(paths, name) for name, written in names.items() if written}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = None
        if error is not None and not (isinstance(error, SystemExit) and error.code in (None, 0)):
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            if isinstance(error, Exception):
                with contextlib.suppress(Exception):
                    self._control.log_leaving(error, "training")
        self._close(None, status)

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process a logger is a handle on this one: its records come into this run, marked by `worker`."""
        session = self._session
        if session is not None:
            from .engine.drain import expect_children

            expect_children()
        parent = None if session is None else session.parts.parent
        return _in_another_process, (type(self), str(self.config.log_dir), self.config.experiment_name, parent)

    def __repr__(self) -> str:
        state = "disabled" if self._session is None else "closed" if self._session.closed else f"attempt {self.attempt}"
        return f"<AdvancedLogger {self.config.experiment_name!r} in {str(self.config.log_dir)!r}: {state}>"


def _seal(session: Session | ChildSession, timeout_s: float) -> None:
    session.seal(timeout_s)
    # Again: what the sinks have written stands in it, and only now all of it is.
    session.parts.control.write_summary()


def _levels_to_the_user() -> int:
    """The `stacklevel` of a warning that is to name the first line outside of this package."""
    package, level = __name__.partition(".")[0], 1
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == package:
        frame = frame.f_back
        level += 1
    return level


def _in_another_process(
    kind: type[AdvancedLogger], log_dir: str, experiment_name: str, parent: ParentHandle | None
) -> AdvancedLogger:
    """The logger of a session that this process has open, else a handle: its first record opens a ring of its own."""
    if parent is None or os.environ.get("ADVLOG_DISABLED", "0") not in ("", "0"):
        return AdvancedLogger(log_dir, experiment_name, enabled=False)
    if parent.is_here():
        from .session import registry

        here = registry.living(parent)
        if isinstance(here, AdvancedLogger):
            return here
    from .engine.child import ChildSession

    logger = kind.__new__(kind)
    logger.config, logger.enabled, logger._warned = parent.config, True, set()
    logger._engine = ChildSession(parent)
    logger._load(experiment_name)
    logger._unbind()  # from here on its calls come to _open_session
    return logger
