"""What the integrations share: a run that opens late, hooks that never raise, methods wrapped, times of batches."""

from __future__ import annotations

import functools
import importlib
import os
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from ..config import LoggerConfig
from ..exceptions import warn_or_tell
from ..logger import AdvancedLogger
from ..store.paths import safe_name

_Hook = TypeVar("_Hook", bound=Callable[..., Any])


def require(module: str, extra: str) -> Any:
    """Imports a framework.

    :raises ModuleNotFoundError: it is not installed; the message says which extra has it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        message = f"advlog_fast.integrations.{extra} needs {error.name}: pip install 'advlog-fast[{extra}]'"
        raise ModuleNotFoundError(message, name=error.name) from None


class LazyRun:
    """A framework's run, opened by the first hook that knows the rank, never by a constructor.

    Objects of one process with the same folder and name share one run, however many of them open it. It ends with the
    process, since testing and predicting come after a training's end; :meth:`close` ends it sooner. A copy, or what
    another process unpickles, is a run that is not open yet.

    :param log_dir: the folder of the run.
    :param name: the experiment's name; characters that no file name can have are replaced.
    :param options: as of :class:`AdvancedLogger`.
    :raises TypeError: an option has the wrong type, or is unknown.
    :raises ValueError: an option is out of its range.
    """

    def __init__(self, log_dir: str | os.PathLike[str], name: str, options: Mapping[str, Any]) -> None:
        self.log_dir, self.name = Path(log_dir), safe_name(name)
        self.options = {"console": "off", **options}
        LoggerConfig(log_dir=self.log_dir, experiment_name=self.name, **self.options)
        self._log: AdvancedLogger | None = None
        self._is_users = False
        self._resume: Mapping[str, Any] | None = None
        self._cannot_open = False
        _runs.add(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_log": None, "_cannot_open": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _runs.add(self)

    @property
    def key(self) -> tuple[str, str]:
        """Equal for all objects of one run."""
        return os.path.abspath(self.log_dir), self.name

    @property
    def has_raw(self) -> bool:
        """Whether raw losses are logged too, by whatever object: an averaged one then needs another column."""
        return self.key in _raw

    def log_raw(self) -> None:
        """From now on raw losses are logged."""
        _raw.add(self.key)

    def use(self, logger: AdvancedLogger) -> None:
        """Logs into an open logger of the program's, which stays open."""
        self._log, self._is_users = logger, True
        self.log_dir, self.name = logger.config.log_dir, logger.config.experiment_name  # for copies in other processes

    @property
    def log(self) -> AdvancedLogger | None:
        """The logger, once it is open."""
        return self._log

    def open(self, rank: int | None = None, world_size: int | None = None) -> AdvancedLogger:
        """Returns the logger, opened if need be.

        A logger that was opened before the framework had started its ranks is closed, and the run goes on in the
        attempt that all of them join.

        :raises OSError: the folder cannot be written.
        :raises RunBusyError: another process logs this rank.
        """
        before = None if self._is_users or self._log is None else _world_size(self._log)
        if before is not None and world_size not in (None, before):
            self._restart(rank, world_size)
        if self._log is None:
            if self._cannot_open:
                raise RuntimeError(f"the run {self.name!r} in {self.log_dir} could not be opened before")
            self._cannot_open = True
            self._log = self._opened(rank, world_size)
            self._cannot_open = False
            state, self._resume = self._resume, None
            self.resume(state)
        return self._log

    def _restart(self, rank: int | None, world_size: int | None) -> None:
        """Ends the attempt, of all objects of this process that log into it, and has them log into a new one."""
        runs = [run for run in _runs if run.key == self.key and run._log is not None]
        has_raw = self.has_raw
        for run in runs:
            run.close()
        if has_raw:
            self.log_raw()
        for run in runs:
            run._log = run._opened(rank, world_size)

    def _opened(self, rank: int | None, world_size: int | None) -> AdvancedLogger:
        options = {"rank": rank, "world_size": world_size, **self.options}
        with suppress(ValueError):
            return AdvancedLogger.shared(self.log_dir, self.name, **options)
        # The program has the run open itself, with options of its own.
        return AdvancedLogger.shared(self.log_dir, self.name)

    def resume(self, state: Mapping[str, Any] | None) -> None:
        """Loads a state of :meth:`state`, now or when the run opens. A training of this process that has ended is an
        attempt of its own, and this one another."""
        if self._log is None:
            self._resume = state
        elif state:
            if self._log.health().status != "running" and not self._is_users:
                ranks = getattr(self._log._session, "_ranks", None)
                self._restart(getattr(ranks, "rank", None), getattr(ranks, "world_size", None))
            self._log.load_state_dict(state)

    def begin(self, *, continues: bool) -> AdvancedLogger:
        """Returns the logger for a training that begins. Where another one has ended in this process, it is another
        attempt.

        :param continues: whether it goes on from where that one ended.
        :raises OSError: the folder cannot be written.
        """
        log = self.open()
        if log.health().status != "running" and not self._is_users:
            state = log.state_dict()
            ranks = getattr(log._session, "_ranks", None)
            self._restart(getattr(ranks, "rank", None), getattr(ranks, "world_size", None))
            log = self.open()
            if continues:
                log.load_state_dict(state)
        return log

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps: the position in the run; nothing while it is not open."""
        return {} if self._log is None else self._log.state_dict()

    def end(self, status: str | None = None) -> None:
        """Ends the training, unless it has ended; the logger stays open."""
        if self._log is not None and self._log.health().status == "running":
            self._log.end_training(status=status)

    def fail(self, error: BaseException, operation: str) -> None:
        """Logs the exception that leaves the training, and ends it, unless it has ended."""
        if self._log is None or self._log.health().status != "running":
            return
        # What a framework raises to stop in order is no error of the program's.
        stopped = isinstance(error, (KeyboardInterrupt, SystemExit)) or "SIGTERM" in type(error).__name__
        if not stopped:
            self._log.log_error(error, operation)
        self.end("interrupted" if stopped else "failed")

    def close(self) -> None:
        """Ends the run, unless others share it."""
        log, self._log = self._log, None
        if not any(run.key == self.key and run._log is not None for run in _runs):
            _raw.discard(self.key)
        if log is not None and not self._is_users:
            log.close()

    def fault(self, hook: str, what: BaseException | str) -> None:
        """Takes in that an integration does not work as it should: an entry of the errors log, a count in
        `health().hook_faults`, a warning for the first of a hook."""
        counts = _faults if self._log is None else _counts(self._log)
        counts[hook] = counts.get(hook, 0) + 1
        with suppress(Exception):
            if self._log is not None:
                self._log.log_error(what, f"integration: {hook}", severity="ERROR")
        if counts[hook] == 1:
            said = what if isinstance(what, str) else f"{type(what).__name__}: {what}"
            warn_or_tell(f"advlog_fast: {hook}: {said}")

    @property
    def raises(self) -> bool:
        """Whether faults of hooks are raised, as the option `on_misuse` says."""
        return LoggerConfig(log_dir=self.log_dir, experiment_name=self.name, **self.options).raises_on_misuse


_runs: weakref.WeakSet[LazyRun] = weakref.WeakSet()
_raw: set[tuple[str, str]] = set()
"""The keys of runs that have raw losses."""
_faults: dict[str, int] = {}
"""Of runs that are not open."""


def _world_size(log: AdvancedLogger) -> int | None:
    ranks = getattr(log._session, "_ranks", None)
    return None if ranks is None else int(ranks.world_size)


def _counts(log: AdvancedLogger) -> dict[str, int]:
    session = log._session
    return _faults if session is None else session.entry.hook_faults


def guard(hook: _Hook) -> _Hook:
    """Makes a method of an object with an attribute `run` raise nothing: a fault is taken in by :meth:`LazyRun.fault`.

    With the option `on_misuse="raise"` it raises, for tests.
    """

    @functools.wraps(hook)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return hook(self, *args, **kwargs)
        except Exception as error:
            if self.run.raises:
                raise
            self.run.fault(hook.__name__, error)
            return None

    return cast("_Hook", guarded)


class Wrapped:
    """A method of an object, with something around it: `around(of, method, *args, **kwargs)`.

    A copy of the object, and what is unpickled of it, have the method of the copy.

    :param of: what `around` is given: the object, or another one that has it.
    :param before: the method, where it was the object's own and not its class's.
    """

    def __init__(self, owner: Any, name: str, around: Callable[..., Any], of: Any, before: Any = None) -> None:
        # Strong: in `Trainer(...).train()` nothing else holds the owner while the call is made.
        self.owner, self.of = owner, of
        self.name, self.around, self.before = name, around, before

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        method = self.before or getattr(type(self.owner), self.name).__get__(self.owner)
        return self.around(self.of, method, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        owner, of = (memo.get(id(each), each) for each in (self.owner, self.of))
        return Wrapped(owner, self.name, self.around, of, self.before)

    def __reduce__(self) -> tuple[Any, ...]:
        return Wrapped, (self.owner, self.name, self.around, self.of, self.before)


def wrap(owner: Any, name: str, around: Callable[..., Any], of: Any = None) -> None:
    """Puts something around a method of an object, once: see :class:`Wrapped`. Nothing where it has no such method."""
    before = vars(owner).get(name)
    if hasattr(owner, name) and not isinstance(before, Wrapped):
        setattr(owner, name, Wrapped(owner, name, around, owner if of is None else of, before))


def unwrap(owner: Any, name: str) -> None:
    """Takes away what :func:`wrap` has put there."""
    wrapped = vars(owner).get(name)
    if isinstance(wrapped, Wrapped):
        if wrapped.before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, wrapped.before)


class Stopwatch:
    """The times of batches, by the host's clock: no device is waited for.

    `batch_time` is from the end of the batch before to this one's; `data_time` the part of it before the batch was
    there. What happens in between, such as an evaluation, is left out by :meth:`restart`.
    """

    def __init__(self) -> None:
        self._before = self._began = time.perf_counter()

    def restart(self) -> None:
        """What comes next begins now."""
        self._before = self._began = time.perf_counter()

    def begin(self, now: float | None = None) -> None:
        """A batch is there.

        :param now: since when, by `time.perf_counter`; None is now.
        """
        self._began = time.perf_counter() if now is None else now

    def end(self) -> tuple[float, float]:
        """A batch is done; returns its `batch_time` and `data_time` in seconds."""
        now, before = time.perf_counter(), self._before
        self._before = now
        return now - before, max(self._began - before, 0.0)


class Contexts:
    """Blocks of a training that begin in one hook and end in another."""

    def __init__(self) -> None:
        self._open: list[tuple[str, Any]] = []

    def enter(self, log: AdvancedLogger, name: str) -> None:
        """Begins a block."""
        context = log.training_context(name)
        context.__enter__()
        self._open.append((name, context))

    def leave(self, name: str) -> None:
        """Ends the block of that name, and those in it; nothing where there is none."""
        if any(open_ == name for open_, _ in self._open):
            while self._open:
                open_, context = self._open.pop()
                context.__exit__(None, None, None)
                if open_ == name:
                    break

    def leave_all(self, error: BaseException) -> None:
        """An exception has left all blocks."""
        while self._open:
            self._open.pop()[1].__exit__(type(error), error, error.__traceback__)
