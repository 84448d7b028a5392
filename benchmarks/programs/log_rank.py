"""One rank of several logs N steps into Parquet alone, one of them slower than the others.

log_rank.py DIRECTORY RANK WORLD_SIZE STEPS
"""

from __future__ import annotations

import sys

from workload import VALUES, Metrics, report

import advlog_fast

SLOW_RANK = 3


def main(directory: str, rank: int, world_size: int, steps: int) -> None:
    metrics = Metrics(seed=rank)
    log = advlog_fast.AdvancedLogger(
        directory, "run", rank=rank, world_size=world_size, text=False, jsonl=False, console="off"
    )
    loss, noise = metrics.loss, metrics.accuracy
    slower = 1.5 if rank == SLOW_RANK else 1.0
    for step in range(1, steps + 1):
        at = step % VALUES
        log.log_batch_progress(
            1, step, steps, loss[at], learning_rate=1e-3, batch_time=slower * (0.01 + 0.001 * noise[at])
        )
    log.close()
    health = log.health()
    report(dropped=sum(health.dropped_at_entry.values()) + sum(sink.dropped for sink in health.sinks.values()))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
