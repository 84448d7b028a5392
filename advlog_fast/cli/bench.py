"""`advlog bench`: measure the cost of logging on this machine and this disk."""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..logger import AdvancedLogger

HELP = "measure the cost of a call and of a record on this machine and this disk"

_BURST = 8192
"""Calls in one measurement: fewer than a ring holds, so that no call waits."""
_VALUES = 4096
_CHUNK = 50_000
"""Calls between two readings of the clock."""


class _Nothing:
    """An empty method with the signature of the call: measures Python's own cost of a call."""

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log-dir", type=Path, default=Path(), help="where to write the logs, removed afterwards; default: here"
    )
    parser.add_argument("--seconds", type=_positive, default=10.0, metavar="S", help="how long to measure; default: 10")
    parser.add_argument(
        "--step-ms", type=_positive, default=50.0, metavar="MS", help="how long your training step takes; default: 50"
    )


def run(args: argparse.Namespace) -> int:
    args.log_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="advlog-bench-", dir=args.log_dir) as folder:
        with AdvancedLogger(folder, "calls", console="off") as log:
            call_ns, empty_ns = _call_ns(log, args.seconds / 3)
        records, seconds, cpu_s, dropped = _at_full_speed(folder, args.seconds * 2 / 3)
    record_us = cpu_s / records * 1e6
    print(f"log_batch_progress, 7 values        {call_ns:8.0f} ns a call ({empty_ns:.0f} ns an empty Python method)")
    print(f"text + JSONL + Parquet              {record_us:8.2f} µs of CPU a record, in all threads and this loop")
    print(f"sustained                           {records / seconds / 1e6:8.2f} million records/s, {dropped} dropped")
    step_ns = args.step_ms * 1e6
    print(
        f"a step of {args.step_ms:g} ms with one call: your loop waits {100 * call_ns / step_ns:.5f} % of the time, "
        f"and a core works {100 * record_us * 1000 / step_ns:.4f} % of the time in the background"
    )
    return 0


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def _call_ns(log: AdvancedLogger, seconds: float) -> tuple[float, float]:
    """Return the median over bursts of the time of a call, for the logger and for an empty method."""
    empty = _Nothing()
    log_burst, empty_burst, loop_burst = own_code(burst), own_code(burst), own_code(burst_of_nothing)
    logged: list[float] = []
    called: list[float] = []
    looped: list[float] = []
    until = time.perf_counter() + seconds
    while not logged or time.perf_counter() < until:
        log.flush()
        logged.append(log_burst(log, _BURST))
        called.append(empty_burst(empty, _BURST))
        looped.append(loop_burst(None, _BURST))
    loop = statistics.median(looped)
    return statistics.median(logged) - loop, statistics.median(called) - loop


def own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with a code object of its own: from 3.11 on, the interpreter specializes a call for the type
    that it sees there."""
    return types.FunctionType(function.__code__.replace(), function.__globals__)


def burst(log: Any, calls: int) -> float:
    """Return the nanoseconds of a call and of one pass of the loop around it."""
    began = time.perf_counter_ns()
    for batch in range(calls):
        log.log_batch_progress(
            epoch=1,
            batch=batch,
            total_batches=calls,
            loss=0.6931471805599453,
            accuracy=0.25,
            learning_rate=1e-3,
            gradient_norm=2.5,
        )
    return (time.perf_counter_ns() - began) / calls


def burst_of_nothing(_: Any, calls: int) -> float:
    """Return the nanoseconds of one pass of an empty loop."""
    began = time.perf_counter_ns()
    for _batch in range(calls):
        pass
    return (time.perf_counter_ns() - began) / calls


def _at_full_speed(folder: str, seconds: float) -> tuple[int, float, float, int]:
    """Return the records logged, the seconds and CPU seconds until all are in closed files, and the records dropped."""
    generator = random.Random(1)  # noqa: S311 - values to log
    values = [generator.random() for _ in range(_VALUES)]
    log = AdvancedLogger(folder, "records", console="off")
    cpu_before, began = _cpu_s(), time.perf_counter()
    records = 0
    while not records or time.perf_counter() < began + seconds:
        for batch in range(records, records + _CHUNK):
            value = values[batch % _VALUES]
            log.log_batch_progress(
                epoch=1,
                batch=batch,
                total_batches=1_000_000_000,
                loss=value,
                accuracy=value / 3,
                learning_rate=value / 5,
                gradient_norm=value / 7,
            )
        records += _CHUNK
    log.close()
    took, cpu_s, health = time.perf_counter() - began, _cpu_s() - cpu_before, log.health()
    dropped = sum(health.dropped_at_entry.values()) + sum(sink.dropped for sink in health.sinks.values())
    return records, took, cpu_s, dropped


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
