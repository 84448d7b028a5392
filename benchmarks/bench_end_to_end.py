"""What a record costs the machine from the call to the closed files, and what is sustained."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from runs import Record, Rounds, Run, median_of, run_program

STEPS = 2_000_000
SINKS = ("text", "jsonl", "parquet")


def outputs(directory: Path) -> dict[str, tuple[int, int]]:
    """Records and bytes in each sink's files."""
    found = {}
    for sink, pattern in (("text", "run_training.log*"), ("jsonl", "run_metrics.jsonl*")):
        files = list(directory.glob(pattern))
        if files:
            found[sink] = (sum(_lines(file) for file in files), sum(file.stat().st_size for file in files))
    parts = list(directory.glob("run_metrics.parquet/*/*.parquet"))
    if parts:
        rows = sum(pq.read_metadata(part).num_rows for part in parts)
        found["parquet"] = (rows, sum(part.stat().st_size for part in parts))
    return found


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def log_and_count(directory: Path, steps: int, sinks: tuple[str, ...]) -> tuple[Run, Run, dict[str, float]]:
    """A run, one that only imports, and the bytes a record; the records are counted in the files first."""
    only_import = run_program("log_steps.py", directory, 0)
    run = run_program("log_steps.py", directory, steps, *sinks)
    found = outputs(directory)
    shutil.rmtree(directory)
    assert run.figures["dropped"] == 0
    # The text log also has the lines of the control plane: the beginning and the end of the run.
    assert {sink: found[sink][0] for sink in sinks if sink != "text"} == {s: steps for s in sinks if s != "text"}
    assert "text" not in sinks or found["text"][0] >= steps
    return run, only_import, {sink: bytes_ / steps for sink, (_, bytes_) in found.items()}


def cost(run: Run, only_import: Run, bytes_a_record: dict[str, float], steps: int) -> dict[str, Any]:
    return {
        "user_us": (run.user_s - only_import.user_s) / steps * 1e6,
        "system_us": (run.system_s - only_import.system_s) / steps * 1e6,
        "cpu_us": (run.cpu_s - only_import.cpu_s) / steps * 1e6,
        "million_records_a_second": steps / run.figures["seconds"] / 1e6,
        "drain_us": run.figures["drain_cpu_s"] / steps * 1e6,
        "peak_mib": run.peak_bytes / 2**20,
        "bytes_a_record": bytes_a_record,
    }


def bench_record(rounds: Rounds, record: Record, tmp_path: Path) -> None:
    """All sinks on, at full speed: the ring is always full, and the call waits for the drain."""
    runs = rounds(lambda: cost(*log_and_count(tmp_path / "logs", STEPS, SINKS), STEPS), 7)
    record(records=STEPS, **median_of(runs))


def bench_gil(rounds: Rounds, record: Record, tmp_path: Path) -> None:
    """How much of its CPU time the background holds the GIL."""

    def run() -> dict[str, Any]:
        shutil.rmtree(tmp_path / "logs", ignore_errors=True)
        return run_program("gil_share.py", tmp_path / "logs", 3 * STEPS).figures

    record(**median_of(rounds(run, 3)))


def bench_memory(rounds: Rounds, record: Record, tmp_path: Path) -> None:
    """Resident memory, late in a long run and early in it."""
    (run,) = rounds(lambda: run_program("memory.py", tmp_path / "logs", 100), 1)
    assert run.figures["dropped"] == 0
    record(**run.figures)
