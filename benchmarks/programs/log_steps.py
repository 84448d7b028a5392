"""Logs N steps through a logger and closes it; with 0, only imports. Its CPU time is taken by who started it.

log_steps.py DIRECTORY STEPS [SINK ...]        sinks: text jsonl parquet
"""

from __future__ import annotations

import sys
import time

from workload import Metrics, log_steps, report

import advlog_fast


def main(directory: str, steps: int, sinks: list[str]) -> None:
    metrics = Metrics()
    if steps == 0:
        report()
        return
    log = advlog_fast.AdvancedLogger(
        directory,
        "run",
        max_log_files=1_000_000,  # all of them are counted afterwards
        console="off",
        text="text" in sinks,
        jsonl="jsonl" in sinks,
        parquet="parquet" in sinks,
    )
    began = time.perf_counter()
    log_steps(log, metrics, steps)
    log.close()
    closed = time.perf_counter()
    health = log.health()
    report(
        seconds=closed - began,
        dropped=sum(health.dropped_at_entry.values()) + sum(sink.dropped for sink in health.sinks.values()),
        drain_cpu_s=health.drain_cpu_s,
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
