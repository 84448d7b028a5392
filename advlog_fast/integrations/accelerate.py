"""Accelerate: a tracker for what `accelerator.log` gets, and every optimizer step of every rank.

Needs the extra `accelerate`.
"""

from __future__ import annotations

import functools
import os
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, cast

from ..logger import AdvancedLogger
from .base import LazyRun, Stopwatch, guard, require, wrap
from .values import detached, log_clean, samples_in

_tracking = require("accelerate.tracking", "accelerate")


class AdvlogTracker(_tracking.GeneralTracker):  # type: ignore[misc, name-defined]
    """What `accelerator.log` gets, as records of a run: `Accelerator(log_with="advlog", project_dir="logs")`, after
    :func:`register`.

    Accelerate makes trackers on the main process only; :func:`open_on_all_ranks` has every step of every rank logged.
    Strings and lists become an event. A name that no file can have is replaced.

    :param run_name: the experiment's name.
    :param logging_dir: the folder of the run; Accelerate gives its `project_dir`.
    :param options: as of :class:`AdvancedLogger`.
    :raises TypeError: an option has the wrong type, or is unknown.
    :raises ValueError: an option is out of its range.

    >>> accelerator = Accelerator(log_with=[AdvlogTracker("digits", "logs")])
    """

    name = "advlog"
    requires_logging_directory = True
    main_process_only = False

    def __init__(self, run_name: str, logging_dir: str | os.PathLike[str] | None = None, **options: Any) -> None:
        super().__init__()
        self.run = LazyRun(logging_dir or "logs", run_name, options)

    @property
    def tracker(self) -> AdvancedLogger:
        """The logger of this rank, for calls of your own; opens the run.

        :raises OSError: the folder cannot be written.
        :raises RunBusyError: another process logs this rank.
        """
        from accelerate import PartialState

        state = PartialState()
        return self.run.open(state.process_index, state.num_processes)

    @guard
    def start(self) -> None:
        """Opens the run."""
        _ = self.tracker

    @guard
    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Begins the training with its configuration."""
        self.tracker.start_training(values)

    @guard
    def log(self, values: Mapping[str, Any], step: int | None = None, **_: Any) -> None:
        """Logs one record. Where the raw losses of steps are logged too, `loss` becomes `train/loss`."""
        if self.run.has_raw:
            values = {"train/loss" if name == "loss" else name: value for name, value in values.items()}
        log_clean(self.tracker, values, step)

    @guard
    def finish(self) -> None:
        """Ends the training and the run."""
        self.run.end()
        self.run.close()


def register() -> None:
    """Makes `Accelerator(log_with="advlog")` known."""
    _tracking.register_tracker_class(AdvlogTracker)


def open_on_all_ranks(
    accelerator: Any,
    name: str | None = None,
    log_dir: str | os.PathLike[str] | None = None,
    config: Mapping[str, Any] | None = None,
    **options: Any,
) -> AdvancedLogger:
    """Logs each optimizer step of each rank, without waiting for a device; returns this rank's logger.

    Call it once on every rank, after `init_trackers` or in its place. A step has the mean of the losses that
    `accelerator.backward` was given, `gradient_norm` where `accelerator.clip_grad_norm_` is called, `learning_rate`,
    `batch_time`, `data_time` and `samples`; steps count from 1. Saved and loaded states are blocks `checkpoint` of the
    run. To have a resumed training go on in one series, give the logger to `accelerator.register_for_checkpointing`.
    With several optimizers each has its steps, and a step of several batches has no loss. A step costs some
    microseconds.

    :param accelerator: the Accelerator.
    :param name: the experiment's name; None where `init_trackers` has made the run.
    :param log_dir: the folder of the run; None is the accelerator's `project_dir`, else `logs`.
    :param config: the training's configuration; None where `init_trackers` was given it.
    :param options: as of :class:`AdvancedLogger`.
    :raises TypeError: an option has the wrong type, or is unknown; there is no name.
    :raises ValueError: an option is out of its range.
    :raises OSError: the folder cannot be written.
    :raises RunBusyError: another process logs this rank.

    >>> log = open_on_all_ranks(accelerator, "digits", config={"learning_rate": 0.1})
    >>> accelerator.register_for_checkpointing(log)
    """
    tracker = next((each for each in accelerator.trackers if isinstance(each, AdvlogTracker)), None)
    if tracker is None:
        if name is None:
            raise TypeError("name: expected the name that init_trackers was given, because this rank has no tracker")
        tracker = AdvlogTracker(name, log_dir or accelerator.logging_dir or accelerator.project_dir, **options)
        accelerator.trackers.append(tracker)
    log = tracker.tracker
    if config is not None:
        tracker.store_init_configuration(config)
    if getattr(accelerator, "_advlog_steps", None) is None:
        tracker.run.log_raw()
        accelerator._advlog_steps = _Steps(accelerator, tracker.run)
    return log


class _Steps:
    """Logs the optimizer steps of an accelerator, whose methods it wraps."""

    def __init__(self, accelerator: Any, run: LazyRun) -> None:
        self.run = run
        self._accelerator = accelerator
        self._watch = Stopwatch()
        self._step = 0
        self._loss: Any = None
        self._batches = 0
        """Batches whose losses are in `_loss`."""
        self._step_is_complete = False
        """Whether they are all of an optimizer step."""
        self._steps_without_loss = 0
        """Steps of optimizers before a loss was seen."""
        self._gradient_norm: Any = None
        self._samples: int | None = None
        self._last_batch: tuple[float, int | None] | None = None
        """When the last batch came, and its samples, until it has a loss."""
        self._watched: weakref.WeakSet[Any] = weakref.WeakSet()
        """Data loaders and optimizers."""
        for name, around in (
            ("backward", self._backward),
            ("clip_grad_norm_", self._clip),
            ("save_state", self._checkpoint),
            ("load_state", self._loading),
            ("prepare", self._preparing),
            ("end_training", self._ending),
        ):
            wrap(accelerator, name, around)
        self._watch_prepared()

    def _preparing(self, _: Any, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        prepared = method(*args, **kwargs)
        self._watch_prepared()
        return prepared

    @guard
    def _watch_prepared(self) -> None:
        """Has data loaders say when a batch comes, and optimizers when a step is done. Models are left as they are: a
        hook would be saved with them."""
        for loader in getattr(self._accelerator, "_dataloaders", ()):
            if loader not in self._watched:
                self._watched.add(loader)
                kind: Any = type(loader)
                # Accelerate's own __class__ is a property: it says what the loader stands for.
                object.__dict__["__class__"].__set__(loader, _reporting(kind))
                loader._advlog_steps = weakref.ref(self)
        for optimizer in getattr(self._accelerator, "_optimizers", ()):
            inner = getattr(optimizer, "optimizer", optimizer)
            if inner not in self._watched and hasattr(inner, "register_step_post_hook"):
                self._watched.add(inner)
                inner.register_step_post_hook(self._stepped)

    @guard
    def take_batch(self, batch: Any) -> None:
        """A data loader gives a batch."""
        self._last_batch = time.perf_counter(), samples_in(batch)

    def _backward(self, _: Any, method: Callable[..., Any], loss: Any, *args: Any, **kwargs: Any) -> Any:
        result = method(loss, *args, **kwargs)
        self._take_loss(loss)
        return result

    @guard
    def _take_loss(self, loss: Any) -> None:
        is_new = self._last_batch is not None or not self._watched
        if self._step_is_complete and is_new:  # no optimizer has told of that step, as where a scaler skips one
            self._log_step()
        share = detached(loss)
        self._loss = share if self._loss is None else self._loss + share
        self._step_is_complete = bool(self._accelerator.sync_gradients)
        if not is_new:
            return
        self._batches += 1
        came, self._last_batch = self._last_batch, None
        if came is not None:
            if self._batches == 1:
                self._watch.begin(came[0])
            if came[1] is not None:
                self._samples = came[1] + (self._samples or 0)

    def _clip(self, _: Any, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        norm = method(*args, **kwargs)
        self._gradient_norm = detached(norm)
        return norm

    @guard
    def _stepped(self, optimizer: Any, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        if self._step_is_complete:
            self._log_step(optimizer.param_groups[0].get("lr"))
        elif not self._step:
            self._steps_without_loss += 1

    def _log_step(self, learning_rate: Any = None) -> None:
        batch_time, data_time = self._watch.end()
        self._step += 1
        log, loss = self.run.log, self._loss
        if log is not None:
            if len(getattr(self._accelerator, "_optimizers", ())) > 1 and self._batches > 1:
                loss = None  # the losses of several optimizers, which cannot be told apart
            elif self._batches > 1:
                loss = loss / self._batches
            log.log_batch_progress(
                None, self._step, None, loss, learning_rate=learning_rate, gradient_norm=self._gradient_norm,
                batch_time=batch_time, data_time=data_time, step=self._step, samples=self._samples,
            )  # fmt: skip
        self._loss = self._gradient_norm = self._samples = None
        self._batches, self._step_is_complete = 0, False

    def _checkpoint(self, _: Any, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        log = self.run.log
        if log is None:
            return method(*args, **kwargs)
        try:
            with log.training_context("checkpoint"):
                return method(*args, **kwargs)
        finally:
            self._watch.restart()

    def _loading(self, accelerator: Any, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = self._checkpoint(accelerator, method, *args, **kwargs)
        self._go_on_from_there()
        return result

    @guard
    def _go_on_from_there(self) -> None:
        """The state that was loaded has the last step as its batch: the program's own records have other steps."""
        if self.run.log is not None:
            resumed = self.run.log.get_training_summary().get("resumed_from") or {}
            self._step = resumed.get("batch") or self._step

    def _ending(self, _: Any, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._check()
        return method(*args, **kwargs)

    @guard
    def _check(self) -> None:
        if self._step_is_complete:
            self._log_step()
        if self._steps_without_loss and not self._step:
            self.run.fault("backward", "optimizers have stepped, and accelerator.backward was never called with a loss")


@functools.cache
def _reporting(kind: Any) -> Any:
    """Returns a subclass of a data loader class that reports each batch."""

    def batches(self: Any) -> Any:
        steps = self._advlog_steps()
        for batch in kind.__iter__(self):
            if steps is not None:
                steps.take_batch(batch)
            yield batch

    def reduced(self: Any, protocol: Any) -> Any:
        """A copy or a pickle is one of the class itself."""
        made, arguments, state, *rest = cast("tuple[Any, ...]", object.__reduce_ex__(self, protocol))
        state = {name: value for name, value in state.items() if name != "_advlog_steps"}
        return (made, tuple(kind if each is type(self) else each for each in arguments), state, *rest)

    named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), {"__iter__": batches, "__reduce_ex__": reduced, **named})


__all__ = ["AdvlogTracker", "open_on_all_ranks", "register"]
