"""Memory does not grow with the run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Logs ten windows of records, and prints the peak of resident memory, in KiB, over each of them.
SCRIPT = """
import random, sys
from advlog_fast import AdvancedLogger

log_dir, window, part_rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
values = [random.random() for _ in range(997)]

def peak_kib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

with AdvancedLogger(log_dir, "long", max_log_size=1 << 40, overflow_timeout_s=None, console="off",
                    part_rows=part_rows) as log:
    for _ in range(10):
        with open("/proc/self/clear_refs", "w") as refs:
            refs.write("5")  # the peak counts from here
        for i in range(window):
            log.log_batch_progress(epoch=1, batch=i, total_batches=window, loss=values[i % 997],
                                   accuracy=values[i * 7 % 997], learning_rate=1e-3, gradient_norm=values[i * 3 % 997])
        print(peak_kib(), flush=True)
health = log.health()
assert health.sinks["metrics_parquet"].written == 10 * window, health
"""

LIMIT_KIB = 8 * 1024


# The short form seals as many parts before the second window's end as the allocator needs to reach its level.
@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer keeps what was freed")
@pytest.mark.parametrize(
    ("window", "part_rows"),
    [
        pytest.param(100_000, 25_000, id="short"),
        pytest.param(1_000_000, 1_000_000, id="long", marks=pytest.mark.stress),
    ],
)
def test_the_peak_over_the_last_tenth_exceeds_that_over_the_second_by_at_most_8_mb(
    tmp_path: Path, window: int, part_rows: int
):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "logs"), str(window), str(part_rows)]
    # Other pools of Arrow's keep what they once had, which would count as ours.
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    peaks = [int(line) for line in done.stdout.split()]
    assert len(peaks) == 10
    assert peaks[9] - peaks[1] <= LIMIT_KIB, peaks
