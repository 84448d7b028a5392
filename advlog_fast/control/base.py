"""What the control plane asks of its session, and what stands for it answers where there is nothing to ask."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

from ..snapshots import Health, Totals


class RingLink(Protocol):
    """The control plane's way to the ring and to what the drain has counted. No method but `shielded` raises."""

    def shielded(self, task: Callable[[], object]) -> None:
        """Has the task run where no interrupt reaches it, and waits for it; what it raises is raised here."""

    def line(self, level: int, text: str) -> None:
        """Puts a line into the training log, in the order of the records. `text` is escaped, one line, at
        most 4096 bytes of UTF-8; `level` is on the scale of the logging module."""

    def seq(self) -> int:
        """The seq of the last metrics record accepted; 0 while there is none."""

    def totals(self, timeout_s: float = 1.0) -> Totals:
        """What was counted, covering every call that returned before; waits so long for it at most."""

    def health(self) -> Health:
        """The accounting as of now."""

    def memory(self) -> dict[str, object]:
        """How memory developed, as :meth:`MemorySampler.trend` gives it."""


def empty_summary(status: str) -> dict[str, Any]:
    """The guide's keys of a summary, with nothing counted."""
    nothing = dict.fromkeys(("min", "max", "mean", "std"), math.nan)
    return {
        "total_metrics": 0,
        "total_errors": 0,
        "training_duration": "0:00:00",
        "loss_stats": dict(nothing),
        "accuracy_stats": dict(nothing),
        "status": status,
    }
