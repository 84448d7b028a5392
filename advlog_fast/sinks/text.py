"""NAME_training.log: one line a batch, and the lines of events, in the order logged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .._native import lib
from ..records import ALL_DIGITS
from .base import ClosedFile
from .rotation import RotatedSink


class TextSink(RotatedSink):
    """The training log.

    :param level: the lowest level that is written, on the scale of the logging module.
    :param every: only one batch line in `every` is written.
    :param digits: significant digits of a value that is not integral.
    """

    name = "text"
    kind = lib.ADVLOG_SINK_TEXT
    stream = lib.ADVLOG_STREAM_METRICS

    def __init__(
        self,
        path: Path,
        temporary: Path,
        attempt: int,
        max_bytes: int,
        max_files: int,
        may_expire: Callable[[ClosedFile | None], bool] | None = None,
        *,
        level: int = 20,
        every: int = 1,
        digits: int = ALL_DIGITS,
    ) -> None:
        super().__init__(path, temporary, attempt, max_bytes, max_files, may_expire)
        self.level = level
        self.every = every
        self.digits = digits

    def limits(self) -> dict[str, int]:
        return {**super().limits(), "level": self.level, "every": self.every, "digits": self.digits}
