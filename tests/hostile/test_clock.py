"""The wall clock is set while a training runs: no time that it tells spans that moment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from advlog_fast import list_runs, read_run

HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the clock is set through LD_PRELOAD")


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    built = tmp_path_factory.mktemp("shim") / "clock_shim.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", built, HERE / "clock_shim.c", "-ldl"], check=True)
    return built


def run_with(shim, folder, seconds, how):
    clock = folder / "clock"
    clock.write_bytes(bytes(8))
    environment = {**os.environ, "LD_PRELOAD": str(shim), "CLOCK_FILE": str(clock)}
    subprocess.run(
        [sys.executable, HERE / "clock_program.py", folder / "logs", str(seconds), how],
        env=environment, check=True, timeout=60,
    )  # fmt: skip
    return read_run(folder / "logs", "run")


@pytest.mark.parametrize("how", ["paced", "fast"])
@pytest.mark.parametrize("seconds", [7200, -7200, 3])
def test_no_interval_spans_a_clock_that_was_set(shim, tmp_path, seconds, how):
    run = run_with(shim, tmp_path, seconds, how)
    (jump,) = [row for row in run.events.to_pylist() if row["event"] == "clock_jump"]
    assert f'"moved_s": {seconds}.0' in jump["fields"]
    told = run.summary["performance"]["step_interval"]
    times = run.step_times()
    assert run.metrics.num_rows == 100
    assert told["count"] == 0 or 0 <= told["min"] <= told["max"] < 2.5
    assert all(0 <= value < 2.5 for value in times["max"].to_pylist())
    # The program's clock moves between two records; where the drain reads it, all that came in that pass are in doubt.
    if how == "paced":
        assert 90 <= told["count"] <= 98
        assert 90 <= times.num_rows <= 98
    (epoch,) = run.summary["epochs"]
    assert epoch["batches"] == 100
    assert epoch["duration_s"] < 30
    overview = run.overview()
    for each in overview["step_times"]:
        assert 0 <= each["min_s"] <= each["max_s"] < 2.5


def test_a_clock_that_stands_is_no_event(shim, tmp_path):
    run = run_with(shim, tmp_path, 0, "paced")
    assert "clock_jump" not in run.events["event"].to_pylist()
    assert run.summary["performance"]["step_interval"]["count"] == 99
    assert run.step_times().num_rows == 99


RESUMED = """
import os, struct, sys
from advlog_fast import AdvancedLogger
folder, seconds, first = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "before"
def jump():
    with open(os.environ["CLOCK_FILE"], "r+b") as file:
        file.write(struct.pack("q", seconds))
def train(log, epochs, at=None):
    for epoch in epochs:
        for batch in range(1, 5):
            log.log_batch_progress(epoch, batch, 4, 1.0)
        if epoch == at:
            jump()
        log.log_validation(epoch, {"accuracy": epoch / 10})
log = AdvancedLogger(folder, "run", console="off", memory_interval_s=0)
train(log, [1, 2], at=2 if first else None)
state = log.state_dict()
if not first:
    jump()
train(log, [3])
log.close()
log = AdvancedLogger(folder, "run", console="off", memory_interval_s=0)
log.load_state_dict(state)
train(log, [3])
log.close()
"""


@pytest.mark.parametrize("seconds", [3600, -3600])
@pytest.mark.parametrize("when", ["before", "behind"])
def test_a_resume_cuts_validations_by_their_records_and_not_by_the_clock(shim, tmp_path, seconds, when):
    clock = tmp_path / "clock"
    clock.write_bytes(bytes(8))
    environment = {**os.environ, "LD_PRELOAD": str(shim), "CLOCK_FILE": str(clock)}
    code = [sys.executable, "-c", RESUMED, tmp_path / "logs", str(seconds), when]
    subprocess.run(code, env=environment, check=True, timeout=60)
    run = read_run(tmp_path / "logs", "run")
    assert [(row["attempt"], row["epoch"]) for row in run.validation.to_pylist()] == [(1, 1), (1, 2), (2, 3)]
    assert run.overview()["validation"]["epoch"] == 3
    (row,) = list_runs(tmp_path / "logs").to_pylist()
    assert 0 <= row["duration_s"] < 60
