"""TensorBoard's `SummaryWriter`, for scripts that change one import: scalars, texts and hyperparameters as a run."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ..exceptions import warn_or_tell
from ..logger import AdvancedLogger
from ..records import MAX_METRIC_NAME_BYTES, RESERVED_NAMES, TrainingMetrics
from .base import LazyRun, guard
from .values import clean, log_clean

if TYPE_CHECKING:
    from typing_extensions import Self

_NAME = "run"
_OTHER_KINDS = frozenset(
    (
        "add_audio",
        "add_custom_scalars",
        "add_custom_scalars_marginchart",
        "add_custom_scalars_multilinechart",
        "add_embedding",
        "add_figure",
        "add_graph",
        "add_histogram",
        "add_histogram_raw",
        "add_image",
        "add_image_with_boxes",
        "add_images",
        "add_mesh",
        "add_onnx_graph",
        "add_pr_curve",
        "add_pr_curve_raw",
        "add_tensor",
        "add_video",
    )
)


class SummaryWriter:
    """Use it in place of `torch.utils.tensorboard.SummaryWriter`: change the import, and nothing else.

    Each call is one record, in the file before the call's process can be killed, with the step that it was given, also
    one that goes back. A value on a GPU is not waited for. Images, histograms and the like are left out, with one
    warning for each kind, or go to the writer `also`, as does everything else then. A call costs a microsecond.
    `advlog export --to tensorboard:PATH --points all` gives event files with the same scalars.

    :param log_dir: the folder of the run; None is `runs/` and the time, as TensorBoard's is.
    :param comment: text behind that time.
    :param purge_step: what was logged at that step and later is marked as superseded by an event.
    :param also: a writer of TensorBoard's, which gets every call too.
    :param name: the experiment's name.
    :param options: as of :class:`AdvancedLogger`; TensorBoard's `max_queue`, `flush_secs`, `filename_suffix` are
        accepted, and do nothing.
    :raises TypeError: an option has the wrong type, or is unknown.
    :raises ValueError: an option is out of its range.
    :raises OSError: the folder cannot be written.

    >>> with SummaryWriter("logs/digits") as writer:
    ...     writer.add_scalar("loss", 0.5, global_step=1)
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        comment: str = "",
        purge_step: int | None = None,
        max_queue: int = 10,  # noqa: ARG002
        flush_secs: int = 120,  # noqa: ARG002
        filename_suffix: str = "",  # noqa: ARG002
        *,
        also: Any = None,
        name: str = _NAME,
        **options: Any,
    ) -> None:
        if log_dir is None:
            log_dir = os.path.join("runs", time.strftime("%b%d_%H-%M-%S_") + os.uname().nodename + comment)
        self.log_dir = os.fspath(log_dir)
        self.run = LazyRun(log_dir, name, options)
        self._also = also
        self._left_out: set[str] = set()
        self._closed_at: dict[str, Any] = {}
        self.run.open()
        if purge_step is not None and self.run.log is not None:
            self.run.log.log_event("purge_step", step=purge_step)

    def get_logdir(self) -> str:
        """Returns the folder of the run."""
        return self.log_dir

    def add_scalar(
        self,
        tag: str,
        scalar_value: Any,
        global_step: int | None = None,
        walltime: float | None = None,
        new_style: bool = False,
        double_precision: bool = False,
    ) -> None:
        """Logs one value.

        :param tag: the metric's name.
        :param scalar_value: a number, or a tensor or array of one.
        :param global_step: the step.
        :param walltime: the record's time in seconds since 1970; None is now.
        :param new_style: ignored.
        :param double_precision: ignored; values are float64.
        """
        self._log({tag: scalar_value}, global_step, walltime)
        if self._also is not None:
            self._also.add_scalar(tag, scalar_value, global_step, walltime, new_style, double_precision)

    def add_scalars(
        self,
        main_tag: str,
        tag_scalar_dict: Mapping[str, Any],
        global_step: int | None = None,
        walltime: float | None = None,
    ) -> None:
        """Logs several values as one record, each as `main_tag/key`.

        :param main_tag: what their names begin with.
        :param tag_scalar_dict: names to numbers.
        :param global_step: the step.
        :param walltime: the record's time in seconds since 1970; None is now.
        """
        self._log({f"{main_tag}/{key}": value for key, value in tag_scalar_dict.items()}, global_step, walltime)
        if self._also is not None:
            self._also.add_scalars(main_tag, tag_scalar_dict, global_step, walltime)

    def add_text(
        self, tag: str, text_string: str, global_step: int | None = None, walltime: float | None = None
    ) -> None:
        """Logs a text as an event `text`."""
        self._event("text", tag=str(tag), text=str(text_string), step=global_step)
        if self._also is not None:
            self._also.add_text(tag, text_string, global_step, walltime)

    def add_hparams(
        self, hparam_dict: Mapping[str, Any], metric_dict: Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """Logs hyperparameters, and the metrics that belong to them as one record."""
        self._hyperparameters(hparam_dict)
        self._log(dict(metric_dict), args[2] if len(args) > 2 else kwargs.get("global_step"), None)
        if self._also is not None:
            self._also.add_hparams(hparam_dict, metric_dict, *args, **kwargs)

    @guard
    def _log(self, metrics: Mapping[str, Any], step: Any, walltime: float | None) -> None:
        log = self._open()
        named = {_name(str(name)): value for name, value in metrics.items()}
        at = 0 if step is None else int(step)  # as event files have it
        if walltime is None:
            log_clean(log, named, at)
        else:
            log.log_metrics(_Row(clean(named)[0], walltime), at)

    @guard
    def _event(self, name: str, **fields: Any) -> None:
        self._open().log_event(name, **fields)

    @guard
    def _hyperparameters(self, values: Mapping[str, Any]) -> None:
        self._open().log_hyperparameters(values)

    def _open(self) -> AdvancedLogger:
        """The logger; after close(), and in a copy, another attempt of the run, which goes on from there."""
        if self.run.log is None and self._closed_at:
            self.run.resume(self._closed_at)
        return self.run.open()

    def flush(self) -> None:
        """Waits until the operating system has what was logged."""
        self._flush()
        if self._also is not None:
            self._also.flush()

    @guard
    def _flush(self) -> None:
        if self.run.log is not None:
            self.run.log.flush()

    def close(self) -> None:
        """Ends the run."""
        self._close()
        if self._also is not None:
            self._also.close()

    @guard
    def _close(self) -> None:
        if self.run.log is not None:
            self.run.end()
            self._closed_at = self.run.state()
            self.run.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._fail(error)
        self.close()

    @guard
    def _fail(self, error: BaseException) -> None:
        self.run.fail(error, "SummaryWriter")

    def __getattr__(self, name: str) -> Any:
        if name not in _OTHER_KINDS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if self._also is not None:
            return getattr(self._also, name)

        def leave_out(*_: Any, **__: Any) -> None:
            if name not in self._left_out:
                self._left_out.add(name)
                what = f"left out: pass also=torch.utils.tensorboard.SummaryWriter(...) to have {name} in event files"
                warn_or_tell(f"advlog_fast: SummaryWriter.{name}: {what}")

        return leave_out


class _Row(TrainingMetrics):
    """A record with a time of its own."""

    def __init__(self, metrics: Mapping[str, Any], walltime: float) -> None:
        self.__dict__.update(metrics)
        self.timestamp = datetime.fromtimestamp(walltime, timezone.utc)


def _name(tag: str) -> str:
    """The tag as a metric's name: not one that records have for themselves, and as long as a name may be."""
    if tag in RESERVED_NAMES:
        return f"metric/{tag}"
    data = tag.encode("utf-8", "replace")
    return tag if len(data) <= MAX_METRIC_NAME_BYTES else data[:MAX_METRIC_NAME_BYTES].decode("utf-8", "ignore")
