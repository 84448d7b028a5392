"""What it takes to format a number and a line; beside it, Python's own ways."""

from __future__ import annotations

import json
import statistics
import timeit
from collections.abc import Callable

import core
import pytest
from runs import Record, Rounds

CALLS = 200_000
NUMBER = 0.6931471805599453
LINE = {
    "timestamp": "2026-01-01T00:00:00.000000Z",
    "attempt": 1,
    "rank": 0,
    "seq": 123456,
    "epoch": 1,
    "batch": 4711,
    "total_batches": 100000,
    "step": 4711,
    "loss": NUMBER,
    "accuracy": NUMBER / 3,
    "learning_rate": NUMBER / 5,
    "gradient_norm": NUMBER / 7,
}


@pytest.mark.parametrize("operation", ["double", "int", "text", "jsonl"])
def bench_formatter(rounds: Rounds, record: Record, operation: str) -> None:
    core.measure(rounds, record, operation)


@pytest.mark.parametrize(
    "function", [lambda: repr(NUMBER), lambda: json.dumps(LINE)], ids=["python-repr", "python-json.dumps"]
)
def bench_python(rounds: Rounds, record: Record, function: Callable[[], str]) -> None:
    times = rounds(lambda: timeit.timeit(function, number=CALLS) / CALLS * 1e9, 7)
    record(ns=statistics.median(times), fastest_ns=min(times))
