"""What a call costs the training loop, in ns: a burst of calls as a whole, and each call by itself.

    log_call.py DIRECTORY [BURSTS [CALLS]]

A burst is half a ring at most, and begins after a flush: what is measured is the call, and never a full ring. The
empty method is called by code of its own, compiled apart, since an interpreter from 3.11 on specialises a call for the
type that it met there.
"""

from __future__ import annotations

import platform
import statistics
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from workload import Nothing, percentile, report

import advlog_fast
from advlog_fast._native import ffi, lib
from advlog_fast.cli.bench import burst, burst_of_nothing, own_code

BURST = 8192
MILLISECOND_NS = 1_000_000


def burst_with_extras(log: Any, calls: int) -> float:
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
            reward=1.5,
            entropy=2.5,
            kl=3.5,
        )
    return (time.perf_counter_ns() - began) / calls


def each_call(log: Any, calls: int, took: array[int]) -> None:
    clock = time.perf_counter_ns
    for batch in range(calls):
        began = clock()
        log.log_batch_progress(
            epoch=1,
            batch=batch,
            total_batches=calls,
            loss=0.6931471805599453,
            accuracy=0.25,
            learning_rate=1e-3,
            gradient_norm=2.5,
        )
        took.append(clock() - began)


class CffiPush:
    """The same record through cffi, which lets go of the GIL in each call; into a ring that nobody drains."""

    def __init__(self) -> None:
        slots = 4 * BURST
        bytes_ = lib.advlog_ring_bytes(slots, lib.ADVLOG_SLAB_ENTRIES)
        # A ring lies at the start of a page.
        self._memory = ffi.new("char[]", bytes_ + 4096)
        at = int(ffi.cast("uintptr_t", self._memory))
        self._ring_memory = ffi.cast("void *", at + -at % 4096)
        self._bytes, self._slots = bytes_, slots
        self._identity = ffi.new("advlog_identity *")
        self._ring = ffi.NULL
        self.empty()

    def empty(self) -> None:
        if self._ring != ffi.NULL:
            lib.advlog_ring_detach(self._ring)
        ffi.memmove(self._ring_memory, bytes(self._bytes), self._bytes)
        there, slots, slab = self._bytes, self._slots, lib.ADVLOG_SLAB_ENTRIES
        assert lib.advlog_ring_init(self._ring_memory, there, there, slots, slab, slots, self._identity) == 0
        error = ffi.new("int *")
        self._ring = lib.advlog_ring_attach(self._ring_memory, self._bytes, error)
        assert self._ring != ffi.NULL, error[0]
        self._record = ffi.new("advlog_record *")
        self._record.kind = lib.ADVLOG_KIND_BATCH
        self._record.present = 0xF

    def log_batch_progress(
        self,
        epoch: int,
        batch: int,
        total_batches: int,
        loss: float,
        accuracy: float,
        learning_rate: float,
        gradient_norm: float,
    ) -> None:
        record = self._record
        record.epoch, record.batch, record.total_batches = epoch, batch, total_batches
        core = record.core
        core[0], core[1], core[2], core[3] = loss, accuracy, learning_rate, gradient_norm
        record.time_ns = time.time_ns()
        assert lib.advlog_push(self._ring, record) == 0


@contextmanager
def busy_thread() -> Iterator[None]:
    """Another thread that never lets go of the GIL unless asked."""
    stop = threading.Event()

    def spin() -> None:
        count = 0
        while not stop.is_set():
            for _ in range(10_000):
                count += 1

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def distribution(log: Any, calls: int, before_burst: Callable[[], object]) -> dict[str, float]:
    took = array("q")
    timed = own_code(each_call)
    for _ in range(-(-calls // BURST)):
        before_burst()
        timed(log, BURST, took)
    ordered = sorted(took)
    return {
        "calls": len(ordered),
        "p50_ns": percentile(ordered, 0.5),
        "p99_ns": percentile(ordered, 0.99),
        "p99.9_ns": percentile(ordered, 0.999),
        "max_ns": ordered[-1],
        "over_1_ms": sum(ns > MILLISECOND_NS for ns in ordered),
    }


def nothing_before() -> None:
    pass


def main(directory: str, bursts: int, calls: int) -> None:
    log = advlog_fast.AdvancedLogger(directory, "run", console="off")
    empty, cffi_push = Nothing(), CffiPush()
    subjects: dict[str, tuple[Callable[[Any, int], float], Any]] = {
        "loop": (own_code(burst_of_nothing), None),
        "empty": (own_code(burst), empty),
        "log": (own_code(burst), log),
        "empty_with_extras": (own_code(burst_with_extras), empty),
        "log_with_extras": (own_code(burst_with_extras), log),
    }
    took: dict[str, list[float]] = {name: [] for name in (*subjects, "cffi")}
    for _ in range(bursts):
        for name, (timed, subject) in subjects.items():
            log.flush()
            took[name].append(timed(subject, BURST))
    for _ in range(bursts):  # apart: to empty its ring is to empty the caches
        cffi_push.empty()
        took["cffi"].append(burst(cffi_push, BURST))
    medians = {name: statistics.median(times) for name, times in took.items()}
    call = {name: medians[name] - medians["loop"] for name in medians if name != "loop"}

    alone = {
        "empty": distribution(empty, calls, nothing_before),
        "log": distribution(log, calls, log.flush),
        "cffi": distribution(cffi_push, calls, cffi_push.empty),
    }
    with busy_thread():
        contended = {
            "empty": distribution(empty, calls, nothing_before),
            "log": distribution(log, calls, log.flush),
            "cffi": distribution(cffi_push, calls // 20, cffi_push.empty),
        }
    clock = time.perf_counter_ns
    clock_ns = statistics.median(-(clock() - clock()) for _ in range(10_000))
    health = log.health()
    log.close()
    report(
        python=platform.python_version(),
        loop_ns=medians["loop"],
        clock_ns=clock_ns,
        call_ns=call,
        ratio=call["log"] / call["empty"],
        ratio_with_extras=call["log_with_extras"] / call["empty_with_extras"],
        alone=alone,
        contended=contended,
        dropped=sum(health.dropped_at_entry.values()),
    )


if __name__ == "__main__":
    main(
        sys.argv[1],
        int(sys.argv[2]) if len(sys.argv) > 2 else 100,
        int(sys.argv[3]) if len(sys.argv) > 3 else 1_000_000,
    )
