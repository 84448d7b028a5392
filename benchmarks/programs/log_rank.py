"""One rank of several logs its steps into Parquet alone, each so many times as long as that of a rank at 1.

log_rank.py DIRECTORY RANK WORLD_SIZE STEPS SLOWER
"""

from __future__ import annotations

import random
import sys

from workload import report

import advlog_fast


def main(directory: str, rank: int, world_size: int, steps: int, slower: float) -> None:
    value = random.Random(rank).random
    log = advlog_fast.AdvancedLogger(
        directory, "run", rank=rank, world_size=world_size, text=False, jsonl=False, console="off"
    )
    for step in range(1, steps + 1):
        log.log_batch_progress(
            1, step, steps, value(), learning_rate=1e-3, batch_time=slower * (0.01 + 0.001 * value())
        )
    log.close()
    health = log.health()
    report(dropped=sum(health.dropped_at_entry.values()) + sum(sink.dropped for sink in health.sinks.values()))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]), float(sys.argv[5]))
