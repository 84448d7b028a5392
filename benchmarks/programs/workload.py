"""What every benchmark logs: the seven usual arguments and a step, as a training loop passes them."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from typing import Any, Protocol

VALUES = 1 << 18
"""Different values a metric; then they come again. More than a compressor looks back."""


class Metrics:
    """Random float64 in [0, 1): with all their 17 digits, the slowest there are to format and to compress."""

    def __init__(self, seed: int = 1) -> None:
        chance = random.Random(seed)
        self.loss, self.accuracy, self.learning_rate, self.gradient_norm = (
            [chance.random() for _ in range(VALUES)] for _ in range(4)
        )


class Logger(Protocol):
    """What is measured."""

    def log_batch_progress(
        self,
        epoch: int,
        batch: int,
        total_batches: int,
        loss: float,
        accuracy: float | None = None,
        learning_rate: float | None = None,
        gradient_norm: float | None = None,
    ) -> None: ...


class Nothing:
    """An empty Python method with the signature of the call: what the interpreter alone costs."""

    def log_batch_progress(
        self,
        epoch: int,
        batch: int,
        total_batches: int,
        loss: float,
        accuracy: float | None = None,
        learning_rate: float | None = None,
        gradient_norm: float | None = None,
        batch_time: float | None = None,
        data_time: float | None = None,
        step: int | None = None,
        **metrics: float,
    ) -> None:
        pass


def log_steps(log: Logger, metrics: Metrics, steps: int) -> None:
    """A training loop with nothing in it but the call."""
    loss, accuracy = metrics.loss, metrics.accuracy
    learning_rate, gradient_norm = metrics.learning_rate, metrics.gradient_norm
    for step in range(steps):
        at = step % VALUES
        log.log_batch_progress(
            epoch=1,
            batch=step,
            total_batches=steps,
            loss=loss[at],
            accuracy=accuracy[at],
            learning_rate=learning_rate[at],
            gradient_norm=gradient_norm[at],
        )


def percentile(sorted_values: Sequence[float], q: float) -> float:
    """The value of rank floor(q * (n - 1)), counted from 0."""
    return sorted_values[int(q * (len(sorted_values) - 1))]


def report(**figures: Any) -> None:
    """What the process that started this one reads."""
    json.dump(figures, sys.stdout)
