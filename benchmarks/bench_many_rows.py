"""What it takes to look at 100 million rows of eight ranks: `advlog show`, DuckDB, and `advlog compact`.

The rows are logged as any are, by eight processes of one launch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from runs import PROGRAMS, Record, Rounds, run_program

ROWS = 100_000_000
RANKS = 8
SLOW_RANK = 3
READINGS = 3


def advlog(*arguments: object) -> tuple[float, str]:
    """The seconds that a whole `advlog` takes, its start too, and what it printed."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "advlog_fast", *map(str, arguments)]
    done = subprocess.run(command, cwd=PROGRAMS, capture_output=True, text=True, check=True)
    return time.perf_counter() - began, done.stdout


def look(logs: Path) -> dict[str, Any]:
    """Seconds, the median of a few; what was read is counted first."""
    shows, groups = [], []
    for _ in range(READINGS):
        seconds, out = advlog("show", logs, "run", "--json")
        shown = json.loads(out)
        assert (shown["records"], len(shown["attempts"])) == (ROWS, 1)
        assert shown["step_times"][0]["steps"] == ROWS // RANKS
        assert [each["rank"] for each in shown["stragglers"]] == [SLOW_RANK]
        shows.append(seconds)
        grouped = run_program("group_by.py", logs / "run_metrics.parquet").figures
        assert (grouped["rows"], grouped["ranks"]) == (ROWS, RANKS)
        groups.append(grouped["seconds"])
    files = list(logs.glob("run_metrics.parquet/*/*.parquet"))
    show_s, group_s = sorted(shows)[READINGS // 2], sorted(groups)[READINGS // 2]
    return {
        "show_s": show_s,
        "show_million_rows_a_second": ROWS / show_s / 1e6,
        "group_by_s": group_s,
        "group_by_million_rows_a_second": ROWS / group_s / 1e6,
        "files_a_rank": len(files) / RANKS,
        "bytes_a_row": sum(file.stat().st_size for file in files) / ROWS,
    }


def bench_many_rows(rounds: Rounds, record: Record, tmp_path: Path) -> None:
    logs = tmp_path / "logs"

    def one_rank(rank: int) -> float:
        slower = 1.5 if rank == SLOW_RANK else 1.0
        return float(run_program("log_rank.py", logs, rank, RANKS, ROWS // RANKS, slower).figures["dropped"])

    def all_of_it() -> dict[str, Any]:
        began = time.perf_counter()
        with ThreadPoolExecutor(RANKS) as pool:
            assert sum(pool.map(one_rank, range(RANKS))) == 0
        logged_s = time.perf_counter() - began
        before = look(logs)
        compact_s, _ = advlog("compact", logs)
        return {
            "rows": ROWS,
            "logged_million_rows_a_second": ROWS / logged_s / 1e6,
            "parts": before,
            "compact_s": compact_s,
            "compact_million_rows_a_second": ROWS / compact_s / 1e6,
            "compacted": look(logs),
        }

    (found,) = rounds(all_of_it, 1)
    assert found["compacted"]["files_a_rank"] <= 8
    record(**found)
