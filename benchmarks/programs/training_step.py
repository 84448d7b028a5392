"""A loop of steps that compute, logged every step, over the same loop without: blocks of both in turn.

    training_step.py DIRECTORY STEP_MS PAIRS [STEPS]

A step hashes a fixed number of bytes, which lets go of the GIL as a training step does. What the logger does in the
background has a core to itself where there are two.
"""

from __future__ import annotations

import hashlib
import statistics
import sys
import time

from workload import report

import advlog_fast


def bytes_for(seconds: float) -> bytes:
    """What takes so long to hash on this machine."""
    sample = bytes(1 << 20)
    took = []
    for _ in range(20):
        began = time.perf_counter()
        hashlib.sha256(sample)
        took.append(time.perf_counter() - began)
    return bytes(int(len(sample) * seconds / min(took)))


def block(log: advlog_fast.AdvancedLogger | None, work: bytes, steps: int) -> float:
    began = time.perf_counter()
    for step in range(steps):
        hashlib.sha256(work)
        if log is not None:
            log.log_batch_progress(
                epoch=1,
                batch=step,
                total_batches=steps,
                loss=step * 0.1,
                accuracy=step * 0.3,
                learning_rate=1e-3,
                gradient_norm=step * 0.7,
            )
    return time.perf_counter() - began


def main(directory: str, step_ms: float, pairs: int, steps: int) -> None:
    work = bytes_for(step_ms / 1000)
    log = advlog_fast.AdvancedLogger(directory, "run", console="off")
    without, logged = [], []
    for pair in range(pairs):
        # Each goes first as often as the other.
        for which in (0, 1) if pair % 2 else (1, 0):
            if which:
                logged.append(block(log, work, steps))
                log.flush()
            else:
                without.append(block(None, work, steps))
    log.close()
    ratios = [a / b for a, b in zip(logged, without, strict=True)]
    report(
        step_ms=1000 * statistics.median(without) / steps,
        ratio=statistics.median(ratios),
        ratio_of_medians=statistics.median(logged) / statistics.median(without),
        ratio_of_fastest=min(logged) / min(without),
        quartiles=statistics.quantiles(ratios),
        pairs=pairs,
    )


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 100)
