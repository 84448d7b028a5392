"""The position, speed and remaining time of the training: the numbers behind the live bar."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(slots=True)
class Position:
    """The training's position: the training thread writes it with plain stores, and the drawing thread reads it.

    A frame drawn between two stores is wrong for a tenth of a second.
    """

    epoch: int = 0
    total_epochs: int = 0
    batch: int = 0
    total_batches: int | None = None
    epoch_since_ns: int = 0
    """`time.monotonic_ns()` of the first update in this epoch."""
    epoch_from: int = 0
    """The batch of that update."""
    run_since_ns: int = 0
    run_from: float = 0.0
    """The fraction of the whole training that was done at the first update of all."""
    first_epoch: int = 1
    """0 where epochs are counted from 0."""

    def fraction(self) -> float:
        """Returns how much of the whole training is done, 0 to 1; by whole epochs where an epoch's batches are
        unknown."""
        epochs: float = self.epoch - self.first_epoch
        if self.total_batches:
            epochs += min(self.batch, self.total_batches) / self.total_batches
        return min(max(epochs / self.total_epochs, 0.0), 1.0) if self.total_epochs else 0.0

    def rate(self) -> float | None:
        """Batches a second in this epoch; None before its second update."""
        elapsed_s = (time.monotonic_ns() - self.epoch_since_ns) / 1e9
        batches = self.batch - self.epoch_from
        return batches / elapsed_s if batches > 0 and elapsed_s > 0 else None

    def epoch_eta_s(self) -> float | None:
        """Seconds until this epoch is through; None where that cannot be told."""
        rate = self.rate()
        if rate is None or self.total_batches is None:
            return None
        return max(self.total_batches - self.batch, 0) / rate

    def run_eta_s(self) -> float | None:
        """Seconds until the training is through, at its pace so far, validation included; None at its
        beginning."""
        done = self.fraction()
        elapsed_s = (time.monotonic_ns() - self.run_since_ns) / 1e9
        if done <= self.run_from:
            return None
        return elapsed_s * (1.0 - done) / (done - self.run_from)
