"""`init`, `log` and `finish`, as programs call them: `from advlog_fast.integrations import wandb_style as wandb`."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..config import LoggerConfig
from ..exceptions import warn_or_tell
from ..logger import AdvancedLogger
from .base import LazyRun, guard
from .values import log_clean

if TYPE_CHECKING:
    from typing_extensions import Self


class Run:
    """A run that :func:`init` has begun.

    :ivar config: the configuration; what is set later is logged as a hyperparameter.
    :ivar summary: values for the end, by name.
    """

    def __init__(self, run: LazyRun, config: Mapping[str, Any]) -> None:
        self.run = run
        self.config = _Config(config, run)
        self.summary: dict[str, Any] = {}
        self._waiting: dict[str, Any] = {}
        """Values of the record that is not complete yet."""
        self._step = 0
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.run.name

    @property
    def logger(self) -> AdvancedLogger | None:
        """The logger, for its other calls; None after the end."""
        return self.run.log

    @guard
    def log(self, data: Mapping[str, Any], step: int | None = None, commit: bool = True) -> None:
        """Logs one record.

        :param data: names to numbers; nested mappings are flattened with `/`, strings and lists become an event.
        :param step: the step, which may go back; None is one more than the last.
        :param commit: False keeps the values for the record of the next call, unless that has another step.
        """
        with self._lock:
            if step is not None and self._waiting and step != self._step:
                self._commit()
            if step is not None:
                self._step = int(step)
            self._waiting.update(data)
            if commit:
                self._commit()
                self._step += 1

    def _commit(self) -> None:
        waiting, self._waiting = self._waiting, {}
        if self.run.log is not None and waiting:
            log_clean(self.run.log, waiting, self._step)

    @guard
    def finish(self, exit_code: int | None = None) -> None:
        """Ends the run.

        :param exit_code: any but 0 and None is a failure.
        """
        global run
        with self._lock:
            self._commit()
        if self.run.log is not None:
            self.run.log.end_training(self.summary or None, "failed" if exit_code else None)
        self.run.close()
        if run is self:
            run = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._fail(error)
        self.finish()  # the status is set

    @guard
    def _fail(self, error: BaseException) -> None:
        self.run.fail(error, "run")

    def __getattr__(self, name: str) -> Any:
        if name not in _IGNORED:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return _ignored(name)


_IGNORED = {
    "alert": "the errors log and the console tell of trouble",
    "define_metric": "readers have every metric by step",
    "log_artifact": "keep files yourself, and log where with log.log_event()",
    "log_code": "the run has the commit and what differs from it",
    "save": "keep files yourself, and log where with log.log_event()",
    "unwatch": "nothing is watched",
    "watch": "log gradient norms as metrics",
}
_MEDIA = ("Audio", "Html", "Histogram", "Image", "Molecule", "Object3D", "Plotly", "Table", "Video")
_told: set[str] = set()


def _ignored(name: str) -> Any:
    """Returns what W&B has under that name, doing nothing but to warn once."""

    def ignored(*_: Any, **__: Any) -> None:
        if name not in _told:
            _told.add(name)
            what = _IGNORED.get(name, "a run keeps numbers and text; log media with W&B itself beside it")
            warn_or_tell(f"advlog_fast: wandb.{name} does nothing: {what}")

    return ignored


class _Config(dict):  # type: ignore[type-arg]
    """A configuration whose later values are logged, by key or by attribute."""

    def __init__(self, values: Mapping[str, Any], run: LazyRun) -> None:
        super().__init__(values)
        object.__setattr__(self, "_run", run)

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        run: LazyRun = object.__getattribute__(self, "_run")
        if run.log is not None:
            run.log.log_hyperparameters({key: value})

    def update(self, values: Any = (), /, *, allow_val_change: bool = True, **more: Any) -> None:  # noqa: ARG002
        """Sets several; values may always change."""
        for key, value in {**dict(vars(values) if hasattr(values, "__dict__") else values), **more}.items():
            self[key] = value

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    __setattr__ = __setitem__


run: Run | None = None
"""The run that :func:`init` began last, until its end."""


def init(
    project: str | None = None,
    name: str | None = None,
    config: Any = None,
    dir: str | os.PathLike[str] | None = None,  # noqa: A002 - as programs call it
    *,
    group: str | None = None,
    tags: Sequence[str] | None = None,
    **options: Any,
) -> Run:
    """Begins a run, and makes it the one that :func:`log` logs into; one that is open is finished.

    :param project: the experiment's name, where there is no `name`, else the group of the run; None is `experiment`.
    :param name: the experiment's name.
    :param config: the training's configuration: a mapping, or an object with attributes.
    :param dir: the folder of the run; None is `logs`.
    :param group: what the run belongs to; None is the project, where there is a name.
    :param tags: words to find the run by.
    :param options: as of :class:`AdvancedLogger`; others of W&B's are ignored.
    :raises TypeError: an option has the wrong type.
    :raises ValueError: an option is out of its range.
    :raises OSError: the folder cannot be written.
    :raises RunBusyError: another process logs the run.

    >>> run = init("digits", config={"lr": 0.1}, dir="logs")
    >>> run.log({"loss": 0.5})
    >>> run.finish()
    """
    global run
    if run is not None:
        run.finish()
    known = {key: value for key, value in options.items() if key in LoggerConfig.__dataclass_fields__}
    given = {"group": group or (project if name else None), "tags": tuple(tags or ()), **known}
    lazy = LazyRun(dir or "logs", name or project or "experiment", given)
    values = dict(config if isinstance(config, Mapping) else vars(config) if config is not None else {})
    lazy.open().start_training(values)
    run = Run(lazy, values)
    return run


def log(data: Mapping[str, Any], step: int | None = None, commit: bool = True) -> None:
    """Logs one record into the run: see :meth:`Run.log`.

    :raises RuntimeError: :func:`init` was not called.
    """
    if run is None:
        raise RuntimeError("log: expected init() before it, and there is no run")
    run.log(data, step, commit)


def finish(exit_code: int | None = None) -> None:
    """Ends the run: see :meth:`Run.finish`. Does nothing where there is none."""
    if run is not None:
        run.finish(exit_code)


def __getattr__(name: str) -> Any:
    if name in ("config", "summary"):
        if run is None:
            raise AttributeError(f"{name}: expected init() before it, and there is no run")
        return getattr(run, name)
    if name in _IGNORED or name in _MEDIA:
        return _ignored(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}: it has init, log, finish, config and summary")
