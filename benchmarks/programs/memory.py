"""Peak resident memory over the last million of N million records, over that between the first and the second.

memory.py DIRECTORY MILLIONS
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from pathlib import Path

from workload import Metrics, log_steps, report

import advlog_fast

MILLION = 1_000_000


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Peak(threading.Thread):
    """The most that was resident since `begin`, looked at every 10 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes = 0

    def begin(self) -> None:
        self.bytes = 0

    def run(self) -> None:
        while True:
            self.bytes = max(self.bytes, resident_bytes())
            time.sleep(0.01)


def main(directory: Path, millions: int) -> None:
    metrics = Metrics()
    log = advlog_fast.AdvancedLogger(directory, "run", console="off")
    peak = Peak()
    peak.start()
    peaks = []
    for _ in range(millions):
        peak.begin()
        log_steps(log, metrics, MILLION)
        peaks.append(peak.bytes)
        # What is sealed is of no use here, and 100 million rows fill a small disk.
        for part in sorted((directory / "run_metrics.parquet").glob("*/*.parquet"))[:-2]:
            part.unlink()
    health = log.health()
    log.close()
    shutil.rmtree(directory)
    report(
        first_bytes=peaks[1],
        last_bytes=peaks[-1],
        growth_bytes=peaks[-1] - peaks[1],
        records=millions * MILLION,
        dropped=sum(health.dropped_at_entry.values()),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
