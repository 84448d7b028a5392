"""The summary of a killed run says what that of the same run says where it was closed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from advlog_fast import list_runs, read_run
from advlog_fast.recovery import recover

PROGRAM = """
import json, math, os, sys, time
from advlog_fast import AdvancedLogger
folder, how, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
log = AdvancedLogger(folder, "run", console="off", memory_interval_s=0, best_metric="val/wer", best_mode="min",
                     group="sweep", tags=("a", "b"), **options)
log.start_training({"lr": 0.1, "nested": {"x": 1}})
log.log_hyperparameters({"width": 3})
for epoch in range(15):
    log.start_epoch(epoch, 15)
    for batch in range(100):
        extra = {"samples": 8, "tokens": 100.0} | ({"late": float(batch)} if epoch > 7 else {})
        extra["loss2"] = math.nan if (epoch, batch) in ((3, 7), (5, 1)) else 1.0
        log.log_batch_progress(epoch, batch, 100, 1.0 / (1 + epoch), batch_time=0.5 if epoch == 14 else 0.009,
                               data_time=0.001, **extra)
    log.log_validation(epoch, {"val/wer": 1.0 / (1 + epoch % 9), "val/loss": 2.0})
    log.end_epoch(epoch, {"accuracy": 0.5})
    if epoch == 11:
        log.write_summary() if hasattr(log, "write_summary") else None
for batch in range(10):
    log.log_batch_progress(15, batch, 100, 0.25, samples=8)
log.log_metrics({"other": math.inf})
log.log_performance_metrics(0.25, 0.125)
for number in range(500):
    log.log_error(ValueError("the same"), "loading")
log.log_error(KeyError("another"), "saving", severity="WARNING")
log.flush()
if how == "killed":
    os.kill(os.getpid(), 9)
log.close(status="failed")
"""

# What a live one alone knows, or what differs between two runs.
OTHERS = ("memory", "contexts", "misuse", "overhead", "accounting", "provenance", "recoveries", "run_id", "pid")
TIMES = ("started_at", "ended_at", "duration_s", "training_duration", "milestones", "recovery", "status")


def run(folder, how, code=PROGRAM, **options):
    arguments = [sys.executable, "-c", code, str(folder), how, json.dumps(options)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert done.returncode == (-9 if how == "killed" else 0), done.stderr
    if how == "killed":
        assert [found.outcome for found in recover(folder)] == ["recovered"]
    return json.loads((folder / "run_summary.json").read_text())


def plain(summary):
    """The summary without what two runs of a program do not share."""
    found = {name: value for name, value in summary.items() if name not in (*OTHERS, *TIMES)}
    found["errors"] = {**found["errors"], "last": {**(found["errors"]["last"] or {}), "timestamp": None}}
    found["last"] = {**found["last"], "timestamp": None}
    for statistics in found["metrics"].values():
        if statistics["first_nonfinite"]:
            statistics["first_nonfinite"]["timestamp"] = None
    for epoch in found["epochs"]:
        for name in ("duration_s", "batches_per_s", "samples_per_s", "tokens_per_s"):
            epoch[name] = None
    found["performance"] = {
        name: value
        for name, value in found["performance"].items()
        if name != "step_interval" and not name.endswith("per_s")
    }
    return found


def approximately(value):
    if isinstance(value, dict):
        return {name: approximately(item) for name, item in value.items()}
    if isinstance(value, list):
        return [approximately(item) for item in value]
    return pytest.approx(value) if isinstance(value, float) else value


@pytest.mark.parametrize("options", [{}, {"parquet": False}, {"jsonl": False, "text": False}])
def test_it_says_what_the_summary_of_a_closed_run_says(tmp_path, options):
    whole, killed = (run(tmp_path / how, how, **options) for how in ("closed", "killed"))
    assert (whole["status"], killed["status"]) == ("failed", "killed")
    whole, killed = plain(whole), plain(killed)
    whole["total_errors"] = whole["errors"]["total"] = None
    assert whole.keys() == killed.keys()
    for name in whole:
        if name not in ("errors", "total_errors"):
            assert killed[name] == approximately(whole[name]), name


def test_it_agrees_with_itself(tmp_path):
    killed = run(tmp_path, "killed")
    metrics, performance = killed["metrics"], killed["performance"]
    assert performance["batch_time"]["count"] == metrics["batch_time"]["count"] == 1500
    assert performance["batch_time"]["p99"] == pytest.approx(0.5, rel=0.01)
    assert performance["batch_time"]["max"] == metrics["batch_time"]["max"] == 0.5
    assert killed["total_metrics"] == 1511
    assert (killed["epochs_finished"], killed["validations"], len(killed["epochs"])) == (15, 15, 15)
    assert killed["epochs"][-1]["batches"] == 100
    assert (killed["best"]["epoch"], killed["best"]["value"]) == (8, pytest.approx(1 / 9))
    assert metrics["loss2"]["nan"] == 2
    first = metrics["loss2"]["first_nonfinite"]
    assert (first["value"], first["step"], first["epoch"], first["batch"]) == ("nan", 307, 3, 7)
    assert metrics["other"]["first_nonfinite"]["value"] == "inf"
    last = killed["last"]
    assert (last["epoch"], last["batch"], last["step"], last["total_batches"]) == (15, 9, 1509, 100)
    assert performance["samples_per_s"] == pytest.approx(8 * performance["batches_per_s"], rel=1e-3)
    assert killed["total_errors"] >= 101
    assert killed["errors"]["by_category"]
    assert (killed["config"]["lr"], killed["group"], killed["tags"]) == (0.1, "sweep", ["a", "b"])
    assert killed["duration_s"] > 0
    (row,) = list_runs(tmp_path).to_pylist()
    assert (row["status"], row["records"], row["errors"]) == ("killed", 1511, killed["total_errors"])


def test_with_text_alone_the_records_are_counted(tmp_path):
    killed = run(tmp_path, "killed", jsonl=False, parquet=False)
    assert (killed["status"], killed["total_metrics"], killed["epochs_finished"]) == ("killed", 1511, 15)


AGAIN = """
import os, sys
from advlog_fast import AdvancedLogger
folder, how = sys.argv[1], sys.argv[2]
log = AdvancedLogger(folder, "run", console="off", memory_interval_s=0)
if how == "killed":
    for step in range(1, 11):
        log.log_metrics({"loss": 0.5}, step=step)
    log.flush()
    os.kill(os.getpid(), 9)
log.log_metrics({"loss": 5.0}, step=1)
log.close()
"""


def test_it_is_that_of_the_newest_attempt(tmp_path):
    assert run(tmp_path, "closed", AGAIN)["attempt"] == 1
    killed = run(tmp_path, "killed", AGAIN)
    assert (killed["attempt"], killed["status"], killed["total_metrics"]) == (2, "killed", 10)
    assert killed["loss_stats"]["mean"] == killed["last"]["loss"] == 0.5
    (row,) = list_runs(tmp_path).to_pylist()
    assert (row["status"], row["records"], row["loss"], row["loss_min"]) == ("killed", 10, 0.5, 0.5)


OLD_TIME = """
import os, sys
from datetime import datetime, timezone
from advlog_fast import AdvancedLogger, TrainingMetrics
log = AdvancedLogger(sys.argv[1], "run", console="off", memory_interval_s=0)
log.start_training({})
log.log_metrics({"loss": 1.0}, step=1)
log.log_metrics(TrainingMetrics(1, 2, 10, 2.0, timestamp=datetime(2001, 1, 1, tzinfo=timezone.utc)))
log.flush()
if "ended" in sys.argv[2:]:
    log.end_training()
os.kill(os.getpid(), 9)
"""


def test_a_record_of_another_century_makes_no_duration_negative(tmp_path):
    assert 0 <= run(tmp_path, "killed", OLD_TIME)["duration_s"] < 60


def test_a_training_that_had_ended_stays_so_everywhere(tmp_path):
    code = OLD_TIME.replace('if "ended" in sys.argv[2:]:', "if True:")
    assert run(tmp_path, "killed", code)["status"] == "completed"
    found = read_run(tmp_path, "run")
    assert found.processes["status"].to_pylist() == ["completed"]
    assert list_runs(tmp_path)["status"].to_pylist() == ["completed"]


def test_two_ranks_of_which_one_alone_has_a_summary_count_both(tmp_path):
    code = AGAIN.replace('"run",', '"run", rank=int(os.environ["R"]), world_size=2,')
    code = code.replace(
        'if how == "killed":', 'if os.environ["R"] == "0":\n    log.start_training({})\nif how == "killed":'
    )
    environment = {**os.environ, "MASTER_ADDR": "here", "MASTER_PORT": "29512"}
    ranks = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), "killed"], env={**environment, "R": str(rank)})
        for rank in (0, 1)
    ]
    assert [rank.wait(60) for rank in ranks] == [-9, -9]
    assert list_runs(tmp_path)["records"].to_pylist() == [20]
    recover(tmp_path)
    assert list_runs(tmp_path)["records"].to_pylist() == [20]


STORM = """
import os, sys
from advlog_fast import AdvancedLogger
log = AdvancedLogger(sys.argv[1], "run", console="off", memory_interval_s=0)
for number in range(3):
    log.log_error(KeyError(f"x{number}"), "loading")
log.log_batch_progress(1, 1, 10, 1.0)
log.flush()
os.kill(os.getpid(), 9)
"""


def test_errors_of_one_kind_count_once_each(tmp_path):
    killed = run(tmp_path, "killed", STORM)
    assert (killed["total_errors"], killed["errors"]["repeated"]) == (3, 0)
    assert killed["errors"]["by_category"] == {killed["errors"]["last"]["category"]: 3}


HEAD = '{"timestamp":"2026-01-01T00:00:00.000000Z","attempt":1,"rank":0,'


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("run_metrics.jsonl", "garbage"),
        ("run_metrics.jsonl", HEAD + '"seq":9,"loss":"x"}'),
        ("run_events.jsonl", "garbage"),
        ("run_events.jsonl", HEAD + '"event":"epoch_end","seq":0,"duration_s":1e999,"batches_per_s":1.0}'),
        ("run_events.jsonl", HEAD + '"event":"error","seq":0,"id":[1],"message":{}}'),
    ],
)
@pytest.mark.parametrize("parquet", [True, False])
def test_no_line_that_somebody_wrote_ends_a_recovery(tmp_path, file, line, parquet):
    code = STORM.replace("memory_interval_s=0", f"memory_interval_s=0, parquet={parquet}")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, timeout=60)
    assert done.returncode == -9
    with (tmp_path / file).open("a") as lines:
        lines.write(line + "\n")
    assert [found.outcome for found in recover(tmp_path)] == ["recovered"]
    assert json.loads((tmp_path / "run_summary.json").read_text())["status"] == "killed"


CHILD_FIRST = """
import os, sys
from advlog_fast import AdvancedLogger
folder, how, _ = sys.argv[1:]
log = AdvancedLogger(folder, "run", console="off", memory_interval_s=0)
pid = os.fork()
if pid == 0:
    log.log_batch_progress(7, 1, 10, 0.5)
    os._exit(0)
os.waitpid(pid, 0)
log.flush()
log.log_metrics({"loss": 1.0}, step=3)
log.flush()
if how == "killed":
    os.kill(os.getpid(), 9)
log.close()
"""


def test_what_a_child_said_gives_way_to_the_first_record_of_the_process_itself(tmp_path):
    live, killed = (run(tmp_path / how, how, CHILD_FIRST)["last"] for how in ("closed", "killed"))
    del live["timestamp"], killed["timestamp"]
    assert killed == live
    assert (live["epoch"], live["step"]) == (None, 3)


LATE_SAMPLE = """
import os, sys, time
from advlog_fast import AdvancedLogger
log = AdvancedLogger(sys.argv[1], "run", console="off", memory_interval_s=0)
log.log_metrics({"loss": 1.0}, step=3)
time.sleep(1.5)
log.log_performance_metrics(0.25)
log.flush()
os.kill(os.getpid(), 9)
"""


def test_a_killed_run_lasted_until_its_last_sign(tmp_path):
    assert run(tmp_path, "killed", LATE_SAMPLE)["duration_s"] >= 1.5
