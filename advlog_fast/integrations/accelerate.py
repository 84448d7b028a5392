"""Accelerate: a tracker for what `accelerator.log` gets, and every optimizer step of every rank.

Needs the extra `accelerate`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

from ..logger import AdvancedLogger
from .base import LazyRun, Stopwatch, detached, guard, log_clean, require, samples_in

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
    A step costs some microseconds.

    :param accelerator: the Accelerator.
    :param name: the experiment's name; None where `init_trackers` has made the run.
    :param log_dir: the folder of the run; None is the accelerator's `project_dir`, else `logs`.
    :param config: the training's configuration; None where `init_trackers` was given it.
    :param options: as of :class:`AdvancedLogger`.
    :raises TypeError: an option has the wrong type, or is unknown; there is no name.
    :raises ValueError: an option is out of its range.
    :raises OSError: the folder cannot be written.

    >>> log = open_on_all_ranks(accelerator, "digits", config={"learning_rate": 0.1})
    >>> accelerator.register_for_checkpointing(log)
    """
    tracker = next((each for each in accelerator.trackers if isinstance(each, AdvlogTracker)), None)
    if tracker is None:
        if name is None:
            name = getattr(accelerator, "_advlog_name", None)
        if name is None:
            raise TypeError("name: expected the name that init_trackers was given, since this rank has no tracker")
        tracker = AdvlogTracker(name, log_dir or accelerator.logging_dir or accelerator.project_dir, **options)
        accelerator.trackers.append(tracker)
    log = tracker.tracker
    if config is not None:
        tracker.store_init_configuration(config)
    if not tracker.run.has_raw:
        tracker.run.has_raw = True
        _Steps(accelerator, tracker.run)
    return log


class _Steps:
    """Logs the optimizer steps of an accelerator, whose methods it wraps."""

    def __init__(self, accelerator: Any, run: LazyRun) -> None:
        self.run = run
        self._accelerator = accelerator
        self._watch = Stopwatch()
        self._step = 0
        self._loss: Any = None
        self._losses = 0
        self._is_whole = False
        """Whether the losses are those of a whole step."""
        self._lossless = 0
        """Steps of optimizers before a loss was seen."""
        self._gradient_norm: Any = None
        self._samples: int | None = None
        self._seen: set[int] = set()
        """Models and optimizers that are watched, by their ids; the accelerator keeps them."""
        for name, around in (
            ("backward", self._backward),
            ("clip_grad_norm_", self._clip),
            ("save_state", self._saving),
            ("load_state", self._loading),
            ("prepare", self._preparing),
            ("end_training", self._ending),
        ):
            _wrap(accelerator, name, around)
        self._watch_prepared()

    def _preparing(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        prepared = method(*args, **kwargs)
        self._watch_prepared()
        return prepared

    @guard
    def _watch_prepared(self) -> None:
        """Has models say when a batch comes, and optimizers when a step is done."""
        for model in getattr(self._accelerator, "_models", ()):
            # A hook on a compiled model would break its graph.
            if id(model) not in self._seen and not hasattr(model, "_orig_mod"):
                self._seen.add(id(model))
                model.register_forward_pre_hook(self._batch_came, with_kwargs=True)
        for optimizer in getattr(self._accelerator, "_optimizers", ()):
            inner = getattr(optimizer, "optimizer", optimizer)
            if id(optimizer) not in self._seen and hasattr(inner, "register_step_post_hook"):
                self._seen.add(id(optimizer))
                inner.register_step_post_hook(self._stepped)

    @guard
    def _batch_came(self, model: Any, args: Any, kwargs: Any) -> None:
        if not getattr(model, "training", False):
            return
        if self._samples is None:
            self._watch.begin()
        found = samples_in((args, kwargs))
        if found is not None:
            self._samples = found + (self._samples or 0)

    def _backward(self, method: Callable[..., Any], loss: Any, *args: Any, **kwargs: Any) -> Any:
        result = method(loss, *args, **kwargs)
        self._take_loss(loss)
        return result

    @guard
    def _take_loss(self, loss: Any) -> None:
        if self._is_whole:  # no optimizer has said that it made that step, as where a scaler skips one
            self._log_step()
        share = detached(loss)
        self._loss = share if self._loss is None else self._loss + share
        self._losses += 1
        self._is_whole = bool(self._accelerator.sync_gradients)

    def _clip(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        norm = method(*args, **kwargs)
        self._gradient_norm = detached(norm)
        return norm

    @guard
    def _stepped(self, optimizer: Any, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        if self._is_whole:
            self._log_step(optimizer.param_groups[0].get("lr"))
        elif not self._step:
            self._lossless += 1

    def _log_step(self, learning_rate: Any = None) -> None:
        batch_time, data_time = self._watch.end()
        self._step += 1
        log, loss = self.run.log, self._loss
        if log is not None and loss is not None:
            log.log_batch_progress(
                None,
                None,
                None,
                loss if self._losses == 1 else loss / self._losses,
                learning_rate=learning_rate,
                gradient_norm=self._gradient_norm,
                batch_time=batch_time,
                data_time=data_time,
                step=self._step,
                samples=self._samples,
            )
        self._loss = self._gradient_norm = self._samples = None
        self._losses, self._is_whole = 0, False

    def _saving(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        log = self.run.log
        if log is None:
            return method(*args, **kwargs)
        try:
            with log.training_context("checkpoint"):
                return method(*args, **kwargs)
        finally:
            self._watch.restart()

    def _loading(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        self._go_on_from_there()
        return result

    @guard
    def _go_on_from_there(self) -> None:
        if self.run.log is not None:
            resumed = self.run.log.get_training_summary().get("resumed_from") or {}
            self._step = resumed.get("step") or self._step
        self._watch.restart()

    def _ending(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._check()
        return method(*args, **kwargs)

    @guard
    def _check(self) -> None:
        if self._is_whole:
            self._log_step()
        if self._lossless and not self._step:
            self.run.fault("backward", "optimizers have stepped, and accelerator.backward was never called with a loss")


def _wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    method = getattr(owner, name)

    @functools.wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return around(method, *args, **kwargs)

    setattr(owner, name, wrapped)


__all__ = ["AdvlogTracker", "open_on_all_ranks", "register"]
