"""A sink whose write hangs: what the calls cost before, while the ring has room, and once it is full; and the close.

    hung_sink.py DIRECTORY CONTROL SECONDS

Runs with tests/stress/io_shim.c preloaded, which reads its orders from the file CONTROL.
"""

from __future__ import annotations

import mmap
import sys
import time
import warnings
from array import array
from typing import Any

from log_call import each_call
from workload import percentile, report

import advlog_fast

CALLS = 8192
WRITE = 1
RATE = 1000
"""Calls a second, once the ring is full."""


class Shim:
    """Makes the next write to a path that holds `text` hang until `end`."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._words = memoryview(self._map)[:64].cast("Q")

    def hang(self, text: str) -> None:
        self._map[64:1088] = text.encode().ljust(1024, b"\0")
        for word, value in enumerate((WRITE, 1, 0, 0, 1, 0, 0), 1):
            self._words[word] = value
        self._words[0] = 1

    def end(self) -> None:
        self._words[0] = 0


def quantiles(took: array[int]) -> dict[str, float]:
    ordered = sorted(took)
    at = {"p50_ns": 0.5, "p99_ns": 0.99, "p99.9_ns": 0.999}
    return {name: percentile(ordered, q) for name, q in at.items()} | {"max_ns": ordered[-1]}


def paced(log: Any, seconds: float) -> array[int]:
    took = array("q")
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        each_call(log, 1, took)
        time.sleep(1 / RATE)
    return took


def main(directory: str, control: str, seconds: float) -> None:
    shim = Shim(control)
    log = advlog_fast.AdvancedLogger(directory, "run", console="off")
    slots = log.health().ring_slots
    before, room, full = array("q"), array("q"), array("q")
    each_call(log, CALLS, before)
    log.flush()
    shim.hang("run_metrics.jsonl")
    each_call(log, CALLS, room)
    began = time.perf_counter()
    each_call(log, slots, full)  # one of them waits for room as long as it may, the others are dropped and counted
    full.extend(paced(log, seconds - (time.perf_counter() - began)))
    dropped = log.health().dropped_at_entry["full"]
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        closed = log.close(timeout=2)
    close_s = time.perf_counter() - began
    pending = log.health().pending
    shim.end()
    report(
        seconds=seconds,
        before=quantiles(before),
        with_room=quantiles(room),
        full=quantiles(full),
        full_over_half_a_second=sum(ns > 500_000_000 for ns in full),
        dropped=dropped,
        closed=closed,
        close_s=close_s,
        pending=pending,
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
