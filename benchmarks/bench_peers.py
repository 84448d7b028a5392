"""What others cost for the same values. The extra `bench-peers` brings them; one that is missing is skipped."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

from runs import Record, Rounds, Run, median_of, run_program

ROUNDS = 3


def run_peer(peer: str, directory: Path, steps: int) -> tuple[Run, int | None, int]:
    """A run, the steps that its files have, and their bytes."""
    with tempfile.TemporaryDirectory(dir=directory) as outputs:
        run = run_program("peer.py", peer, outputs, steps)
        bytes_ = sum(file.stat().st_size for file in Path(outputs).rglob("*") if file.is_file())
        records = run_program("peer.py", peer, outputs, "records").figures["records"] if steps else None
    return run, records, bytes_


def cpu_after_opening(run: Run) -> float:
    """Of the process and of all that it started, from the first call to its end. An import takes a second here and a
    tenth more or less there, which would hide what 20,000 steps take."""
    return run.cpu_s - run.figures["opening_cpu_s"]


def cost(peer: str, directory: Path, steps: int) -> dict[str, Any]:
    only_open, _, bytes_of_none = run_peer(peer, directory, 0)
    run, records, bytes_ = run_peer(peer, directory, steps)
    assert records in (steps, None), f"{records} of {steps} steps in its files"
    return {
        **run.figures,
        "cpu_us": (cpu_after_opening(run) - cpu_after_opening(only_open)) / steps * 1e6,
        "bytes_a_step": (bytes_ - bytes_of_none) / steps,
    }


def bench_peers(rounds: Rounds, record: Record, tmp_path: Path) -> None:
    """In another order each round. One that fails, or whose files are short of steps, has the reason for figures."""
    peers: dict[str, dict[str, Any]] = run_program("peer.py").figures
    skipped = {peer: "not installed" for peer, of in peers.items() if not of["version"]}

    def run_all() -> dict[str, dict[str, Any]]:
        found = {}
        for peer in random.sample(list(peers), len(peers)):
            if peer not in skipped:
                try:
                    found[peer] = cost(peer, tmp_path, peers[peer]["steps"])
                except AssertionError as error:
                    # Without the command, which has this machine's folders, and what pytest adds.
                    skipped[peer] = str(error).splitlines()[0].rpartition(": ")[2]
        return found

    runs = rounds(run_all, ROUNDS)
    record(
        peers={
            peer: of | ({"skipped": skipped[peer]} if peer in skipped else median_of([run[peer] for run in runs]))
            for peer, of in peers.items()
        }
    )
