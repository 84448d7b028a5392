"""Who took part in a run, and what became of each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone

import pytest

from advlog_fast import AdvancedLogger, list_runs, read_run
from advlog_fast.exceptions import RunNotFoundError
from advlog_fast.reader.processes import together
from advlog_fast.store.processes import machine_id


def log_some(folder, name="run", rank=0, world_size=1, records=3, **options):
    log = AdvancedLogger(folder, name, console="off", memory_interval_s=0, rank=rank, world_size=world_size, **options)
    for batch in range(1, records + 1):
        log.log_batch_progress(1, batch, 10, 1 / batch)
    return log


def statuses(folder, name="run"):
    return {(row["attempt"], row["rank"]): row["status"] for row in read_run(folder, name).processes.to_pylist()}


def kill_one(folder):
    """A process that logs as rank 1 of 2 and is killed."""
    code = f"""
import os, signal
from unit.reader.test_processes import log_some
log = log_some({str(folder)!r}, rank=1, world_size=2, records=5)
log.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    tests = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_every_process_of_every_attempt_is_named_with_how_far_it_came(tmp_path):
    before = datetime.now(timezone.utc) - timedelta(seconds=1)
    for attempt in (1, 2):
        logs = [log_some(tmp_path, rank=rank, world_size=2, records=attempt + rank) for rank in (0, 1)]
        for log in logs:
            log.close()
    run = read_run(tmp_path, "run")
    rows = run.processes.to_pylist()
    assert [(row["attempt"], row["rank"], row["records"], row["last_step"]) for row in rows] == [
        *[(1, 0, 1, 1), (1, 1, 2, 2)],
        *[(2, 0, 2, 2), (2, 1, 3, 3)],
    ]
    assert {(row["run_id"], row["host"], row["pid"], row["world_size"], row["status"]) for row in rows} == {
        (run.run_id, os.uname().nodename, os.getpid(), 2, "completed")
    }
    assert all(before < row["started"] <= row["last_record"] <= datetime.now(timezone.utc) for row in rows)
    who = run.processes.select(["attempt", "rank", "host", "pid"])
    joined = run.metrics.drop_columns(["unresolved"]).join(who, ["attempt", "rank"])  # Arrow joins no maps
    assert set(joined["pid"].to_pylist()) == {os.getpid()}


def test_a_live_run_is_running_and_shows_what_is_not_sealed_yet(tmp_path):
    with log_some(tmp_path) as log:
        log.flush()
        (row,) = read_run(tmp_path, "run").processes.to_pylist()
        assert (row["status"], row["records"], row["last_step"]) == ("running", 3, 3)
        (listed,) = list_runs(tmp_path).to_pylist()
        assert (listed["status"], listed["records"]) == ("running", 3)
        assert listed["duration_s"] > 0
    assert statuses(tmp_path) == {(1, 0): "completed"}


def test_a_killed_rank_is_killed_before_and_after_its_recovery(tmp_path):
    kill_one(tmp_path)
    assert statuses(tmp_path) == {(1, 1): "killed"}
    (listed,) = list_runs(tmp_path).to_pylist()
    assert (listed["status"], listed["ranks"], listed["attempts"], listed["records"]) == ("killed", 1, 1, 5)
    # Its first summary may have come before its records, or after: then it knows of them.
    assert listed["errors"] in (None, 0)
    log_some(tmp_path, rank=1, world_size=2).close()
    assert statuses(tmp_path) == {(1, 1): "killed", (2, 1): "completed"}
    (row, _) = read_run(tmp_path, "run").processes.to_pylist()
    assert (row["records"], row["last_step"]) == (5, 5)


@pytest.mark.parametrize(("age_s", "status"), [(0, "completed"), (3600, "silent")])
def test_a_rank_of_another_machine_is_silent_when_its_summary_grows_old(tmp_path, age_s, status):
    log_some(tmp_path).close()
    private = tmp_path / ".advlog" / "run"
    (private / "accounts" / "attempt1-rank00000.json").unlink()
    claim = private / "attempts" / "1-rank00000.claim"
    claim.write_text(json.dumps({**json.loads(claim.read_text()), "machine": machine_id() + "x"}))
    then = time.time() - age_s
    os.utime(tmp_path / "run_summary.json", (then, then))
    assert statuses(tmp_path) == {(1, 0): status}
    silent = read_run(tmp_path, "run").overview()["silent"]
    assert [each["rank"] for each in silent] == ([0] if status == "silent" else [])


def test_an_attempt_on_another_machine_that_a_later_one_followed_here_does_not_run_with_it(tmp_path):
    """Its ring lies there, so nobody could close its account; the rank's summary is the later attempt's."""
    log_some(tmp_path).close()
    private = tmp_path / ".advlog" / "run"
    (private / "accounts" / "attempt1-rank00000.json").unlink()
    claim = private / "attempts" / "1-rank00000.claim"
    claim.write_text(json.dumps({**json.loads(claim.read_text()), "machine": machine_id() + "x"}))
    with log_some(tmp_path):
        assert statuses(tmp_path) == {(1, 0): "silent", (2, 0): "running"}


@pytest.mark.parametrize(
    ("each", "all_"),
    [
        (["completed", "completed"], "completed"),
        (["completed", "failed"], "failed"),
        (["killed", "failed", "completed"], "killed"),
        (["killed", "running"], "running"),
        (["interrupted", "completed"], "interrupted"),
        ([], "unknown"),
    ],
)
def test_the_status_of_all_is_the_worst_of_each(each, all_):
    assert together(each) == all_


def test_a_rank_that_stopped_before_the_others_is_named(tmp_path):
    logs = [log_some(tmp_path, rank=rank, world_size=2, records=9 - 4 * rank) for rank in (0, 1)]
    for log in logs:
        log.close()
    assert read_run(tmp_path, "run").overview()["stopped_early"] == [
        {"rank": 1, "status": "completed", "last_step": 5, "furthest_step": 9}
    ]


def test_the_runs_of_a_directory_are_rows_the_last_begun_first(tmp_path):
    log_some(tmp_path, "first").close()
    log_some(tmp_path, "second", records=2).close()
    with pytest.raises(ZeroDivisionError), log_some(tmp_path, "first", records=4) as log:
        log.log_error("broken", "op")
        raise ZeroDivisionError
    rows = list_runs(tmp_path).to_pylist()
    told = [(row["name"], row["status"], row["attempts"], row["ranks"], row["records"], row["errors"]) for row in rows]
    assert told == [("first", "failed", 2, 1, 4, 2), ("second", "completed", 1, 1, 2, 0)]
    assert [(row["loss"], row["loss_min"], row["hosts"]) for row in rows] == [
        (0.25, 0.25, [os.uname().nodename]),
        (0.5, 0.5, [os.uname().nodename]),
    ]
    assert all(row["run_id"] and row["duration_s"] > 0 for row in rows)


def test_what_a_run_belongs_to_stands_in_its_summary_and_in_the_list(tmp_path):
    for name, options in (("a", {"group": "sweep 7", "tags": ("lr", "vit", "lr")}), ("b", {})):
        with AdvancedLogger(tmp_path, name, console="off", parquet=False, **options) as log:
            log.log_batch_progress(1, 1, 1, 0.5)
            assert (log.get_training_summary()["group"], log.get_training_summary()["tags"]) == (
                options.get("group"),
                list(dict.fromkeys(options.get("tags", ()))),
            )
    found = {row["name"]: (row["group"], row["tags"]) for row in list_runs(tmp_path).to_pylist()}
    assert found == {"a": ("sweep 7", ["lr", "vit"]), "b": (None, [])}


def test_a_run_of_which_little_is_left_is_listed_all_the_same(tmp_path):
    (tmp_path / "bare_metrics.jsonl").write_text("")
    (row,) = list_runs(tmp_path).to_pylist()
    assert (row["name"], row["status"], row["attempts"], row["records"]) == ("bare", "unknown", 0, None)


def test_a_directory_without_runs_is_an_error(tmp_path):
    with pytest.raises(RunNotFoundError, match="which has none"):
        list_runs(tmp_path)
