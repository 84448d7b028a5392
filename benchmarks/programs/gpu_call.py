"""What a call with so many scalars on a GPU costs: the host's time, with the GPU idle and behind queued work, and the
GPU's.

gpu_call.py DIRECTORY SCALARS
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_step import Device
from workload import percentile, report

import advlog_fast

CALLS = 400
BEHIND = 4
"""Matrix products that are queued before a call, a few milliseconds of work."""
TIMED = 50
"""Launches of a burst whose time on the GPU is measured together."""


def host_us(call: Callable[[int], None], before: Callable[[], None]) -> dict[str, float]:
    took = []
    for step in range(CALLS):
        torch.cuda.synchronize()
        before()
        began = time.perf_counter_ns()
        call(step)
        took.append(time.perf_counter_ns() - began)
    torch.cuda.synchronize()
    ordered = sorted(took[CALLS // 10 :])
    return {"p50": percentile(ordered, 0.5) / 1000, "p99": percentile(ordered, 0.99) / 1000}


def gpu_us(call: Callable[[int], None], product: Callable[[], None]) -> float:
    """The GPU's time a call: what a burst of them adds to the work that they are queued behind."""
    found = []
    for _ in range(20):
        times = []
        for calls in (0, TIMED):
            torch.cuda.synchronize()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            for _ in range(40):
                product()  # so that the host is ahead, and the GPU waits for no call
            begin.record()
            for step in range(calls):
                call(step)
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end))
        found.append((times[1] - times[0]) * 1000 / TIMED)
    return sorted(found)[len(found) // 2]


def main(directory: Path, count: int) -> None:
    device = Device("cuda")
    values = torch._foreach_norm([torch.full((3,), float(at), device="cuda") for at in range(count)])
    more: dict[str, Any] = {f"norm/{at}": value for at, value in enumerate(values)}
    log = advlog_fast.AdvancedLogger(directory, "run", console="off")

    def call(step: int) -> None:
        log.log_metrics(more, step)
        if step % 3 == 2 and count >= 100:
            log.flush(5.0)  # or the slab is full; not timed by the GPU's clock

    def only_call(step: int) -> None:
        log.log_metrics(more, step)

    def item(step: int) -> None:
        log.log_metrics({name: value.item() for name, value in more.items()}, step)

    torch.cuda.synchronize()
    began = time.perf_counter()
    only_call(0)
    first_ms = (time.perf_counter() - began) * 1000
    call(1)
    figures = {
        "idle_us": host_us(call, lambda: None),
        "queued_us": host_us(call, lambda: [device.step(1, 1) for _ in range(BEHIND)] and None),
        "item_idle_us": host_us(item, lambda: None),
        "gpu_us": gpu_us(only_call, lambda: device.step(1, 1) and None) if count <= 10 else None,
    }
    closed = log.close()
    health = log.health()
    report(
        device=device.name, scalars=count, first_ms=first_ms, **figures, whole=closed,
        gpu_values=dict(health.gpu_values), unresolved=dict(health.unresolved),
    )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
