"""The content of a record: the dataclasses that calls take and return, and the columns of every output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

INTEGER_COLUMNS = ("epoch", "batch", "total_batches", "step")
"""The integers of a record, in the order of every output."""

CORE_METRICS = ("loss", "accuracy", "learning_rate", "gradient_norm", "batch_time", "data_time")
"""The built-in metrics, in the order of the slot and of every output; float64, times in seconds."""
TIMES = ("batch_time", "data_time")
"""Of them, those that may tell a slow rank."""

RESERVED_NAMES = frozenset(
    (
        *INTEGER_COLUMNS,
        "timestamp",
        "attempt",
        "rank",
        "worker",
        "seq",
        "kind",
        "nonfinite",
        "unresolved",
        "extra",
    )
)
"""Names that a metric cannot have, because the outputs use them."""

MAX_METRIC_NAMES = 65_535
"""The most metric names that one run may have, beside the built-in ones."""

MAX_COLUMNS = 1000
"""The most of them that have a Parquet column of their own; the others are in the column `extra`."""

ALL_DIGITS = 17
"""As many significant digits as a float64 can need."""

MAX_METRIC_NAME_BYTES = 255
"""Bytes of a metric name, as UTF-8."""


def name_fault(name: str) -> str:
    """Returns what a metric's name must be and this one is not; empty if a metric can have it."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "valid Unicode, without lone surrogates"
    if not 0 < size <= MAX_METRIC_NAME_BYTES:
        return f"1-{MAX_METRIC_NAME_BYTES} bytes of UTF-8"
    return "a name that the outputs do not use for themselves" if name in RESERVED_NAMES else ""


UNRESOLVED = ("unknown", "timeout", "slab_full", "capture", "killed")
"""Why a value never arrived from an accelerator, indexed by `enum advlog_unresolved`; the words in JSON lines."""

SEVERITIES = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
"""The values of `severity`, and the names of log levels, as in the logging module."""


@dataclass
class TrainingMetrics:
    """One batch's metrics, for :meth:`AdvancedLogger.log_metrics`.

    Times are in seconds. `memory_usage` is flattened to metrics named `memory_usage/<key>`. `timestamp` lies in the
    years 1678 to 2261; a naive one is local time, and None is the time of the call.

    >>> log.log_metrics(TrainingMetrics(epoch=1, batch=2, total_batches=10, loss=0.4), step=2)
    """

    epoch: int
    batch: int
    total_batches: int
    loss: float
    accuracy: float | None = None
    learning_rate: float | None = None
    gradient_norm: float | None = None
    memory_usage: Mapping[str, float] | None = None
    batch_time: float | None = None
    data_time: float | None = None
    timestamp: datetime | None = None


@dataclass
class ErrorLog:
    """One error as :meth:`AdvancedLogger.log_error` recorded it; `timestamp` is UTC.

    >>> entry = log.log_error("no such file", "loading")
    >>> isinstance(entry, ErrorLog), entry.error_message, entry.severity
    (True, 'no such file', 'ERROR')
    """

    error_type: str
    error_message: str
    operation: str
    timestamp: datetime
    traceback: str
    context: dict[str, Any]
    severity: str = "ERROR"


_MODES = {"accuracy": "max", "acc": "max", "loss": "min"}
_OF_VALIDATION = frozenset(("val", "valid", "validation", "eval", "evaluation", "test", "dev"))
_OF_TRAINING = frozenset(("train", "training"))


def mode_of(name: str) -> str | None:
    """Returns whether more of a metric is better, "max", or less, "min"; None where its name does not say."""
    return _MODES.get(_words(name)[1])


def weight_of(name: str) -> tuple[int, int] | None:
    """How much a metric's name says of a validation: larger is more, first by what the metric is of, then by what it
    is; None where the name says neither accuracy nor loss."""
    of, quantity = _words(name)
    if quantity not in _MODES:
        return None
    return (2 if of & _OF_VALIDATION else 0 if of & _OF_TRAINING else 1, int(_MODES[quantity] == "max"))


def _words(name: str) -> tuple[set[str], str]:
    """What a name says the metric is of, and what it is: `val/top/accuracy` and `val_accuracy` are accuracies of a
    validation."""
    *folders, last = name.lower().split("/")
    words = last.split("_")
    while len(words) > 1 and words[0] in _OF_VALIDATION | _OF_TRAINING:
        folders.append(words.pop(0))
    return set(folders), "_".join(words)
