"""Each row of a run once, as it comes, whatever happens to its files meanwhile."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest

from advlog_fast import AdvancedLogger, follow, read_run
from advlog_fast.cli import main
from advlog_fast.recovery import recover


def opened(folder, **options):
    return AdvancedLogger(folder, "run", **{"console": "off", "memory_interval_s": 0, **options})


class Reader:
    """Follows a run in pieces, each with a follower of its own that has the cursor of the one before."""

    def __init__(self, folder, **options):
        self.folder, self.options, self.cursor = folder, options, None
        self.rows, self.cuts, self.gaps = [], [], []

    def read(self):
        for item in follow(self.folder, "run", self.cursor, **self.options):
            self.cursor = json.loads(json.dumps(item.cursor))
            if item.rows is not None:
                names = ("attempt", "rank", "seq")
                self.rows += zip(*(item.rows[name].to_pylist() for name in names), strict=True)
            if item.cut is not None:
                self.cuts.append(item.cut)
            if item.gap is not None:
                self.gaps.append(item.gap)
        return self

    def seqs(self, attempt=1, rank=0):
        return [seq for *key, seq in self.rows if key == [attempt, rank]]


def log_some(log, count, **more):
    for _ in range(count):
        log.log_metrics({"loss": 1.0, **more}, step=1)


@pytest.mark.parametrize("options", [{}, {"parquet": False}, {"jsonl": False}])
def test_each_row_comes_once(tmp_path, options):
    log = opened(tmp_path, **options)
    reader = Reader(tmp_path)
    for _ in range(5):
        log_some(log, 20)
        log.flush()
        reader.read()
    assert reader.seqs() == list(range(1, 101))
    log.close()
    assert reader.read().seqs() == list(range(1, 101))
    assert main(["compact", str(tmp_path)]) == 0
    assert reader.read().seqs() == list(range(1, 101))
    assert (reader.cuts, reader.gaps) == ([], [])


def test_the_rows_have_the_columns_and_values_of_the_run(tmp_path):
    with opened(tmp_path, part_rows=40) as log:
        for step in range(100):
            log.log_batch_progress(1, step, 100, step / 7, **({"late": float(step)} if step > 60 else {}))
    whole = read_run(tmp_path, "run").metrics
    found = [row for item in follow(tmp_path, "run") for row in item.rows.to_pylist()]
    names = ("timestamp", "attempt", "rank", "worker", "seq", "epoch", "batch", "step", "loss")
    assert [{name: row[name] for name in names} for row in found] == whole.select(names).to_pylist()
    assert [row.get("late") for row in found] == whole["late"].to_pylist()
    assert "extra" not in found[0]


@pytest.mark.parametrize(
    "options", [{"part_rows": 50}, {"parquet": False, "max_log_size": 2000, "max_log_files": 1000}]
)
def test_each_row_comes_once_across_rotation_and_sealing(tmp_path, options):
    log = opened(tmp_path, part_interval_s=0.1, **options)
    reader = Reader(tmp_path)
    for _ in range(40):
        log_some(log, 30, more=2.0)
        reader.read()
    log.close()
    assert reader.read().seqs() == list(range(1, 1201))
    assert reader.gaps == []


def test_it_waits_for_what_comes(tmp_path):
    log = opened(tmp_path)
    log_some(log, 1)
    log.flush()
    found = []

    def read():
        for item in follow(tmp_path, "run", wait_s=math.inf):
            found.extend(item.rows["seq"].to_pylist())
            if found[-1] == 300:
                return

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(23):
        log_some(log, 13)
        time.sleep(0.01)
    log.flush()
    thread.join(20)
    assert not thread.is_alive()
    assert found == list(range(1, 301))
    log.close()


def test_attempts_and_ranks_that_come_later_are_followed_and_a_resume_cuts(tmp_path):
    reader = Reader(tmp_path)
    logs = [opened(tmp_path, rank=rank, world_size=2) for rank in (0, 1)]
    for log in logs:
        log_some(log, 10)
    states = [log.state_dict() for log in logs]
    for log in logs:
        log_some(log, 5)
        log.flush()
    reader.read()
    assert (reader.seqs(), reader.seqs(rank=1)) == (list(range(1, 16)),) * 2
    for log in logs:
        log.close()
    logs = [opened(tmp_path, rank=rank, world_size=2) for rank in (0, 1)]
    for log, state in zip(logs, states, strict=True):
        log.load_state_dict(state)
    assert reader.read().cuts == []
    for log in logs:
        log_some(log, 3)
        log.close()
    reader.read()
    assert sorted(reader.cuts) == [(1, 0, 10), (1, 1, 10)]
    assert reader.seqs(attempt=2) == reader.seqs(attempt=2, rank=1) == [1, 2, 3]
    assert len(reader.rows) == 36
    # A follower that begins now tells the same, in the same order of each rank.
    late = Reader(tmp_path).read()
    assert (sorted(late.rows), sorted(late.cuts)) == (sorted(reader.rows), sorted(reader.cuts))
    kept = {(1, 0): 10, (1, 1): 10}
    shown = [row for row in late.rows if row[2] <= kept.get(row[:2], math.inf)]
    table = read_run(tmp_path, "run").metrics.select(["attempt", "rank", "seq"])
    assert sorted(shown) == sorted(tuple(row.values()) for row in table.to_pylist())


def test_ranks_cut_by_another_s_state_and_ranks_without_a_successor_are_cut_too(tmp_path):
    logs = [opened(tmp_path, rank=rank, world_size=3) for rank in range(3)]
    for step in range(1, 11):
        for log in logs:
            log.log_metrics({"loss": 1.0}, step=step)
        if step == 6:
            state = logs[0].state_dict()
    for log in logs:
        log.close()
    reader = Reader(tmp_path).read()
    logs = [opened(tmp_path, rank=rank, world_size=2) for rank in range(2)]
    for log in logs:
        log.load_state_dict(state)
        log.log_metrics({"loss": 1.0}, step=7)
        log.close()
    assert sorted(reader.read().cuts) == [(1, 0, 6), (1, 1, 6), (1, 2, 6)]


def test_expired_rows_are_a_counted_gap(tmp_path):
    log = opened(tmp_path, parquet=False, max_log_size=1024, max_log_files=2)
    log_some(log, 3)
    log.flush()
    reader = Reader(tmp_path).read()
    log_some(log, 400)
    log.close()
    reader.read()
    (gap,) = reader.gaps
    assert gap[:3] == (1, 0, 4)
    assert reader.seqs() == [1, 2, 3, *range(gap[3] + 1, 404)]


KILLED = """
import os, sys
from advlog_fast import AdvancedLogger
log = AdvancedLogger(sys.argv[1], "run", console="off", memory_interval_s=0, part_rows=100)
for number in range(1, 1001):
    log.log_metrics({"loss": 1.0 / number, f"m{number // 250}": 1.0}, step=number)
    if number % 250 == 0:
        print(number, flush=True)
        sys.stdin.readline()
os.kill(os.getpid(), 9)
"""


def test_each_row_comes_once_across_a_kill_its_recovery_and_a_compaction(tmp_path):
    reader = Reader(tmp_path)
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            assert int(line) % 250 == 0
            reader.read()
            process.stdin.write("\n")
            process.stdin.flush()
        assert process.wait(30) == -9
    reader.read()
    assert [found.outcome for found in recover(tmp_path)] == ["recovered"]
    assert main(["compact", str(tmp_path)]) == 0
    reader.read()
    assert reader.seqs() == list(range(1, 1001))
    assert reader.gaps == []


def test_a_follower_that_lives_through_it_all_gives_each_row_once(tmp_path):
    log = opened(tmp_path, part_rows=64, part_interval_s=0.1)
    log_some(log, 1)
    log.flush()
    rows, gaps = [], []

    def read():
        for item in follow(tmp_path, "run", wait_s=2.0):
            rows.extend(item.rows["seq"].to_pylist() if item.rows is not None else ())
            gaps.extend([item.gap] if item.gap else ())

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(100):
        log_some(log, 37)
        time.sleep(0.01)
    log.close()
    for _ in range(3):
        assert main(["compact", str(tmp_path)]) == 0
    thread.join(60)
    assert rows == list(range(1, 3702))
    assert gaps == []


def test_system_samples_are_followed_too(tmp_path):
    with opened(tmp_path) as log:
        log.log_memory_usage()
        log.log_performance_metrics(0.25)
    rows = [row for item in follow(tmp_path, "run", stream="system") for row in item.rows.to_pylist()]
    assert [row["kind"] for row in rows] == ["memory", "performance"]


def test_a_cursor_of_another_run_is_refused(tmp_path):
    for name in ("one", "two"):
        with AdvancedLogger(tmp_path, name, console="off") as log:
            log_some(log, 1)
    (item,) = follow(tmp_path, "one")
    with pytest.raises(ValueError, match=r"since\['run_id'\]: expected"):
        follow(tmp_path, "two", item.cursor)
    with pytest.raises(ValueError, match=r"since\['stream'\]: expected 'system'"):
        follow(tmp_path, "one", item.cursor, stream="system")
    with pytest.raises(TypeError, match="since: expected the cursor of an item"):
        follow(tmp_path, "one", {"step": 3})
    with pytest.raises(ValueError, match="stream: expected"):
        follow(tmp_path, "one", stream="metric")


def test_a_child_s_rows_are_followed(tmp_path):
    log = opened(tmp_path)
    log_some(log, 2)
    child = os.fork()
    if child == 0:
        log_some(log, 3)
        os._exit(0)
    os.waitpid(child, 0)
    log.close()
    assert Reader(tmp_path).read().seqs() == [1, 2, 3, 4, 5]


def test_the_cursor_of_a_cut_knows_the_others(tmp_path):
    logs = [opened(tmp_path, rank=rank, world_size=3) for rank in range(3)]
    for step in range(1, 6):
        for log in logs:
            log.log_metrics({"loss": 1.0}, step=step)
        if step == 3:
            state = logs[0].state_dict()
    for log in logs:
        log.close()
    log = opened(tmp_path, rank=0, world_size=3)
    log.load_state_dict(state)
    log_some(log, 1)
    log.close()
    cuts, cursor = [], None
    while True:
        item = next(follow(tmp_path, "run", cursor), None)  # one item a follower
        if item is None:
            break
        cursor = json.loads(json.dumps(item.cursor))
        cuts += [] if item.cut is None else [item.cut]
    assert cuts == [(1, 0, 3), (1, 1, 3), (1, 2, 3)]


def test_a_damaged_spool_ends_no_follower_and_busies_none(tmp_path):
    command = [sys.executable, "-c", KILLED.replace("sys.stdin.readline()", "pass"), str(tmp_path)]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == -9
    (spool,) = sorted((tmp_path / ".advlog/run/spool").glob("metrics-*.spool"))[-1:]
    with spool.open("ab") as file:
        file.write(bytes(4096))
    began = time.process_time()
    reader = Reader(tmp_path, wait_s=1.0).read()
    assert reader.seqs() == list(range(1, len(reader.rows) + 1))
    assert time.process_time() - began < 0.9, "it waits"


def test_a_part_that_is_gone_is_a_gap_compacted_or_not(tmp_path):
    with opened(tmp_path, part_rows=10, jsonl=False) as log:
        for _ in range(6):
            log_some(log, 10)
            log.flush()
            time.sleep(0.05)
    parts = sorted((tmp_path / "run_metrics.parquet").glob("*/*.parquet"))
    assert len(parts) > 3
    early = next(follow(tmp_path, "run")).cursor
    parts[2].unlink()
    whole = Reader(tmp_path).read()
    assert len(whole.gaps) == 1
    assert main(["compact", str(tmp_path)]) == 0
    late = Reader(tmp_path)
    late.cursor = early
    assert (Reader(tmp_path).read().gaps, late.read().gaps) == (whole.gaps, whole.gaps)
    assert late.seqs()[-1] == 60


def test_a_line_that_somebody_has_spoilt_costs_itself(tmp_path):
    with opened(tmp_path, parquet=False) as log:
        log_some(log, 10)
    lines = (tmp_path / "run_metrics.jsonl").read_text().splitlines()
    for at, odd in ((3, "garbage"), (5, lines[5].replace('"step":1', '"step":99999999999999999999'))):
        lines[at] = odd
    (tmp_path / "run_metrics.jsonl").write_text("\n".join(lines) + "\n")
    reader = Reader(tmp_path).read()
    assert reader.seqs() == [1, 2, 3, 5, 7, 8, 9, 10]
    assert reader.gaps == [(1, 0, 4, 4), (1, 0, 6, 6)]


@pytest.mark.parametrize("wait_s", [1.0, math.inf])
def test_another_run_of_the_name_is_not_followed(tmp_path, wait_s):
    with opened(tmp_path) as log:
        log_some(log, 5)
    items = follow(tmp_path, "run", wait_s=wait_s)
    assert next(items).rows.num_rows == 5
    for path in tmp_path.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with opened(tmp_path) as log:
        log_some(log, 8)
    assert list(items) == []


def test_the_samples_are_cut_by_time(tmp_path):
    def one(log, step):
        log.log_batch_progress(1, step, 10, 1.0)
        log.log_performance_metrics(0.1)
        log.log_performance_metrics(0.2)

    log = opened(tmp_path)
    for step in range(1, 6):
        one(log, step)
    state = log.state_dict()
    for step in range(6, 9):
        one(log, step)
    log.close()
    log = opened(tmp_path)
    log.load_state_dict(state)
    one(log, 6)
    log.close()
    assert Reader(tmp_path, stream="system").read().cuts == [(1, 0, 10)]
    assert Reader(tmp_path).read().cuts == [(1, 0, 5)]


@pytest.mark.parametrize("wait_s", [None, "x", -1.0, math.nan])
def test_a_wait_that_is_none_is_wrong_at_once(tmp_path, wait_s):
    opened(tmp_path).close()
    with pytest.raises(ValueError, match="wait_s: expected seconds"):
        follow(tmp_path, "run", wait_s=wait_s)


def test_without_a_wait_it_ends_although_the_run_goes_on(tmp_path):
    log = opened(tmp_path)
    stop = threading.Event()

    def write():
        while not stop.is_set():
            log_some(log, 100)
            time.sleep(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        time.sleep(0.2)
        began = time.monotonic()
        assert sum(item.rows.num_rows for item in follow(tmp_path, "run")) > 0
        assert time.monotonic() - began < 20, "it would never end"
    finally:
        stop.set()
        writer.join()
        log.close()


def test_a_cut_behind_which_nothing_has_come_yet_is_told(tmp_path):
    logs = [opened(tmp_path, rank=rank, world_size=2) for rank in (0, 1)]
    for log in logs:
        log_some(log, 5)
    states = [log.state_dict() for log in logs]
    for log in logs:
        log.close()
    reader = Reader(tmp_path).read()
    logs = [opened(tmp_path, rank=rank, world_size=2) for rank in (0, 1)]
    for log, state in zip(logs, states, strict=True):
        log.load_state_dict(state)
        log_some(log, 1)
        log.close()
    # Of a rank that was killed, more may come when it is recovered.
    assert reader.read().cuts == [(1, 0, 5), (1, 1, 5)]
    assert reader.read().cuts == [(1, 0, 5), (1, 1, 5)]
