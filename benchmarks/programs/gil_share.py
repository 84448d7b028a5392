"""How much of their CPU time the drain's and the sealer's threads hold the GIL: what is not spent in calls that let go
of it: those of the C core, Arrow's, and system calls.

    gil_share.py DIRECTORY STEPS
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
from workload import Metrics, log_steps, report

import advlog_fast
from advlog_fast.engine import drain as drain_module
from advlog_fast.parquet import columns
from advlog_fast.parquet import sealer as sealer_module

SYSTEM_CALLS = ("open", "close", "stat", "lstat", "fstat", "link", "rename", "replace", "unlink", "mkdir", "fsync")
SYSTEM_CALLS += ("ftruncate", "listdir", "scandir", "write", "read")

spent_s: defaultdict[str, float] = defaultdict(float)
"""CPU time by name of the thread: all of it, and under `NAME without`, what it spent without the GIL."""
calls: Counter[str] = Counter()
"""Likewise, how many calls were counted."""
_inside = threading.local()


def counted(function: Callable[..., Any], suffix: str = " without") -> Callable[..., Any]:
    """The function, with the CPU time of its calls counted for the thread that makes them."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        depth = getattr(_inside, suffix, 0)
        setattr(_inside, suffix, depth + 1)
        began = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            setattr(_inside, suffix, depth)
            if depth == 0:
                spent_s[threading.current_thread().name + suffix] += time.thread_time() - began
                calls[threading.current_thread().name + suffix] += 1

    return call


def counting_s(rounds: int = 20_000) -> float:
    """What counting a call takes of its thread's CPU time, and is in no call's own."""
    nothing = counted(lambda: None, " nothing")
    began = time.thread_time()
    for _ in range(rounds):
        nothing()
    return (time.thread_time() - began - spent_s[threading.current_thread().name + " nothing"]) / rounds


class CountedLib:
    """The C core as a module sees it, its functions counted: cffi lets go of the GIL in each."""

    def __init__(self, lib: Any) -> None:
        for name in dir(lib):
            value = getattr(lib, name)
            setattr(self, name, counted(value) if callable(value) else value)


def main(directory: str, steps: int) -> None:
    drain_module.lib = CountedLib(drain_module.lib)
    columns.lib = CountedLib(columns.lib)
    columns._fill = counted(columns._fill)  # reads 4 MiB at a time
    sealer_module.seal_spool = counted(sealer_module.seal_spool, " whole")
    for method in ("write_batch", "close"):
        setattr(pq.ParquetWriter, method, counted(getattr(pq.ParquetWriter, method)))
    for name in SYSTEM_CALLS:
        setattr(os, name, counted(getattr(os, name)))
    metrics = Metrics()
    log = advlog_fast.AdvancedLogger(directory, "run", console="off")
    log_steps(log, metrics, steps)
    log.flush()
    drain_without_s, drain_calls = spent_s["advlog-drain without"], calls["advlog-drain without"]
    drain_s = log.health().drain_cpu_s
    log.close()
    each_s = counting_s()
    drain_with_s = drain_s - drain_without_s - drain_calls * each_s
    sealer_s = spent_s["advlog-sealer whole"]
    sealer_with_s = sealer_s - spent_s["advlog-sealer without"] - calls["advlog-sealer without"] * each_s
    report(
        drain_cpu_s=drain_s,
        drain_share=drain_with_s / drain_s,
        sealer_cpu_s=sealer_s,
        sealer_share=sealer_with_s / sealer_s,
        share=(drain_with_s + sealer_with_s) / (drain_s + sealer_s),
        counting_us=each_s * 1e6,
        counted_calls=drain_calls + calls["advlog-sealer without"],
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
