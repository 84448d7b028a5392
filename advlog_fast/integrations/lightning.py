"""Lightning: every batch of every rank by a callback, what `self.log` gives by a logger, both into one run.

Needs the extra `lightning`; works with `lightning` and with `pytorch_lightning`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from ..logger import AdvancedLogger
from ..records import INTEGER_COLUMNS
from .base import Contexts, LazyRun, Stopwatch, guard, require, unwrap, wrap
from .values import clean, log_clean, samples_in, total

# A program has one of the two packages, whose classes are not each other's.
if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
    _pytorch = require("pytorch_lightning", "lightning")
    _loggers = require("pytorch_lightning.loggers.logger", "lightning")
    _rank_zero = require("lightning_fabric.utilities.rank_zero", "lightning").rank_zero_only
else:
    _pytorch = require("lightning.pytorch", "lightning")
    _loggers = require("lightning.pytorch.loggers.logger", "lightning")
    _rank_zero = require("lightning.fabric.utilities.rank_zero", "lightning").rank_zero_only

_DIRECTORY = "logs"
_NAME = "lightning"


class AdvlogLogger(_loggers.Logger):  # type: ignore[misc, name-defined]
    """What a LightningModule or Fabric logs, as records of a run of its own: `Trainer(logger=AdvlogLogger())`,
    `Fabric(loggers=AdvlogLogger())`.

    Use it beside :class:`AdvlogCallback`, which logs each batch without waiting for a device: Lightning itself reads
    every value with `item()` before it comes here, by default each 50 steps. The `step` is Lightning's. Where the
    callback logs raw losses, a metric `loss` becomes `train/loss`. Strings and lists become an event. Rank 0 logs;
    every rank has `experiment`. A call costs a microsecond.

    :param save_dir: the folder of the run.
    :param name: the experiment's name.
    :param version: what Lightning calls the run's version; None is the number of the attempt.
    :param all_ranks: whether other ranks log their values too.
    :param options: as of :class:`AdvancedLogger`.
    :raises TypeError: an option has the wrong type, or is unknown.
    :raises ValueError: an option is out of its range.

    >>> logger = AdvlogLogger("logs", "digits")
    >>> logger.log_metrics({"val_loss": 0.25, "epoch": 0}, step=10)
    >>> logger.experiment.close()
    True
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str] = _DIRECTORY,
        name: str = _NAME,
        *,
        version: int | str | None = None,
        all_ranks: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.run = LazyRun(save_dir, name, options)
        self._version = version
        self._all_ranks = all_ranks

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.run.name

    @property
    def version(self) -> int | str | None:
        """The run's version: as given, or the number of the attempt; None before the run is open."""
        if self._version is not None or self.run.log is None:
            return self._version
        return self.run.log.attempt

    @property
    def save_dir(self) -> str:
        """The folder of the run."""
        return str(self.run.log_dir)

    @property
    def experiment(self) -> AdvancedLogger:
        """The logger of this rank, for calls of your own. Opens the run; where that fails, a warning says why, and the
        logger is a disabled one."""
        try:
            return self.run.open(*_rank_of_process())
        except Exception as error:
            if self.run.raises:
                raise
            self.run.fault("experiment", error)
            return AdvancedLogger(self.run.log_dir, self.run.name, console="off", enabled=False)

    @guard
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Logs one record."""
        if not self._is_silent():
            if self.run.has_raw:
                metrics = _beside_raw(metrics)
            log_clean(self.experiment, metrics, step)

    @guard
    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Logs hyperparameters: a mapping or a namespace."""
        if not self._is_silent():
            self.experiment.log_hyperparameters(params if isinstance(params, Mapping) else vars(params))

    @guard
    def finalize(self, status: str) -> None:
        """Ends the training, and writes what was logged; the run stays open, for tests and predictions."""
        if self.run.log is None:
            return
        if status == "failed":
            error = sys.exc_info()[1]
            self.run.fail(error, "training") if error is not None else self.run.end("failed")
        else:
            self.run.end("completed" if status == "success" else "interrupted")
        self.run.log.flush()

    def _is_silent(self) -> bool:
        return not self._all_ranks and getattr(_rank_zero, "rank", 0) not in (0, None)


def _beside_raw(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """An averaged loss must not stand in the column of raw ones, nor epochs be counted in two ways."""
    named = {"train/loss" if name == "loss" else name: value for name, value in metrics.items()}
    if type(named.get("epoch")) is int:
        named["epoch"] += 1
    return named


def _rank_of_process() -> tuple[int | None, int | None]:
    """This process's rank and the number of ranks, as far as torch or Lightning knows."""
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    rank = getattr(_rank_zero, "rank", None)
    return (rank, None) if rank else (None, None)


class AdvlogCallback(_pytorch.Callback):  # type: ignore[misc, name-defined]
    """Logs each batch of each rank, without waiting for a device: `Trainer(callbacks=[AdvlogCallback("logs", "run")])`.

    A batch has the loss that `training_step` returned (Lightning's own is divided by `accumulate_grad_batches`), the
    other single numbers of a returned mapping, `learning_rate`, `batch_time`, `data_time` and `samples`; `epoch` and
    `batch` count from 1, and `step` is what Lightning gives its loggers. Validations, checkpoints, exceptions and the
    end are logged too, and a checkpoint has the position in the run, so that a resumed training goes on from it.
    Nothing is logged in a `fast_dev_run`. A batch costs some microseconds.

    :param log_dir: the folder of the run; None is that of an :class:`AdvlogLogger` of the trainer, else `logs`.
    :param name: the experiment's name; None is that logger's name, else `lightning`.
    :param logger: an open logger to use instead, which stays open.
    :param every_n_batches: log one batch in so many.
    :param model_info: whether to log the model's parameters and layers at the start.
    :param options: as of :class:`AdvancedLogger`.
    :raises TypeError: an option has the wrong type, or is unknown.
    :raises ValueError: an option is out of its range.

    >>> callback = AdvlogCallback("logs", "digits", every_n_batches=10)
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        name: str | None = None,
        *,
        logger: AdvancedLogger | None = None,
        every_n_batches: int = 1,
        model_info: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        if every_n_batches < 1:
            raise ValueError(f"every_n_batches: expected 1 or more, got {every_n_batches!r}")
        self._takes_loggers = log_dir is None and name is None
        self.run = LazyRun(log_dir or _DIRECTORY, name or _NAME, options)
        if logger is not None:
            self.run.use(logger)
        self._every = every_n_batches
        self._model_info = model_info
        self._watch = Stopwatch()
        self._contexts = Contexts()
        self._before: dict[str, Any] = {}
        """The trainer's metrics when a validation began."""
        self._rate: Any = None
        self._batches = 0
        """That came in this fit."""
        self._first_step = 0
        self._state_key = "advlog_fast" if name is None else f"advlog_fast/{name}"
        self._is_automatic = False
        """Whether ADVLOG_DIR made it: it then leaves the batches to a callback of the program's."""

    # -- a fit's beginning and end ---------------------------------------------------------------------------------

    @guard
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ARG002
        """Opens the run."""
        if trainer.fast_dev_run or (self._is_automatic and _has_another(trainer, self)):
            return
        if self._takes_loggers:
            self.run = next((each.run for each in trainer.loggers if isinstance(each, AdvlogLogger)), self.run)
        self.run.open(trainer.global_rank, trainer.world_size)
        self.run.log_raw()
        wrap(trainer, "save_checkpoint", self._saving)

    @guard
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Logs what the training is."""
        log = None if self.run.log is None else self.run.begin(continues=trainer.global_step > 0)
        if log is None:
            return
        log.start_training(dict(getattr(pl_module, "hparams", None) or {}))
        if self._model_info:
            log.log_model_info(pl_module)
        self._batches, self._first_step = 0, trainer.global_step
        self._watch.restart()

    @guard
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Ends the training; the run stays open, for tests and predictions."""
        if self.run.log is None:
            return
        if trainer.global_step > self._first_step and not self._batches:
            self.run.fault("on_train_batch_end", "the trainer has trained, and this hook was never called")
        self.run.end("interrupted" if getattr(trainer, "received_sigterm", False) else "completed")

    @guard
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: ARG002
        """Logs the exception; the training has failed, or was interrupted by a Ctrl-C."""
        self._contexts.leave_all(exception)
        unwrap(trainer, "save_checkpoint")
        self.run.fail(exception, str(getattr(trainer.state.fn, "value", None) or "fit"))

    @guard
    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ARG002
        """Gives the trainer its own method back."""
        unwrap(trainer, "save_checkpoint")

    # -- batches and epochs ----------------------------------------------------------------------------------------

    @guard
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Logs the start of an epoch."""
        if (log := self.run.log) is not None:
            log.start_epoch(trainer.current_epoch + 1, total(trainer.max_epochs))
            self._watch.restart()

    @guard
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Begins a batch's time, and takes in its learning rate, before the scheduler changes it."""
        self._watch.begin()
        self._rate = _learning_rate(trainer)

    @guard
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Logs a batch."""
        batch_time, data_time = self._watch.end()
        self._batches += 1
        log = self.run.log
        if log is None or batch_idx % self._every:
            return
        loss, others = _of_step(outputs, trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1)
        epoch, batches = trainer.current_epoch + 1, total(trainer.num_training_batches)
        rate, step, samples = self._rate, _step_of(trainer), samples_in(batch)
        if not others:  # keywords that stand in the code are found faster
            log.log_batch_progress(
                epoch, batch_idx + 1, batches, loss, learning_rate=rate, batch_time=batch_time, data_time=data_time,
                step=step, samples=samples,
            )  # fmt: skip
            return
        more = {**others, "batch_time": batch_time, "data_time": data_time, "learning_rate": rate, "step": step}
        log.log_batch_progress(epoch, batch_idx + 1, batches, loss, **more, samples=samples)

    # Lightning passes over what it cannot call, and a hook of each batch costs microseconds even when it is empty.
    on_before_zero_grad = on_before_backward = on_after_backward = on_before_optimizer_step = None

    @guard
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Logs the end of an epoch."""
        if (log := self.run.log) is not None:
            log.end_epoch(trainer.current_epoch + 1)

    @guard
    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Begins the block `validate`."""
        self._begin_evaluation(trainer, "validate")

    @guard
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Logs the validation; not the sanity check before the training."""
        self._end_evaluation(trainer, "validate")

    @guard
    def on_test_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Begins the block `test`."""
        self._begin_evaluation(trainer, "test")

    @guard
    def on_test_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Logs the test, as a validation of that name."""
        self._end_evaluation(trainer, "test")

    def _begin_evaluation(self, trainer: Any, name: str) -> None:
        if self.run.log is not None:
            self._contexts.enter(self.run.log, name)
            self._before = dict(trainer.callback_metrics)

    def _end_evaluation(self, trainer: Any, name: str) -> None:
        if (log := self.run.log) is None:
            return
        self._contexts.leave(name)
        self._watch.restart()
        # What was there before, such as the epoch's mean loss, is no result of this evaluation.
        new = {key: value for key, value in trainer.callback_metrics.items() if value is not self._before.get(key)}
        if new and not trainer.sanity_checking:
            if name == "test":
                log.log_validation(new, step=_step_of(trainer), name=name)
            else:
                log.log_validation(trainer.current_epoch + 1, new, step=_step_of(trainer))

    def _saving(self, _trainer: Any, save: Any, *args: Any, **kwargs: Any) -> Any:
        """Has the trainer save within a block `checkpoint`: Lightning's own hook comes when a part is done."""
        log = self.run.log
        if log is None:
            return save(*args, **kwargs)
        try:
            with log.training_context("checkpoint"):
                return save(*args, **kwargs)
        finally:
            self._watch.restart()

    @property
    def state_key(self) -> str:
        """What the checkpoint calls the state."""
        return "advlog_fast.environment" if self._is_automatic else self._state_key

    @guard
    def state_dict(self) -> dict[str, Any]:
        """Returns the position in the run."""
        return self.run.state()

    @guard
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Marks the run as resumed from there."""
        self.run.resume(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_contexts": Contexts(), "_before": {}}


def _of_step(outputs: Any, divided_by: int) -> tuple[Any, dict[str, Any]]:
    """The loss of a training step, and the other single numbers that it returned."""
    if type(outputs) is not dict and not isinstance(outputs, Mapping):
        return (outputs if outputs is None or divided_by == 1 else outputs * divided_by), {}
    loss = outputs.get("loss")
    if divided_by != 1 and loss is not None:
        loss = loss * divided_by
    if len(outputs) == 1:
        return loss, {}
    others = {
        str(name): value
        for name, value in outputs.items()
        if name != "loss" and (isinstance(value, (int, float)) or getattr(value, "shape", None) == ())
    }
    numbers = clean(others)[0]
    return loss, {f"metric/{name}" if name in INTEGER_COLUMNS else name: value for name, value in numbers.items()}


def _learning_rate(trainer: Any) -> Any:
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            return group.get("lr")
    return None


def _step_of(trainer: Any) -> int:
    """The step that Lightning gives its loggers."""
    try:
        return int(trainer.fit_loop.epoch_loop._batches_that_stepped)
    except AttributeError:
        return int(trainer.global_step)


def callbacks() -> list[Any]:
    """Returns the callback that every Trainer gets where `ADVLOG_DIR` is set; the name is `ADVLOG_NAME`.

    It leaves a Trainer alone that has an :class:`AdvlogCallback` of its own.
    """
    made = AdvlogCallback(os.environ["ADVLOG_DIR"], os.environ.get("ADVLOG_NAME") or _NAME)
    made._is_automatic = True
    return [made]


def _has_another(trainer: Any, callback: AdvlogCallback) -> bool:
    return any(isinstance(each, AdvlogCallback) and each is not callback for each in trainer.callbacks)
