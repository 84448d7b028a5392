"""Hugging Face's Trainer, and TRL's, which are subclasses: every optimizer step of every rank, with its raw loss.

Needs the extra `transformers`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from .base import LazyRun, Stopwatch, guard, require, wrap
from .values import clean, detached, log_clean, samples_in, total

_callbacks = require("transformers.trainer_callback", "transformers")

_NAME = "run"
_MOST_FRAMES = 20


class AdvlogCallback(_callbacks.TrainerCallback, _callbacks.ExportableState):  # type: ignore[misc, name-defined]
    """Logs each optimizer step of each rank: `Trainer(callbacks=[AdvlogCallback()])`, or `report_to="advlog"` after
    :func:`register`.

    A step has the loss that its `training_step` calls returned, summed as the Trainer sums them, before the Trainer
    replaces NaN (`logging_nan_inf_filter`), averages over `logging_steps` and gathers over ranks; `gradient_norm`,
    `learning_rate`, `batch_time`, `data_time` and `samples`; `step` is the Trainer's. No value is waited for. What the
    Trainer logs itself goes into records of its own on rank 0, its averaged `loss` as `train/loss`. Evaluations,
    checkpoints, exceptions and the end are logged too, and a checkpoint has the position in the run, so that a resumed
    training goes on from it. Each trial of a hyperparameter search is a run of its own, `NAME-TRIAL`. A step costs some
    microseconds.

    A callback that is given to the Trainer's constructor finds the Trainer by itself; after `trainer.add_callback`,
    call :meth:`attach`.

    :param log_dir: the folder of the run; None is `ADVLOG_DIR`, else `advlog` in the training's `output_dir`.
    :param name: the experiment's name; None is `ADVLOG_NAME`, else the training's `run_name`, else `run`.
    :param options: as of :class:`AdvancedLogger`.
    :raises TypeError: an option has the wrong type, or is unknown.
    :raises ValueError: an option is out of its range.

    >>> callback = AdvlogCallback("logs", "gpt2")
    """

    def __init__(self, log_dir: str | os.PathLike[str] | None = None, name: str | None = None, **options: Any) -> None:
        super().__init__()
        self._given = {"log_dir": None if log_dir is None else os.fspath(log_dir), "name": name, **options}
        self._options = options
        self.run = LazyRun(log_dir or "logs", name or _NAME, options)
        self._runs: dict[tuple[str, str], LazyRun] = {}
        """By their keys: one callback may serve several Trainers."""
        self._trials = 0
        self.resume: dict[str, Any] = {}
        """What a checkpoint has of the run; set by the Trainer where it restores callbacks."""
        self._watch = Stopwatch()
        self._epoch = 1
        self._passes = 0
        """Passes over the data in this training."""
        self._steps: int | None = None
        """Optimizer steps in the epoch."""
        self._epoch_begins = 0
        """The step before the epoch's first one."""
        self._first_step = 0
        self._has_logged = False
        self._loss: Any = None
        self._samples: int | None = None
        self._gradient_norm: Any = None
        self._learning_rate: Any = None

    # -- the Trainer, which no event names -------------------------------------------------------------------------

    def attach(self, trainer: Any) -> Any:
        """Adds the callback to a Trainer, unless it has it, and has raw losses, evaluations, checkpoints and exceptions
        logged; returns the Trainer.

        >>> trainer = AdvlogCallback("logs", "gpt2").attach(trainer)
        """
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        _wrap_methods(trainer)
        return trainer

    @guard
    def on_init_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Finds the Trainer that is being made."""
        if (trainer := _trainer_above(self)) is not None:
            _wrap_methods(trainer)

    # -- a training's beginning and end ----------------------------------------------------------------------------

    @guard
    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Opens the run."""
        trainer = _trainer_above(self)
        if trainer is not None:
            _wrap_methods(trainer)
        self._choose_run(args, state, new_trial=True)
        if trainer is not None and self._is_second(trainer):
            self.run = LazyRun(self.run.log_dir, self.run.name, self._options)  # never opened
            return
        if state.global_step:
            self.run.resume(self.resume or _saved(state))
        self.run.open(args.process_index, args.world_size)
        log = self.run.begin(continues=False)
        self.run.log_raw()
        log.start_training(args.to_sanitized_dict())
        if getattr(state, "trial_params", None):
            log.log_hyperparameters(state.trial_params)
        if model is not None:
            log.log_model_info(model)
        if args.logging_nan_inf_filter:
            log.logger.info(
                "logging_nan_inf_filter is on: where a loss is NaN or infinite, the Trainer reports a mean of others; "
                "the records of steps have it as it is. The filter waits for the device at each batch."
            )
        self._first_step, self._has_logged, self._passes = state.global_step, False, 0
        self._forget_step()
        self._watch.restart()

    def _choose_run(self, args: Any, state: Any, *, new_trial: bool = False) -> None:
        """What the arguments of the training say of the run; a trial has its own."""
        log_dir = self._given["log_dir"] or os.environ.get("ADVLOG_DIR") or os.path.join(args.output_dir, "advlog")
        run_name = args.run_name if args.run_name != args.output_dir else None
        name = self._given["name"] or os.environ.get("ADVLOG_NAME") or run_name or _NAME
        if getattr(state, "is_hyper_param_search", False):
            if new_trial:
                self._trials += 1
                self.run.close()  # that of the trial before
            name = f"{name}-{state.trial_name or f'trial{self._trials}'}"
        chosen = LazyRun(log_dir, name, self._options)
        self.run = self._runs.setdefault(chosen.key, chosen if chosen.key != self.run.key else self.run)

    def _is_second(self, trainer: Any) -> bool:
        """Whether another callback of the Trainer logs the run, as with `report_to` and `callbacks=` both."""
        callbacks = _callbacks_of(trainer)
        before = callbacks[: callbacks.index(self)] if self in callbacks else []
        return any(each.run.key == self.run.key and each.run.log is not None for each in before)

    @guard
    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Ends the training; the run stays open, for evaluations and predictions."""
        if self.run.log is None:
            return
        if state.global_step > self._first_step and not self._has_logged:
            what = "the Trainer has trained, and no loss of its training_step came: call AdvlogCallback.attach(trainer)"
            self.run.fault("training_step", what)
        self.run.end()

    # -- epochs and steps ------------------------------------------------------------------------------------------

    @guard
    def on_epoch_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Logs the start of an epoch."""
        done, self._passes = state.epoch or 0.0, self._passes + 1
        self._steps = _steps_in(train_dataloader, args)
        self._epoch, self._epoch_begins = math.floor(done + 1e-6) + 1, state.global_step
        if self._steps is None:  # the Trainer's own epoch is then a part of max_steps
            self._epoch = max(self._epoch, self._passes)
        elif not args.ignore_data_skip:
            self._epoch_begins -= round(max(done - (self._epoch - 1), 0.0) * self._steps)
        if (log := self.run.log) is not None:
            log.start_epoch(self._epoch, total(state.num_train_epochs))
            self._watch.restart()

    @guard
    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Begins a step's time."""
        self._watch.begin()

    def _take_loss(self, loss: Any, inputs: Any) -> None:
        """Takes in a micro-batch of the step: its share of the loss, on its device."""
        share = detached(loss)
        self._loss = share if self._loss is None else self._loss + share
        found = samples_in(inputs)
        if found is not None:
            self._samples = found + (self._samples or 0)

    def _take_gradient_norm(self, norm: Any) -> None:
        self._gradient_norm = detached(norm)

    @guard
    def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Takes in the learning rate, before the scheduler changes it."""
        groups = getattr(optimizer, "param_groups", None)
        self._learning_rate = groups[0].get("lr") if groups else None

    @guard
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Logs a step."""
        batch_time, data_time = self._watch.end()
        log, loss = self.run.log, self._loss
        if log is not None and loss is not None:
            self._has_logged = True
            log.log_batch_progress(
                self._epoch,
                state.global_step - self._epoch_begins,
                self._steps,
                loss,
                learning_rate=self._learning_rate,
                gradient_norm=self._gradient_norm,
                batch_time=batch_time,
                data_time=data_time,
                step=state.global_step,
                samples=self._samples,
            )
        self._forget_step()

    def _forget_step(self) -> None:
        self._loss = self._samples = self._gradient_norm = self._learning_rate = None

    @guard
    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Logs the end of an epoch."""
        if (log := self.run.log) is not None:
            log.end_epoch(self._epoch)

    # -- what the Trainer reports ----------------------------------------------------------------------------------

    @guard
    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Logs what the Trainer logs, on rank 0."""
        if (log := self.run.log) is not None and logs and state.is_world_process_zero:
            named = {"train/loss" if name == "loss" else name: value for name, value in dict(logs).items()}
            log_clean(log, named, state.global_step)

    @guard
    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Logs a validation, on rank 0."""
        trainer = _trainer_above(self)
        if metrics and state.is_world_process_zero and not (trainer is not None and self._is_second(trainer)):
            self._choose_run(args, state)
            log = self.run.open(args.process_index, args.world_size)
            numbers, _rest = clean({name: value for name, value in dict(metrics).items() if name != "epoch"})
            log.log_validation(max(math.ceil((state.epoch or 0.0) - 1e-6), 1), numbers, step=state.global_step)

    # -- a checkpoint's content ------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Returns what `trainer_state.json` keeps: how the callback was made, and the position in the run."""
        try:
            given = {name: value for name, value in self._given.items() if _is_plain(value)}
            return {"args": given, "attributes": {"resume": self.run.state()}}
        except Exception as error:  # noqa: BLE001 - a checkpoint must not fail with it
            self.run.fault("state", error)
            return {"args": {}, "attributes": {}}


def _is_plain(value: object) -> bool:
    """Whether JSON gives it back as it is."""
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False


def register() -> None:
    """Makes `TrainingArguments(report_to="advlog")` add the callback; the folder and the name are then `ADVLOG_DIR` and
    `ADVLOG_NAME`, or what :class:`AdvlogCallback` chooses.

    :raises RuntimeError: this version of transformers has no table of integrations; give the callback to the Trainer.
    """
    integrations = require("transformers.integrations.integration_utils", "transformers")
    table = getattr(integrations, "INTEGRATION_TO_CALLBACK", None)
    if table is None:
        raise RuntimeError("transformers has no table of integrations any more: pass callbacks=[AdvlogCallback()]")
    table["advlog"] = AdvlogCallback


def _saved(state: Any) -> dict[str, Any]:
    """The position that a checkpoint has of the run."""
    saved = (state.stateful_callbacks or {}).get(AdvlogCallback.__name__)
    if isinstance(saved, list):
        saved = saved[0] if saved else None
    return dict((saved or {}).get("attributes", {}).get("resume") or {})


def _steps_in(dataloader: Any, args: Any) -> int | None:
    """Optimizer steps of an epoch; None where the data have no length."""
    try:
        return math.ceil(len(dataloader) / args.gradient_accumulation_steps) or None
    except TypeError:
        return None


def _trainer_above(callback: AdvlogCallback) -> Any:
    """The Trainer that has called an event of the callback. Events are not given it, so it is looked for among the
    callers; None where there is none with this callback."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_MOST_FRAMES):
        if frame is None:
            break
        found = frame.f_locals.get("self")
        handler = getattr(found, "callback_handler", None)
        if hasattr(found, "training_step") and callback in getattr(handler, "callbacks", ()):
            return found
        frame = frame.f_back
    return None


def _callbacks_of(trainer: Any) -> list[AdvlogCallback]:
    """The Trainer's callbacks now: restoring a checkpoint may have put new ones in their place."""
    callbacks = getattr(trainer.callback_handler, "callbacks", ())
    return [each for each in callbacks if isinstance(each, AdvlogCallback)]


def _wrap_methods(trainer: Any) -> None:
    """Wraps methods of the Trainer that no event tells of, once."""
    wrap(trainer, "training_step", _training_step)
    wrap(trainer, "train", _failing)
    for name in ("evaluate", "predict", "_save_checkpoint"):
        wrap(trainer, name, functools.partial(_within, name.removeprefix("_save_")))
    if (accelerator := getattr(trainer, "accelerator", None)) is not None:
        wrap(accelerator, "clip_grad_norm_", _clip, of=trainer)


def _tell_callbacks(trainer: Any, what: str, take: Callable[[AdvlogCallback], None]) -> None:
    for callback in _callbacks_of(trainer):
        try:
            take(callback)
        except Exception as error:
            if callback.run.raises:
                raise
            callback.run.fault(what, error)


def _training_step(trainer: Any, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    loss = method(*args, **kwargs)
    inputs = args[1] if len(args) > 1 else kwargs.get("inputs")
    _tell_callbacks(trainer, "training_step", lambda callback: callback._take_loss(loss, inputs))
    return loss


def _clip(trainer: Any, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    norm = method(*args, **kwargs)
    _tell_callbacks(trainer, "clip_grad_norm_", lambda callback: callback._take_gradient_norm(norm))
    return norm


def _failing(trainer: Any, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return method(*args, **kwargs)
    except BaseException as error:
        left_by = error
        _tell_callbacks(trainer, "train", lambda callback: callback.run.fail(left_by, "train"))
        raise


def _within(name: str, trainer: Any, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Runs it in a block of that name, whose time is no step's."""
    callbacks = [callback for callback in _callbacks_of(trainer) if callback.run.log is not None]
    with contextlib.ExitStack() as blocks:
        for callback in callbacks:
            if callback.run.log is not None:
                blocks.enter_context(callback.run.log.training_context(name))
            blocks.callback(callback._watch.restart)
        return method(*args, **kwargs)


__all__ = ["AdvlogCallback", "register"]
