"""Tens of thousands of metric names, in a process that is killed: each acknowledged value is there once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from advlog_fast import read_jsonl
from advlog_fast.compaction import compact
from advlog_fast.recovery import recover
from advlog_fast.store.paths import RunPaths
from advlog_fast.verification import verify

NAMES = 50_000
EACH = 20
RECORDS = NAMES // EACH

LOGS = """
import os, sys
from advlog_fast import AdvancedLogger
log_dir, each, first, names, children = sys.argv[1], *map(int, sys.argv[2:])
log = AdvancedLogger(log_dir, "run", console="off", text=False, part_rows=500, memory_interval_s=0)
def train(first):
    for step in range(first, names // each):
        log.log_metrics({f"layer{n}/weight_norm": float(n) for n in range(step * each, (step + 1) * each)}, step=step)
        sys.stdout.write(f"{step}\\n")
        sys.stdout.flush()
if children:
    if os.fork() == 0:
        train(first)
        os._exit(0)
    os.wait()
else:
    train(first)
log.close()
"""


def train_until_killed(folder: Path, first: int, kill_after: int, *, in_child: bool) -> int:
    """Returns the last acknowledged step."""
    arguments = [str(folder / "logs"), EACH, first, NAMES, int(in_child)]
    command = [sys.executable, "-c", LOGS, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        last = first - 1
        for line in process.stdout:
            last = int(line)
            if last >= kill_after:
                os.killpg(process.pid, signal.SIGKILL)
                break
        return max([last, *map(int, process.stdout.read().split())])


@pytest.mark.parametrize("in_child", [False, True], ids=["process", "child"])
@pytest.mark.parametrize("kills", [pytest.param(2, id="short"), pytest.param(20, id="long", marks=pytest.mark.stress)])
def test_a_run_with_50_000_names_that_is_killed_keeps_each_value_once(tmp_path: Path, kills: int, in_child: bool):
    chance = random.Random(kills)
    moments = sorted(chance.sample(range(RECORDS // 4, RECORDS - 50), kills))
    first, attempts = 0, {}
    for attempt, moment in enumerate([*moments, RECORDS], 1):
        last = train_until_killed(tmp_path, first, moment, in_child=in_child)
        attempts[attempt] = (first, last)
        first = last + 1
    assert first == RECORDS
    assert {report.outcome for report in recover(tmp_path / "logs")} <= {"recovered"}
    check_jsonl(tmp_path / "logs", attempts)
    check_parquet(tmp_path / "logs")
    assert [str(found) for found in verify(tmp_path / "logs") if not found.explained] == []
    for _ in range(2):
        compact(tmp_path / "logs")
        check_parquet(tmp_path / "logs")


def check_jsonl(log_dir: Path, attempts: dict[int, tuple[int, int]]) -> None:
    seen: dict[int, list[int]] = {attempt: [] for attempt in attempts}
    for row in read_jsonl(log_dir / "run_metrics.jsonl"):
        step = row["step"]
        values = {name: value for name, value in row.items() if "/" in name}
        assert values == expected(step)
        seen[row["attempt"]].append(step)
    for attempt, (first, last) in attempts.items():
        steps = seen[attempt]
        assert steps[: last - first + 1] == list(range(first, last + 1))
        assert len(steps) - (last - first + 1) in (0, 1), "a call that was killed may be there or not"


def check_parquet(log_dir: Path) -> None:
    """Each row of the parts has the metrics of its step, in columns or in `extra`; at most 1,000 have a column."""
    steps = set()
    for path in RunPaths(log_dir, "run").parts_of_all_ranks("metrics").values():
        table = pq.read_table(path)
        columns = [name for name in table.column_names if "/" in name]
        assert len(columns) <= 1000
        for row in table.to_pylist():
            found = {name: row[name] for name in columns if row[name] is not None}
            found.update(row["extra"] or [])
            assert found == expected(row["step"])
            steps.add(row["step"])
    assert steps == set(range(RECORDS))


def expected(step: int) -> dict[str, float]:
    return {f"layer{n}/weight_norm": float(n) for n in range(step * EACH, (step + 1) * EACH)}
