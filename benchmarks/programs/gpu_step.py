"""Training steps of so many milliseconds of GPU work, some tensors logged at each: blocks of every way to log in turn.

    gpu_step.py DIRECTORY STEP_MS TENSORS BLOCKS [DEVICE]

DEVICE is "cuda"; with "cpu" the program runs where there is no GPU, and its figures mean nothing.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from workload import percentile, report

import advlog_fast

BLOCK_S = 0.75
"""What a block's steps are to take together."""

SYNCHRONISED = 8
"""Steps after which the host waits, in every way to log: or it would run ahead until the launch queue is full, and a
call's time would be the wait for a place in it."""

Log = Callable[[int, list[Any]], None]
"""Of a step and its tensors."""


class Device:
    """A queue of matrix products, and how long one takes there."""

    def __init__(self, name: str) -> None:
        self.cuda = name == "cuda"
        size = 2048 if self.cuda else 128
        self._matrix = torch.randn(size, size, device=name) / size**0.5
        self._result = torch.empty_like(self._matrix)
        self._products(50)
        self.wait()
        self.product_s = min(self._timed(100) for _ in range(5)) / 100

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name() if self.cuda else "CPU"

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def step(self, products: int, tensors: int) -> list[Any]:
        """Enqueues the work; values of its result, that the next step writes over."""
        self._products(products)
        return list(self._result.flatten()[:tensors].unbind())

    def _products(self, count: int) -> None:
        for _ in range(count):
            torch.matmul(self._matrix, self._matrix, out=self._result)

    def _timed(self, count: int) -> float:
        began = time.perf_counter()
        self._products(count)
        self.wait()
        return time.perf_counter() - began


def ours(log: advlog_fast.AdvancedLogger, item: bool) -> Log:
    def call(step: int, tensors: list[Any]) -> None:
        values = [tensor.item() for tensor in tensors] if item else tensors
        more = {f"m{at}": value for at, value in enumerate(values[1:])}
        log.log_batch_progress(1, step, None, values[0], step=step, **more)

    return call


def tensorboard(directory: Path) -> Log:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(directory))  # type: ignore[no-untyped-call, unused-ignore]

    def call(step: int, tensors: list[Any]) -> None:
        for at, tensor in enumerate(tensors):
            writer.add_scalar(f"m{at}", tensor, step)  # type: ignore[no-untyped-call, unused-ignore]

    return call


def wandb(directory: Path) -> Log:
    import wandb as library

    settings = library.Settings(silent=True)
    run = library.init(mode="offline", dir=str(directory), project="bench", settings=settings)

    def call(step: int, tensors: list[Any]) -> None:
        run.log({f"m{at}": tensor for at, tensor in enumerate(tensors)}, step=step)

    return call


def block(device: Device, products: int, tensors: int, steps: range, log: Log | None) -> tuple[float, list[int]]:
    """Seconds a step, the GPU's work included; nanoseconds of each call."""
    calls = []
    device.wait()
    began = time.perf_counter()
    for step in steps:
        values = device.step(products, tensors)
        if log is not None:
            called = time.perf_counter_ns()
            log(step, values)
            calls.append(time.perf_counter_ns() - called)
        if step % SYNCHRONISED == 0:
            device.wait()
    device.wait()
    return (time.perf_counter() - began) / len(steps), calls


def main(directory: Path, step_ms: float, tensors: int, blocks: int, name: str) -> None:
    device = Device(name)
    products = max(1, round(step_ms / 1000 / device.product_s))
    steps = max(5, round(BLOCK_S / (products * device.product_s)))
    log = advlog_fast.AdvancedLogger(directory, "run", console="off")
    ways: dict[str, Log | None] = {"nothing": None, "deferred": ours(log, item=False), "item": ours(log, item=True)}
    if find_spec("tensorboard"):
        ways["tensorboard"] = tensorboard(directory / "tensorboard")
    if find_spec("wandb"):
        ways["wandb"] = wandb(directory)
    took: dict[str, list[float]] = {way: [] for way in ways}
    calls: dict[str, list[int]] = {way: [] for way in ways}
    step = 1
    for warm_up in [True, *[False] * blocks]:
        for way in random.sample(list(ways), len(ways)):
            seconds, ns = block(device, products, tensors, range(step, step + steps), ways[way])
            step += steps
            if not warm_up:
                took[way].append(seconds)
                calls[way] += ns
    closed = log.close()
    health = log.health()
    figures = {}
    for way, seconds in took.items():
        ratios = [mine / without for mine, without in zip(seconds, took["nothing"], strict=True)]
        ordered = sorted(calls[way]) or [0]
        figures[way] = {
            "step_ms": 1000 * statistics.median(seconds),
            "throughput": 1 / statistics.median(ratios),
            "call_us_p50": percentile(ordered, 0.5) / 1000,
            "call_us_p99": percentile(ordered, 0.99) / 1000,
        }
    report(
        device=device.name,
        tensors=tensors,
        steps=steps,
        blocks=blocks,
        ways=figures,
        whole=closed and not any(health.dropped_at_entry.values()),
        unresolved=dict(health.unresolved),
    )


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        float(sys.argv[2]),
        int(sys.argv[3]),
        int(sys.argv[4]),
        sys.argv[5] if len(sys.argv) > 5 else "cuda",
    )
