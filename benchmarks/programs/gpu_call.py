"""What a call with so many scalars on a GPU costs: the host's time, with the GPU idle and behind queued work, and the
GPU's; beside it `.item()`, TensorBoard and W&B.

gpu_call.py DIRECTORY SCALARS [DEVICE]

DEVICE is "cuda"; with "cpu" the program runs where there is no GPU, and its figures mean nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from gpu_step import Device, tensorboard, wandb
from workload import percentile, report

import advlog_fast

BEHIND = 4
"""Matrix products that are queued before a call, a few milliseconds of work."""
TIMED = 50
"""Launches of a burst whose time on the GPU is measured together."""


def host_us(device: Device, calls: int, call: Callable[[int], None], before: Callable[[], None]) -> dict[str, float]:
    took = []
    for step in range(calls):
        device.wait()
        before()
        began = time.perf_counter_ns()
        call(step)
        took.append(time.perf_counter_ns() - began)
    device.wait()
    ordered = sorted(took[calls // 10 :])
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


def main(directory: Path, count: int, name: str) -> None:
    device = Device(name)
    values = torch._foreach_norm([torch.full((3,), float(at), device=name) for at in range(count)])
    more: dict[str, Any] = {f"norm/{at}": value for at, value in enumerate(values)}
    log = advlog_fast.AdvancedLogger(directory, "run", console="off", deferred_values=65_536)

    def deferred(step: int) -> None:
        log.log_metrics(more, step)

    def item(step: int) -> None:
        log.log_metrics({name: value.item() for name, value in more.items()}, step)

    device.wait()
    began = time.perf_counter()
    deferred(0)
    first_ms = (time.perf_counter() - began) * 1000
    deferred(1)
    calls = max(20, min(400, 40_000 // count))
    ways: dict[str, Callable[[int], None]] = {"deferred": deferred, "item": item}
    if find_spec("tensorboard"):
        into_tensorboard = tensorboard(directory / "tensorboard")
        ways["tensorboard"] = lambda step: into_tensorboard(step, list(values))
    if find_spec("wandb"):
        into_wandb = wandb(directory)
        ways["wandb"] = lambda step: into_wandb(step, list(values))
    figures = {
        way: {
            "idle_us": host_us(device, calls, call, lambda: None),
            "queued_us": host_us(device, calls, call, lambda: [device.step(1, 1) for _ in range(BEHIND)] and None),
        }
        for way, call in ways.items()
    }
    gpu = gpu_us(deferred, lambda: device.step(1, 1) and None) if device.cuda and count <= 100 else None
    closed = log.close()
    health = log.health()
    report(
        device=device.name, scalars=count, first_ms=first_ms, gpu_us=gpu, ways=figures, whole=closed,
        gpu_values=dict(health.gpu_values), unresolved=dict(health.unresolved),
    )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "cuda")
