"""The calls that go to the control plane: events, errors, the summary, checkpoints. `AdvancedLogger` inherits them.

control/events.py makes and checks events; control/plane.py writes them.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ._hooks import importing, with_room
from .checks import Intake, Misuse, is_mapping
from .config import LoggerConfig, check_seconds
from .records import ErrorLog

if TYPE_CHECKING:
    from .control.base import Control
    from .control.contexts import TrainingContext
    from .control.events import Event


_GIVEN_FIRST: Any = ...
"""In place of the metrics of a validation that has no epoch."""


class ControlCalls(ABC):
    """Each call writes at once, in the calling thread: about 20 µs of file I/O, so make these calls per epoch, not per
    batch. Any thread may make them. A disk fault never raises. What is wrong at every call raises at once: a missing
    argument, no mapping where one is expected, an unknown severity or status. A value that cannot be taken as it came
    is left out or named by its type, counted, and said once: see the option `on_misuse`."""

    config: LoggerConfig
    """The options, checked."""

    _contexts: Any
    """The module `control.contexts`."""

    _events: Any
    """The module `control.events`."""

    _off: Control
    """The control plane of a logger that is off."""

    @property
    @abstractmethod
    def _session(self) -> Any:
        """The session; None where the logger is off."""

    @property
    @abstractmethod
    def _control(self) -> Control:
        """The control plane, for questions."""

    @property
    @abstractmethod
    def _plane(self) -> Control:
        """The control plane, for events; after the end one that drops them."""

    @abstractmethod
    def _take_misuses(self, misuses: Sequence[Misuse]) -> None:
        """Has misuses counted and said."""

    def _emit(self, make: Callable[[Any], Event | None]) -> None:
        """Emits the event that `make` makes with the module `control.events`; a logger that is off makes none."""
        plane = self._plane

        def emit() -> None:
            event = make(self._events)
            if event is not None:
                plane.emit(event)
                self._take_misuses(event.misuses)

        if plane is not self._off:
            with_room(self._session, emit)

    @property
    def logger(self) -> logging.Logger:
        """A `logging.Logger` that writes to `NAME_main.log`, for messages in words; warnings and errors go to the
        console, too. `setLevel` and `getChild` work as on any logger.

        It records an exception that you pass, as `log.logger.exception(...)` does, like :meth:`log_error`: the
        traceback goes to `NAME_errors.log`. A line costs about as much as with any file handler.

        What a call gives as `extra` follows the message as ` name=value`, secrets masked.

        >>> log.logger.info("resuming from %s", "last.pt")
        """
        return self._plane.logger

    @property
    def handler(self) -> logging.Handler:
        """A `logging.Handler` that writes to `NAME_main.log`, for the logger of a library: its messages of `log_level`
        and above stand there with its name, its exceptions as those of :attr:`logger` do, and nothing goes to the
        console. It ends with the attempt. To capture all loggers at once there is the option `capture_logging`.

        >>> import logging
        >>> logging.getLogger("datasets").addHandler(log.handler)
        """
        return self._plane.handler

    @property
    def log_level(self) -> int:
        """The option `log_level`, as a number. To change the level of the main log alone, call `log.logger.setLevel`.

        >>> import logging
        >>> log.log_level == logging.INFO
        True
        """
        return self.config.log_level

    def start_training(self, config: object = None) -> None:
        """Begin the training: write its configuration, and the command, machine and commit that it runs from.

        The configuration, command line, host, job, package versions and git commit go to the main log and the summary.
        Values whose keys look like secrets (`password`, `api_key`, `token`) are masked. Call it once, before the first
        epoch. It takes tens of milliseconds, because it runs git.

        :param config: a mapping, or an object whose attributes are the settings: an `argparse.Namespace`, a dataclass.
        :raises TypeError: `config` is neither.

        >>> log.start_training({"model": "resnet18", "learning_rate": 0.1, "api_key": "secret"})
        >>> log.get_training_summary()["config"]
        {'model': 'resnet18', 'learning_rate': 0.1, 'api_key': '***'}
        """
        self._emit(lambda events: events.training_start(config))

    @abstractmethod
    def end_training(self, final_metrics: Mapping[str, Any] | None = None, status: str | None = None) -> None:
        """End the training."""

    def start_epoch(self, epoch: int, total_epochs: int | None = None) -> None:
        """Begin an epoch and start timing it.

        :param epoch: the epoch's number, stored as given.
        :param total_epochs: the number of epochs; None keeps the number of an earlier call.
        An argument that is no integer is left out: see the option `on_misuse`.

        >>> log.start_epoch(1, total_epochs=3)
        """
        self._emit(lambda events: events.epoch_start(epoch, total_epochs))

    def end_epoch(self, epoch: int, metrics: Mapping[str, Any] | None = None) -> None:
        """End an epoch: write its duration in seconds, its batches and samples per second, and `metrics`.

        It waits at most 1 s until the drain has counted the epoch's records.

        :param epoch: the number that `start_epoch` was given.
        :param metrics: names to numbers, such as the epoch's mean loss; nested mappings are flattened with `/`.
        :raises TypeError: `metrics` is no mapping.

        >>> log.end_epoch(1, {"train_loss": 0.31})
        >>> log.get_training_summary()["epochs"][-1]["metrics"]
        {'train_loss': 0.31}
        """
        self._emit(lambda events: events.epoch_end(epoch, metrics))

    def log_validation(
        self,
        epoch: int | Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = _GIVEN_FIRST,
        is_best: bool | None = None,
        *,
        step: int | None = None,
        name: str | None = None,
    ) -> None:
        """Log a validation; the summary keeps the best one, and `run.validation` has each.

        :param epoch: the epoch that was validated; None, or the metrics in its place, where the training has no epochs.
        :param metrics: names to numbers; nested mappings are flattened with `/`.
        :param is_best: True if it is the best so far. If you never pass True, the options `best_metric` and `best_mode`
            decide, and without them an accuracy before a loss, that of a validation before one of the training.
        :param step: the step after which it was validated; None is the step of the last record, for which the call
            waits up to 0.2 s.
        :param name: of what was validated, such as one of several data sets.
        :raises TypeError: `metrics` is no mapping, or missing.

        >>> log.log_validation({"accuracy": 0.9}, step=100, name="test")
        >>> log.log_validation(1, {"accuracy": 0.91, "loss": 0.27})
        >>> log.get_training_summary()["best"]["value"]
        0.91
        """
        if metrics is _GIVEN_FIRST:
            if not is_mapping(epoch):
                raise TypeError("metrics: expected log_validation(epoch, metrics, ...), but 'metrics' is missing")
            epoch, metrics = None, epoch
        self._emit(lambda events: events.validation(epoch, metrics, is_best, step, name))

    def log_hyperparameters(self, hyperparameters: object) -> None:
        """Log hyperparameters, of any types, to the main log and the summary; a later call adds to earlier ones.

        Values whose keys look like secrets are masked.

        :param hyperparameters: a mapping, or an object whose attributes are the hyperparameters.
        :raises TypeError: `hyperparameters` is neither.

        >>> log.log_hyperparameters({"batch_size": 64, "optimizer": "AdamW"})
        """
        self._emit(lambda events: events.hyperparameters(hyperparameters))

    def log_model_info(self, model: Any) -> None:
        """Log a model's parameters, buffers, bytes, dtypes, devices and layers.

        It reads names and shapes only, no values, so it never waits for a GPU.

        :param model: a torch module, or any object with parameters; at least its class is logged.
        :raises TypeError: `model` is None.

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

        With severity ERROR or above, the error is on the disk (synced) when the call returns. Equal errors that repeat
        are written in full five times, then as one line at each power of two, and always counted.

        :param error: an exception, or a message.
        :param operation: the operation that failed; pass the same name to :meth:`log_recovery`.
        :param context: values that help to find the cause, by name; values whose keys look like secrets are masked.
        :param severity: DEBUG, INFO, WARNING, ERROR or CRITICAL.
        :raises TypeError: `context` is no mapping, or `severity` no string.
        :raises ValueError: the severity is unknown.

        >>> entry = log.log_error(ValueError("bad batch"), "forward", {"batch": 12})
        >>> entry.error_type, entry.operation
        ('ValueError', 'forward')
        """
        intake = Intake()
        plane = self._plane
        entry = with_room(self._session, lambda: plane.log_error(error, operation, context, severity, intake))
        self._take_misuses(intake.misuses)
        return entry

    def log_recovery(self, operation: str, action: str, success: bool = True) -> None:
        """Log an attempt to recover from the last error of `operation`; the summary has success rates by error
        category.

        :param operation: as in :meth:`log_error`.
        :param action: what was tried.
        :param success: True if it helped.
        An argument of the wrong type is shown as text: see the option `on_misuse`.

        >>> log.log_recovery("forward", "halved the batch size")
        """
        self._emit(lambda events: events.recovery(operation, action, success))

    def log_event(self, name: str, /, **fields: Any) -> None:
        """Log an event of your own to `NAME_events.jsonl`, the main log and the training log.

        :param name: the event's name.
        :param fields: its fields, of any types; values whose keys look like secrets are masked.
        A name that is no string is shown as text: see the option `on_misuse`.

        >>> log.log_event("checkpoint", path="epoch1.pt", size_mb=97.5)
        """
        self._emit(lambda events: events.of_the_user(name, fields))

    def training_context(self, name: str) -> TrainingContext:
        """Log a block of the training: its start, its end, its duration, and an exception that leaves it.

        Use it with `with` or `async with`. The exception is logged with the block's name and goes on to the caller.
        Blocks may nest.

        :param name: the block's name; the summary sums durations by name.
        A name that is no string is shown as text: see the option `on_misuse`.

        >>> with log.training_context("evaluate"):
        ...     accuracy = 0.91
        """
        intake = Intake()
        context: TrainingContext = self._contexts.TrainingContext(self._plane, intake.text("name", name))
        self._take_misuses(intake.misuses)
        return context

    def get_training_summary(self) -> dict[str, Any]:
        """Return the current summary, with the content of `NAME_summary.json`.

        It waits at most 1 s for the drain, to cover every call that returned before; `pending` says how many records
        are still not counted. It takes about a millisecond, however many records there are. Statistics are float64 over
        finite values, NaN if there is none yet (null in the file); keys that end in `_s` are in seconds.

        >>> summary = log.get_training_summary()
        >>> summary["total_metrics"], summary["loss_stats"]["min"]
        (1, 0.5)
        """
        return self._control.summary()

    def reduce_summary(self, timeout_s: float = 30.0, group: Any = None) -> dict[str, Any]:
        """Return the summary over all ranks. This is a collective call: every rank of the process group must make it.

        Use it at the end of an epoch or of the training; no other call communicates between ranks. It sends a few
        kilobytes a rank. `total_metrics`, `total_errors`, `training_duration` (the longest), `loss_stats`,
        `accuracy_stats` and `metrics` are over all ranks; `ranks` has the step, the records, and the mean `batch_time`
        and `data_time` (seconds) of each rank. Means and variances merge exactly (Chan, Golub and LeVeque 1979).

        :param timeout_s: how long to wait for the other ranks, in seconds.
        :param group: a torch.distributed process group, gloo or nccl; None is the default group.
        :raises TypeError: `timeout_s` is no number.
        :raises ValueError: it is out of range.
        :raises RuntimeError: torch.distributed is not initialised, and there is more than one rank.
        :raises TimeoutError: not every rank made the call in time. An nccl group is then unusable.

        >>> log.reduce_summary()["ranks"][0]["total_metrics"]
        1
        """
        check_seconds("timeout_s", timeout_s, 0.0)
        with importing():
            from .reader.reduction import reduce_summary

        summary = self.get_training_summary()
        return reduce_summary(summary, summary.get("world_size", 1), timeout_s, group)

    def state_dict(self) -> dict[str, Any]:
        """Return this attempt's position, to save in a checkpoint beside the model's state.

        It contains the run's id, the attempt and the rank; `seq`, the number of the last record; the latest `step`,
        `epoch`, `batch` and `total_batches` of this process's records (None before there is one), and the greatest
        step, `max_step`; the `best` validation, the `duration_s` so far, and the time: strings and numbers. It is empty
        if the logger is disabled. The last record is the one of the last call that returned; the call waits at most 1 s
        for the drain to count it. Take it after the validation that belongs to the checkpoint: a later one is
        superseded by a resume.

        >>> state = log.state_dict()
        >>> state["attempt"], state["seq"], state["step"]
        (1, 1, 1)
        """
        return self._control.state()

    def load_state_dict(self, state_dict: Mapping[str, Any] | None) -> None:
        """Mark this attempt as resumed from the point where another attempt called `state_dict()`.

        Its steps continue from that point: readers leave out what the other attempt logged later (:func:`read_run`).
        Call it after a restart, before the first record, with the state from the checkpoint. Each rank may load its own
        state, and is then cut at its own last record, or all of them that of one rank: the others are then cut at that
        state's step. Called again before the first record, the last state counts; after it, the first one. A state of
        another run resumes nothing: this run is shown alone. What cannot be taken as it is, the main log says.

        :param state_dict: what `state_dict()` returned; None, as from a checkpoint without one, and an empty one are
            ignored.
        :raises TypeError: `state_dict` is no mapping.
        :raises ValueError: `state_dict` is not what `state_dict()` returned.

        >>> checkpoint = {"log": log.state_dict()}
        >>> log.load_state_dict(checkpoint["log"])
        """
        self._emit(lambda events: events.resumed(state_dict))
