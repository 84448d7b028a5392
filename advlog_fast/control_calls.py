"""The calls that go to the control plane: events, errors, the summary, checkpoints. `AdvancedLogger` inherits them.

What an event is made of, and its checks, stand in control/events.py; what becomes of it in control/plane.py.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .checks import text
from .config import LoggerConfig, check_seconds
from .records import ErrorLog

if TYPE_CHECKING:
    from .control.base import Control
    from .control.contexts import TrainingContext
    from .control.events import Event


class ControlCalls(ABC):
    """Every call writes at once, in the calling thread: about 20 µs of file I/O, so call them per epoch, not per batch.
    Any thread may call them. A fault of the disk never raises; a wrong argument does, at once, and names the argument,
    what was expected and what came."""

    config: LoggerConfig
    """The options, checked."""

    _contexts: Any
    """The module `control.contexts`."""

    @property
    @abstractmethod
    def _control(self) -> Control:
        """The control plane, to be asked."""

    @property
    @abstractmethod
    def _plane(self) -> Control:
        """The control plane, to be written to; after the end nothing."""

    @abstractmethod
    def _emit(self, make: Callable[[Any], Event | None]) -> None:
        """Emits the event that `make` makes with the module `control.events`."""

    @property
    def logger(self) -> logging.Logger:
        """A `logging.Logger` that writes to `NAME_main.log`, for messages in words.

        An exception that it is given, as by `log.logger.exception(...)`, is recorded as by :meth:`log_error`, with its
        traceback in `NAME_errors.log`. One line costs about as much as with any file handler.

        >>> log.logger.info("resuming from %s", "last.pt")
        """
        return self._plane.logger

    @property
    def log_level(self) -> int:
        """The option of that name, as a number. To give the main log alone another level, call `log.logger.setLevel`.

        >>> import logging
        >>> log.log_level == logging.INFO
        True
        """
        return self.config.log_level

    def start_training(self, config: object = None) -> None:
        """Begin the training: write its configuration and where it comes from.

        The command line, host, job, package versions and git commit go to the main log and the summary beside the
        configuration. Values whose keys look like secrets (`password`, `api_key`, `token`) are masked. Call it once,
        before the first epoch. It takes tens of milliseconds, since it asks git.

        :param config: a mapping, or an object whose attributes are the settings: an `argparse.Namespace`, a dataclass.
        :raises TypeError: `config` is neither.

        >>> log.start_training({"model": "resnet18", "learning_rate": 0.1, "api_key": "secret"})
        >>> log.get_training_summary()["config"]
        {'model': 'resnet18', 'learning_rate': 0.1, 'api_key': '***'}
        """
        self._emit(lambda events: events.training_start(config))

    @abstractmethod
    def end_training(self, final_metrics: Mapping[str, Any] | None = None) -> None:
        """End the training."""

    def start_epoch(self, epoch: int, total_epochs: int | None = None) -> None:
        """Begin an epoch; its duration counts from here.

        :param epoch: the epoch's number, stored as given.
        :param total_epochs: how many there will be; None keeps what an earlier call said.
        :raises TypeError: an argument is no integer.

        >>> log.start_epoch(1, total_epochs=3)
        """
        self._emit(lambda events: events.epoch_start(epoch, total_epochs))

    def end_epoch(self, epoch: int, metrics: Mapping[str, Any] | None = None) -> None:
        """End an epoch: write its duration in seconds, batches and samples a second, and the metrics given.

        It waits until the epoch's records are counted, 1 s at most.

        :param epoch: the number that `start_epoch` was given.
        :param metrics: names to numbers, such as the epoch's mean loss; nested mappings are flattened with `/`.
        :raises TypeError: `epoch` is no integer, or `metrics` no mapping of names to numbers.

        >>> log.end_epoch(1, {"train_loss": 0.31})
        >>> log.get_training_summary()["epochs"][-1]["metrics"]
        {'train_loss': 0.31}
        """
        self._emit(lambda events: events.epoch_end(epoch, metrics))

    def log_validation(self, epoch: int, metrics: Mapping[str, Any], is_best: bool = False) -> None:
        """Log a validation; the summary keeps the best one.

        :param epoch: the epoch that was validated.
        :param metrics: names to numbers; nested mappings are flattened with `/`.
        :param is_best: whether you call it the best so far. As long as you never do, the best is the one with the
            highest accuracy, or where there is none the lowest loss.
        :raises TypeError: an argument has the wrong type.

        >>> log.log_validation(1, {"accuracy": 0.91, "loss": 0.27})
        >>> log.get_training_summary()["best"]["value"]
        0.91
        """
        self._emit(lambda events: events.validation(epoch, metrics, is_best))

    def log_hyperparameters(self, hyperparameters: object) -> None:
        """Log hyperparameters, of any types, to the main log and the summary; a later call adds to those before.

        Values whose keys look like secrets are masked.

        :param hyperparameters: a mapping, or an object whose attributes they are.
        :raises TypeError: it is neither.

        >>> log.log_hyperparameters({"batch_size": 64, "optimizer": "AdamW"})
        """
        self._emit(lambda events: events.hyperparameters(hyperparameters))

    def log_model_info(self, model: Any) -> None:
        """Log what a model is made of: parameters, buffers, bytes, dtypes, devices, layers.

        It looks at names and shapes only and reads no values, so it never waits for a GPU.

        :param model: a torch module, or any object with parameters; at least its class is logged.
        :raises TypeError: it is None.

        >>> log.log_model_info(object())
        """
        self._emit(lambda events: events.model_info(model))

    def log_error(
        self,
        error: BaseException | str,
        operation: str = "",
        context: Mapping[str, Any] | None = None,
        severity: str = "ERROR",
    ) -> ErrorLog:
        """Write an error to `NAME_errors.log` at once, with its traceback and causes, its category and context.

        From ERROR on it is on the disk when this returns. Equal errors in a storm are counted, not written thousands
        of times: five whole, then one line at each power of two.

        :param error: an exception, or a message.
        :param operation: what failed; :meth:`log_recovery` names it again.
        :param context: anything that helps to find the cause; values whose keys look like secrets are masked.
        :param severity: DEBUG, INFO, WARNING, ERROR or CRITICAL.
        :raises TypeError: `error` is neither an exception nor a string, or `context` no mapping.
        :raises ValueError: the severity is unknown.

        >>> entry = log.log_error(ValueError("bad batch"), "forward", {"batch": 12})
        >>> entry.error_type, entry.operation
        ('ValueError', 'forward')
        """
        return self._plane.log_error(error, operation, context, severity)

    def log_recovery(self, operation: str, action: str, success: bool = True) -> None:
        """Log an attempt to recover from the last error of `operation`; the summary has success rates by category.

        :param operation: as in :meth:`log_error`.
        :param action: what was tried.
        :param success: whether it helped.
        :raises TypeError: an argument has the wrong type.

        >>> log.log_recovery("forward", "halved the batch size")
        """
        self._emit(lambda events: events.recovery(operation, action, success))

    def log_event(self, name: str, /, **fields: Any) -> None:
        """Log an event of your own to `NAME_events.jsonl`, the main log and the training log.

        :param name: the event's name.
        :param fields: its fields, of any types; values whose keys look like secrets are masked.
        :raises TypeError: the name is no string.

        >>> log.log_event("checkpoint", path="epoch1.pt", size_mb=97.5)
        """
        self._emit(lambda events: events.of_the_user(name, fields))

    def training_context(self, name: str) -> TrainingContext:
        """Log a span of the training: its start, its end, its duration, and an error that leaves it.

        For `with` or `async with`. The error is logged with the span's name and raised on. Spans nest.

        :param name: what the span is called; the summary sums durations by it.
        :raises TypeError: the name is no string.

        >>> with log.training_context("evaluate"):
        ...     accuracy = 0.91
        """
        context: TrainingContext = self._contexts.TrainingContext(self._plane, text("name", name))
        return context

    def get_training_summary(self) -> dict[str, Any]:
        """Return the summary as of now, as `NAME_summary.json` has it.

        It covers every call that returned before, or says in `pending` how many records are not counted yet: the drain
        is waited for 1 s at most. It takes about a millisecond, however many records there are. Statistics are float64
        over finite values, NaN where there is none yet (null in the file); keys that end in `_s` are seconds.

        >>> summary = log.get_training_summary()
        >>> summary["total_metrics"], summary["loss_stats"]["min"]
        (1, 0.5)
        """
        return self._control.summary()

    def reduce_summary(self, timeout_s: float = 30.0, group: Any = None) -> dict[str, Any]:
        """Return the summary of all ranks together: a collective call, which every rank of the process group has to
        make.

        Use it at the end of an epoch or of the training; nothing else here talks between machines. It sends a few
        kilobytes a rank. `total_metrics`, `total_errors`, `training_duration` (the longest), `loss_stats` and
        `accuracy_stats` are over all ranks; `metrics` has each metric so, and `ranks` says of each rank its step, its
        records, and its mean `batch_time` and `data_time` in seconds. Means and variances merge exactly (Chan, Golub
        and LeVeque 1979).

        :param timeout_s: how long to wait for the other ranks, in seconds.
        :param group: the process group of torch.distributed, gloo or nccl; None is the default one.
        :raises RuntimeError: torch.distributed is not initialised, and there is more than one rank.
        :raises TimeoutError: not every rank came in time. An nccl group is of no more use then.

        >>> log.reduce_summary()["ranks"][0]["total_metrics"]
        1
        """
        check_seconds("timeout_s", timeout_s, 0.0)
        from .reader.reduction import reduce_summary

        summary = self.get_training_summary()
        return reduce_summary(summary, summary.get("world_size", 1), timeout_s, group)

    def state_dict(self) -> dict[str, Any]:
        """Return where this attempt stands, to keep in a checkpoint beside the model's state.

        The run's id, the attempt, the last record's `step`, `epoch` and `batch`, and the time: strings and integers
        only. Empty where the logger is off. The last record is that of the last call that returned before; the drain is
        waited for 1 s at most.

        >>> sorted(log.state_dict())
        ['attempt', 'batch', 'epoch', 'run_id', 'step', 'timestamp']
        """
        return self._control.state()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Mark this attempt as resumed from where another one stood when `state_dict()` was taken.

        Its steps go on from there: readers leave out what that attempt logged later (:func:`read_run`). Call it after a
        restart, with what the checkpoint holds; the state of any one rank is enough for all of them.

        :param state_dict: what `state_dict()` returned; an empty one is ignored.
        :raises TypeError: `state_dict` is no mapping.
        :raises ValueError: it is none that `state_dict()` returned.

        >>> checkpoint = {"log": log.state_dict()}
        >>> log.load_state_dict(checkpoint["log"])
        """
        self._emit(lambda events: events.resumed(state_dict))
