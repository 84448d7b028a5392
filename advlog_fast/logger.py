"""The logger: the guide's calls over the engine. The hot call itself is in csrc/producer.c.

Above 500 lines because each public call stands here with its documentation; what they do stands elsewhere.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ._hooks import importing
from ._native import Producer, lib
from ._tensors import defers, is_late
from .config import LoggerConfig, check_seconds, checked_metric_name
from .control.checks import integer, metric_values, number, whole
from .exceptions import expected
from .records import CORE_METRICS, INTEGER_COLUMNS, MAX_METRIC_NAMES, ErrorLog, TrainingMetrics

if TYPE_CHECKING:
    from typing_extensions import Self

    from .control.contexts import DisabledContext, TrainingContext
    from .control.disabled import DisabledControl
    from .control.plane import ControlPlane
    from .control.worker import WorkerControl
    from .engine.child import Family, Worker
    from .sampling.memory_sampler import MemorySample
    from .session.session import Session
    from .snapshots import Health

_BATCH_ARGUMENTS = ("epoch", "batch", "total_batches", *CORE_METRICS, "step")
_REQUIRED = ("epoch", "batch", "total_batches", "loss")
_PERFORMANCE_ARGUMENTS = ("batch_time", "data_time")
_INT64_MAX = (1 << 63) - 1
_END_SECONDS = 10.0
_UNDO_SECONDS = 1.0
_YEARS = range(1678, 2262)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


class AdvancedLogger(Producer):
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
        experiment_name: str = "experiment",
        log_level: int = logging.INFO,
        max_log_files: int = 10,
        max_log_size: int = 10 * 1024 * 1024,
        *,
        metrics: Sequence[str] = (),
        text: bool = True,
        jsonl: bool = True,
        parquet: bool = True,
        training_log_every: int = 1,
        text_ranks: str = "rank0",
        rank: int | None = None,
        world_size: int | None = None,
        console: str = "auto",
        ring_bytes: int = 4 * 1024 * 1024,
        ring_dir: str | os.PathLike[str] | None = None,
        overflow: str = "block",
        overflow_timeout_s: float | None = 1.0,
        memory_interval_s: float = 5.0,
        part_interval_s: float = 300.0,
        part_rows: int = 1_000_000,
        close_timeout_s: float = 30.0,
        deferred_timeout_s: float = 60.0,
        fsync: str = "never",
        handle_signals: bool = False,
        capture_logging: bool = False,
        enabled: bool = True,
    ) -> None:
        options: dict[str, Any] = {
            "log_dir": log_dir,
            "experiment_name": experiment_name,
            "log_level": log_level,
            "max_log_files": max_log_files,
            "max_log_size": max_log_size,
            "metrics": metrics,
            "text": text,
            "jsonl": jsonl,
            "parquet": parquet,
            "training_log_every": training_log_every,
            "text_ranks": text_ranks,
            "rank": rank,
            "world_size": world_size,
            "console": console,
            "ring_bytes": ring_bytes,
            "ring_dir": ring_dir,
            "overflow": overflow,
            "overflow_timeout_s": overflow_timeout_s,
            "memory_interval_s": memory_interval_s,
            "part_interval_s": part_interval_s,
            "part_rows": part_rows,
            "close_timeout_s": close_timeout_s,
            "deferred_timeout_s": deferred_timeout_s,
            "fsync": fsync,
            "handle_signals": handle_signals,
            "capture_logging": capture_logging,
            "enabled": enabled,
        }
        self.config = LoggerConfig(**options)
        """The options, checked."""
        self.enabled = self.config.enabled and os.environ.get("ADVLOG_DISABLED", "0") in ("", "0")
        """False where every call is a no-op."""
        self._warned: set[str] = set()
        self._engine: Session | Worker | None = None
        with importing():  # not before: it brings in what only a logger needs, and below all that one at work needs
            from .control.disabled import DisabledControl
        self._off = DisabledControl(self.config.experiment_name)
        """What takes its calls where there is no session, or none any more."""
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

    @property
    def _session(self) -> Session | Worker | None:
        """The session; in a child process what stands for it there."""
        engine = self._engine
        if engine is not None and engine.pid != os.getpid():
            engine = self._engine = engine.in_child()
        return engine

    @property
    def _control(self) -> ControlPlane | WorkerControl | DisabledControl:
        session = self._session
        if session is not None:
            return session.control
        return self._off

    # -- the guide's calls: everything that is no batch ----------------------------------------------------------

    @property
    def logger(self) -> logging.Logger:
        """A logger of the standard library that writes to `NAME_main.log`. An exception that it is given, as by
        `log.logger.exception(...)`, is recorded as by `log_error`, its traceback in `NAME_errors.log`."""
        return self._plane.logger

    @property
    def log_level(self) -> int:
        """The option of that name. The main log alone can be told another level later: `log.logger.setLevel`."""
        return self.config.log_level

    def start_training(self, config: object = None) -> None:
        """Begin the training: its configuration and where it comes from (command line, host, job, versions, git
        commit) go to the main log and the summary; values whose keys look like secrets are masked.

        :param config: a mapping, or an object whose attributes are the settings: an argparse.Namespace, a dataclass.
        :raises TypeError: `config` is neither.
        """
        self._plane.start_training(config)

    def end_training(self, final_metrics: Mapping[str, Any] | None = None) -> None:
        """End the training: everything logged is written and sealed into Parquet; a disk that hangs is waited for twice
        10 s at most. The logger stays open.

        :raises TypeError: `final_metrics` is no mapping.
        """
        self._plane.end_training(final_metrics)
        session = self._session
        if session is not None and not session.closed:
            session.shielded(partial(_seal, session, min(_END_SECONDS, self.config.close_timeout_s)))

    def start_epoch(self, epoch: int, total_epochs: int | None = None) -> None:
        """Begin an epoch.

        :raises TypeError: an argument is no integer.
        """
        self._plane.start_epoch(epoch, total_epochs)

    def end_epoch(self, epoch: int, metrics: Mapping[str, Any] | None = None) -> None:
        """End an epoch: its duration, batches/s and samples/s are noted beside the metrics given.

        :raises TypeError: `epoch` is no integer, or `metrics` no mapping of names to numbers.
        """
        self._plane.end_epoch(epoch, metrics)

    def log_validation(self, epoch: int, metrics: Mapping[str, Any], is_best: bool = False) -> None:
        """Log a validation; the best so far is kept in the summary.

        :param metrics: names to numbers; nested mappings are flattened with `/`.
        :raises TypeError: an argument has the wrong type.
        """
        self._plane.log_validation(epoch, metrics, is_best)

    def log_hyperparameters(self, hyperparameters: object) -> None:
        """Log hyperparameters, of any types; values whose keys look like secrets are masked.

        :param hyperparameters: a mapping, or an object whose attributes they are.
        :raises TypeError: it is neither.
        """
        self._plane.log_hyperparameters(hyperparameters)

    def log_model_info(self, model: Any) -> None:
        """Log what a model is made of: parameters, buffers, bytes, dtypes, devices, layers. Reads no data.

        :raises TypeError: it is None.
        """
        self._plane.log_model_info(model)

    def log_error(
        self,
        error: BaseException | str,
        operation: str = "",
        context: Mapping[str, Any] | None = None,
        severity: str = "ERROR",
    ) -> ErrorLog:
        """Write an error to `NAME_errors.log` at once, with its traceback and causes, its category and context.

        Equal errors in a storm are counted, not written thousands of times.

        :param severity: DEBUG, INFO, WARNING, ERROR or CRITICAL.
        :raises TypeError: `error` is neither an exception nor a string, or `context` no mapping.
        :raises ValueError: the severity is unknown.
        """
        return self._plane.log_error(error, operation, context, severity)

    def log_recovery(self, operation: str, action: str, success: bool = True) -> None:
        """Log an attempt to recover from the last error of `operation`; the summary has success rates by category.

        :raises TypeError: an argument has the wrong type.
        """
        self._plane.log_recovery(operation, action, success)

    def log_event(self, name: str, /, **fields: Any) -> None:
        """Log an event of your own, with any fields, to `NAME_events.jsonl`, the main and the training log.

        :raises TypeError: the name is no string.
        """
        self._plane.log_event(name, **fields)

    def training_context(self, name: str) -> TrainingContext | DisabledContext:
        """A span of the training, for `with` or `async with`: start, end, duration, and an error that leaves it with
        its context, re-raised. Contexts nest.

        :raises TypeError: the name is no string.
        """
        return self._plane.training_context(name)

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

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Mark this attempt as resumed from where another one stood when `state_dict()` was taken. Its steps go on from
        there: readers leave out what that attempt logged later (:func:`read_run`).

        :raises TypeError: `state_dict` is no mapping.
        :raises ValueError: it is none that `state_dict()` gave.
        """
        self._plane.resume(state_dict)

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

        world_size = 1 if self._session is None else self._session.run.world_size
        return reduce_summary(self.get_training_summary(), world_size, timeout_s, group)

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
        time_ns = 0
        if isinstance(metrics, TrainingMetrics):
            if metrics.timestamp is not None:
                time_ns = _nanoseconds(metrics.timestamp)
            metrics = {name: value for name, value in vars(metrics).items() if name != "timestamp"}
        elif not isinstance(metrics, Mapping):
            raise TypeError(expected("metrics", "a mapping or a TrainingMetrics", metrics))
        session = self._open_session()
        if session is None:
            return
        record = _converted(metrics, session)
        if not record:
            raise ValueError(expected("metrics", "at least one value", metrics))
        if step is not None:
            record |= _converted({"step": step}, session)
        self._push(session, lambda: self._try_record(lib.ADVLOG_KIND_METRICS, time_ns, record), record)

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
        sample = session.sampler.usage()
        record = sample.metrics()
        self._push(session, lambda: self._try_record(lib.ADVLOG_KIND_MEMORY, sample.time_ns, record), record)
        return sample

    def _log_batch_slowly(self, *args: Any, **kwargs: Any) -> None:
        """What log_batch_progress does with a call that C could not take as it is."""
        given = _bound("log_batch_progress", _BATCH_ARGUMENTS, args, kwargs)
        for name in _REQUIRED:
            if name not in given:
                call = f"log_batch_progress(epoch, batch, total_batches, loss, ...), but {name!r} is missing"
                raise TypeError(f"{name}: expected {call}")
        session = self._open_session()
        if session is None:
            return
        for name in ("epoch", "batch"):
            if given[name] is None:
                raise TypeError(expected(name, "an integer", None))
        required = {name: given[name] for name in _REQUIRED}
        record = _converted({**required, **given}, session)
        arguments = {**dict.fromkeys(_REQUIRED), **record}
        self._push(session, lambda: self._try_batch(**arguments), record)
        for kind in map(type, given.values()):
            if hasattr(kind, "item") and hasattr(kind, "shape"):
                self._learn_scalar(kind, defers(kind))  # the next call with such a value need not come here

    def _log_performance_slowly(self, *args: Any, **kwargs: Any) -> None:
        """Likewise of log_performance_metrics."""
        given = _bound("log_performance_metrics", _PERFORMANCE_ARGUMENTS, args, kwargs)
        for name in given:
            if name not in _PERFORMANCE_ARGUMENTS:
                raise TypeError(f"{name}: expected log_performance_metrics(batch_time, data_time=None)")
        if given.get("batch_time") is None:
            raise TypeError(expected("batch_time", "seconds", None))
        session = self._open_session()
        if session is None:
            return
        record = _converted(given, session)
        self._push(session, lambda: self._try_performance(**record), record)

    def _push(self, session: Session | Worker, try_push: Callable[[], int], record: Mapping[str, Any]) -> None:
        """Sees the record into the ring, or counted as dropped."""
        from .engine.ring import slots_for

        slots = slots_for(len(record))
        while (status := session.push(try_push, slots)) == lib.ADVLOG_SLOW:
            if not self._learn_names(session, record):
                return
        if status == lib.ADVLOG_TOO_LONG:
            wanted = f"fewer metrics in one call: the ring has {self.health().ring_slots} slots"
            raise ValueError(expected("metrics", wanted, len(record)))
        if status not in (lib.ADVLOG_OK, lib.ADVLOG_FULL):
            self._open_session()

    def _learn_names(self, session: Session | Worker, record: Mapping[str, Any]) -> bool:
        """False: the logger was closed meanwhile, and the record is counted."""
        # All or none: a record that is refused must not use up what the next one needs.
        names = [name for name in record if name not in CORE_METRICS and name not in INTEGER_COLUMNS]
        fits = session.has_room_for_names(names)
        for name in names:
            if not fits or not self._learn(name):
                if self._open_session() is None:
                    return False
                wanted = f"at most {MAX_METRIC_NAMES} different names, of 64 KiB in all"
                raise ValueError(expected("metrics", wanted, name))
        return True

    def _open_session(self) -> Session | Worker | None:
        """Where a record goes; None where it goes nowhere. Where that is a surprise it is said, once, and counted."""
        session = self._session
        if session is None:
            return None
        refused = session.admit(self)
        if refused is None:
            return session
        self._warn(*refused)
        return None

    @property
    def _plane(self) -> ControlPlane | WorkerControl | DisabledControl:
        """Where a call goes that is no record: after close() nowhere, which is said once."""
        session = self._session
        if session is None or not session.closed:
            return self._control
        self._warn("closed", session.after_close())
        return self._off

    def _warn(self, kind: str, message: str) -> None:
        # While the interpreter ends, threads and destructors that log on are nobody's mistake.
        ending = sys.is_finalizing() or (self._session is not None and self._session.at_exit)
        if message and kind not in self._warned and not ending:
            self._warned.add(kind)
            warnings.warn(message, RuntimeWarning, stacklevel=4)

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
        return 0 if self._session is None else self._session.run.attempt

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
        family = None if session is None else session.family
        return _in_another_process, (type(self), str(self.config.log_dir), self.config.experiment_name, family)

    def __repr__(self) -> str:
        state = "disabled" if self._session is None else "closed" if self._session.closed else f"attempt {self.attempt}"
        return f"<AdvancedLogger {self.config.experiment_name!r} in {str(self.config.log_dir)!r}: {state}>"


def _seal(session: Session | Worker, timeout_s: float) -> None:
    session.seal(timeout_s)
    # Again: what the sinks have written stands in it, and only now all of it is.
    session.control.write_summary()


def _in_another_process(
    kind: type[AdvancedLogger], log_dir: str, experiment_name: str, family: Family | None
) -> AdvancedLogger:
    """The logger of a session that this process has open, else a handle: its first record opens a ring of its own."""
    if family is None or os.environ.get("ADVLOG_DISABLED", "0") not in ("", "0"):
        return AdvancedLogger(log_dir, experiment_name, enabled=False)
    if family.is_here():
        from .session import registry

        here = registry.living(family)
        if isinstance(here, AdvancedLogger):
            return here
    from .control.disabled import DisabledControl
    from .engine.child import Worker

    logger = kind.__new__(kind)
    logger.config, logger.enabled, logger._warned = family.config, True, set()
    logger._engine = Worker(family)
    logger._off = DisabledControl(experiment_name)
    logger._unbind()  # from here on its calls come to _open_session
    return logger


def _bound(call: str, order: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by name, as Python would bind them."""
    if len(args) > len(order):
        raise TypeError(f"{call}: expected at most {len(order)} positional arguments, got {len(args)}")
    given = dict(zip(order, args, strict=False))
    for name, value in kwargs.items():
        if name in given:
            raise TypeError(f"{name}: expected one value, got another by keyword in {call}(...)")
        given[name] = value
    return given


def _nanoseconds(timestamp: Any) -> int:
    """Since 1970; a naive time is local.

    :raises TypeError: it is no datetime.
    :raises ValueError: it is too far from today for 64 bits.
    """
    if not isinstance(timestamp, datetime):
        raise TypeError(expected("timestamp", "a datetime", timestamp))
    if timestamp.year in _YEARS:
        with contextlib.suppress(OverflowError, OSError, ValueError):
            return (timestamp.astimezone(timezone.utc) - _EPOCH) // _MICROSECOND * 1000
    raise ValueError(expected("timestamp", f"a time in the years {_YEARS[0]} to {_YEARS[-1]}", timestamp))


def _converted(values: Mapping[str, Any], session: Session | Worker) -> dict[str, Any]:
    """A record that C takes as it is: exact ints and floats, names checked, nested mappings flattened, None left out;
    for what lies on an accelerator, what stands for it until it comes.

    :raises TypeError: a value is no number.
    :raises ValueError: a number is out of range, or a name cannot be a metric's.
    """
    record: dict[str, Any] = {}
    others: dict[str, Any] = {}
    late = session.deferral is not None
    for name, value in values.items():
        if value is None:
            continue
        if name in INTEGER_COLUMNS:
            record[name] = integer(name, value, -_INT64_MAX - 1, _INT64_MAX) if name == "step" else whole(name, value)
        elif name in CORE_METRICS:
            record[name] = number(name, value, late=late)
        else:
            others[name] = value
    if others:
        for name, value in metric_values("metrics", others, late=late).items():
            record[checked_metric_name(name)] = value
    tensors = {name: value for name, value in record.items() if is_late(value)}
    if session.deferral is not None and tensors:
        record.update(zip(tensors, session.deferral.defer(list(tensors.values())) or (), strict=True))
    return record
