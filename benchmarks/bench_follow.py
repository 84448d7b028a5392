"""What following a run at full speed costs its writer, and how late the rows come."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from runs import PROGRAMS, Record, Rounds, median_of, run_program

RECORDS = 3_000_000


def bench_follow(rounds: Rounds, record: Record, tmp_path: Path) -> None:
    """The follower has a core of its own, as have the writer's two threads together: alternated. A third writer has
    beside it a process that only counts: two cores may be the halves of one."""
    folder = tmp_path / "logs"
    cores = sorted(os.sched_getaffinity(0))

    def written(beside: str) -> dict[str, Any]:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        commands = {
            "follower": [sys.executable, str(PROGRAMS / "follow.py"), str(folder), str(RECORDS), "--follow"],
            "counter": [sys.executable, "-c", "while True: pass"],
        }
        other = None
        if beside in commands:
            other = subprocess.Popen(commands[beside], stdout=subprocess.PIPE, text=True)
            os.sched_setaffinity(other.pid, {cores[-1]})
        os.sched_setaffinity(0, {cores[0]})
        try:
            figures = dict(run_program("follow.py", folder, RECORDS).figures)
        finally:
            os.sched_setaffinity(0, cores)
        if beside == "counter" and other is not None:
            other.kill()
        if other is not None:
            told, _ = other.communicate(timeout=300)
            figures |= json.loads(told) if told else {}
        return figures

    found = rounds(lambda: [written(beside) for beside in ("nothing", "follower", "counter")], 5)
    alone, followed, counted = (median_of([each[at] for each in found]) for at in range(3))
    ratios = [(each[1]["loop_s"] / each[0]["loop_s"], each[1]["loop_s"] / each[2]["loop_s"]) for each in found]
    over_alone, over_counter = (median_of([pair[at] for pair in ratios]) for at in range(2))
    record(alone=alone, followed=followed, beside_a_counter=counted, over_alone=over_alone, over_counter=over_counter)
