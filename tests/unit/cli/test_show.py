"""`advlog show` and `advlog ls`: a run over its ranks, for people and as JSON."""

from __future__ import annotations

import contextlib
import math
import random

import pytest
from run_files import strict_json

from advlog_fast import AdvancedLogger, list_runs
from advlog_fast.cli import main

SLOW = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two attempts of four ranks, of which one takes 1.5 times as long as the others."""
    folder = tmp_path_factory.mktemp("runs")
    chance = random.Random(1)
    state = None
    for first, last in ((1, 60), (41, 100)):
        logs = [
            AdvancedLogger(folder, "train", console="off", memory_interval_s=0, rank=rank, world_size=4)
            for rank in range(4)
        ]
        for log in logs:
            log.load_state_dict(state or {})
        for batch in range(first, last + 1):
            for rank, log in enumerate(logs):
                taken_s = chance.uniform(0.0095, 0.0105) * (1.5 if rank == SLOW else 1.0)
                log.log_batch_progress(1, batch, 100, 1 / batch + rank, batch_time=taken_s, data_time=1e-5 * (1 + rank))
            if batch == 40:
                state = logs[0].state_dict()
        logs[3].log_error("broken", "step")
        for log in logs:
            log.close()
    with AdvancedLogger(folder, "alone", console="off") as log:
        log.log_metrics({"mine": math.nan})
    return folder


def printed(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


def test_show_names_the_slow_rank_and_only_it(folder, capsys):
    status, out, err = printed(capsys, "show", folder, "train", "--json")
    assert (status, err) == (0, "")
    found = strict_json(out)
    assert [(each["rank"], each["metric"]) for each in found["stragglers"]] == [(SLOW, "batch_time")]
    assert found["stragglers"][0]["ratio"] == pytest.approx(1.5, rel=0.02)
    assert found["stragglers"][0]["slowest_share"] == 1.0
    status, out, _ = printed(capsys, "show", folder, "train")
    (line,) = [line for line in out.splitlines() if line.startswith("slow: ")]
    assert line.startswith("slow: rank 2, 1.50 times the others' batch_time, 5")


def test_show_is_one_run_out_of_its_ranks_and_attempts(folder, capsys):
    _, out, _ = printed(capsys, "show", folder, "train", "--json")
    found = strict_json(out)
    assert (found["name"], found["status"], found["records"], found["errors"]) == ("train", "completed", 480, 2)
    assert [(each["attempt"], each["ranks"], each["records"]) for each in found["attempts"]] == [
        (1, 4, 240),
        (2, 4, 240),
    ]
    assert (found["attempts"][1]["resumed_from_attempt"], found["attempts"][1]["resumed_from_step"]) == (1, 40)
    assert [(each["rank"], each["last_step"], each["status"]) for each in found["ranks"]] == [
        (rank, 100, "completed") for rank in range(4)
    ]
    assert found["loss"]["first"] == {"step": 1, "mean": pytest.approx(1 + 1.5)}
    assert found["loss"]["last"] == found["loss"]["lowest"] == {"step": 100, "mean": pytest.approx(0.01 + 1.5)}
    times = {each["metric"]: each for each in found["step_times"]}
    assert times["batch_time"]["steps"] == 100
    assert times["batch_time"]["min_s"] <= times["batch_time"]["mean_s"] <= times["batch_time"]["max_s"]
    assert times["batch_time"]["skew"] == pytest.approx(1.5 / 1.125, rel=0.02)
    assert found["metrics"]["loss"]["count"] == 240
    assert (found["stopped_early"], found["silent"]) == ([], [])


def test_show_for_people_has_a_line_for_each_attempt_and_rank(folder, capsys):
    _, out, _ = printed(capsys, "show", folder, "train")
    lines = out.splitlines()
    assert lines[0].startswith("train: completed, run ")
    assert sum("completed" in line for line in lines) == 1 + 2 + 4
    assert any(line.endswith("attempt 1, step 40") for line in lines)
    assert "errors: 2" in lines
    assert "loss, mean over the ranks: first 2.5 at step 1, last 1.51 at step 100, lowest 1.51 at step 100" in lines


def test_a_run_with_hardly_anything_in_it_is_shown(folder, capsys):
    status, out, _ = printed(capsys, "show", folder, "alone")
    assert status == 0
    assert out.startswith("alone: completed")
    _, out, _ = printed(capsys, "show", folder, "alone", "--json")
    assert strict_json(out)["metrics"]["mine"]["nan"] == 1


def test_an_attempt_that_has_logged_nothing_yet_hides_no_slow_rank(tmp_path, capsys):
    state = {}
    for records in (40, 0):
        logs = [
            AdvancedLogger(tmp_path, "run", console="off", memory_interval_s=0, rank=rank, world_size=2)
            for rank in range(2)
        ]
        for batch in range(1, records + 1):
            for rank, log in enumerate(logs):
                log.log_batch_progress(1, batch, 40, 0.5, batch_time=0.01 * (1 + rank))
        for log in logs:
            log.load_state_dict(state)
        state = logs[0].state_dict()
        for log in logs:
            log.close()
    _, out, _ = printed(capsys, "show", tmp_path, "run", "--json")
    found = strict_json(out)
    assert [(each["rank"], each["metric"]) for each in found["stragglers"]] == [(1, "batch_time")]
    assert [each["metric"] for each in found["step_times"]] == ["batch_time"]


def test_attempts_that_are_left_out_are_named(tmp_path, capsys):
    for first, last in ((1, 10), (11, 20)):
        with AdvancedLogger(tmp_path, "run", console="off", memory_interval_s=0) as log:
            for batch in range(first, last + 1):
                log.log_batch_progress(1, batch, 20, 1 / batch)
    _, out, _ = printed(capsys, "show", tmp_path, "run")
    (line,) = [line for line in out.splitlines() if line.startswith("not in these numbers: ")]
    assert line.startswith("not in these numbers: attempt 1; attempt 2 is not marked as resumed (load_state_dict)")
    for attempts in ("all", "latest"):
        _, out, _ = printed(capsys, "show", tmp_path, "run", "--attempts", attempts)
        assert "not in these numbers" not in out


def test_attempts_that_were_resumed_are_all_in_the_numbers(folder, capsys):
    _, out, _ = printed(capsys, "show", folder, "train")
    assert "not in these numbers" not in out


def test_what_is_amiss_is_said(tmp_path, capsys):
    """A rank that never came, a loss that is no number on one rank, a state of another run, records without a step."""
    state = {
        "run_id": "f" * 32,
        "attempt": 7,
        "step": 5,
        "epoch": 1,
        "batch": 5,
        "timestamp": "2026-11-22T19:31:04.100000Z",
    }
    logs = [AdvancedLogger(tmp_path, "amiss", console="off", rank=rank, world_size=4) for rank in (0, 2)]
    for rank, log in enumerate(logs):
        log.load_state_dict(state)
        for batch in range(1, 11):
            log.log_batch_progress(1, batch, 10, math.nan if rank == 1 and batch > 5 else 1 / batch)
        log.flush()
    _, out, _ = printed(capsys, "show", tmp_path, "amiss")
    assert sum(line.endswith(" ago)") for line in out.splitlines()) == 2
    assert printed(capsys, "ls", tmp_path)[1].splitlines()[1].split()[:2] == ["amiss", "running"]
    for log in logs:
        log.close()
    with AdvancedLogger(tmp_path, "stepless", console="off") as log:
        log.log_batch_progress(1, 1, None, 0.5)

    lines = printed(capsys, "show", tmp_path, "amiss")[1].splitlines()
    assert "loss, mean over the ranks: first 1 at step 1, last nan at step 10, lowest 0.2 at step 5" in lines
    assert "not finite: loss, 5 values, first at step 6 of rank 2" in lines
    assert "never came: ranks 1, 3" in lines
    (attempt,) = [line for line in lines if line.endswith(f"run {'f' * 32}, attempt 7, step 5")]
    assert " 2 of 4 " in attempt
    (row,) = [line for line in printed(capsys, "ls", tmp_path)[1].splitlines() if line.startswith("amiss")]
    assert row.split()[-2:] == ["nan", "0.1"]
    lines = printed(capsys, "show", tmp_path, "stepless")[1].splitlines()
    assert "no record has a step: pass total_batches= or step=" in lines


def test_ls_has_a_line_a_run(folder, capsys):
    status, out, _ = printed(capsys, "ls", folder)
    assert status == 0
    head, *lines = out.splitlines()
    assert head.split()[:4] == ["name", "status", "attempts", "ranks"]
    assert [line.split()[:4] for line in lines] == [["alone", "completed", "1", "1"], ["train", "completed", "2", "4"]]


@pytest.mark.parametrize("arguments", [("ls", "nowhere"), ("show", "nowhere", "train")])
def test_no_such_run_is_said(tmp_path, capsys, arguments):
    command, directory, *name = arguments
    status, out, err = printed(capsys, command, tmp_path / directory, *name)
    assert (status, out) == (2, "")
    assert err.startswith(f"advlog {command}: log_dir: expected a directory of runs, got ")


@pytest.mark.parametrize(
    "damage",
    [
        "[1]",
        '{"attempt": 1, "metrics": "x"}',
        '{"attempt": 1, "metrics": {"loss": {"count": "a"}}}',
        '{"attempt": 1, "metrics": {"loss": 3}, "total_errors": 1}',
        '{"attempt": 1, "total_metrics": "many"}',
        '{"attempt": 1, "duration_s": [], "last": 7, "accounting": []}',
    ],
)
def test_a_damaged_summary_hides_nothing_else(tmp_path, capsys, damage):
    with AdvancedLogger(tmp_path, "run", console="off", memory_interval_s=0) as log:
        for batch in range(1, 11):
            log.log_batch_progress(1, batch, 10, 1 / batch)
    (tmp_path / "run_summary.json").write_text(damage)
    status, out, err = printed(capsys, "show", tmp_path, "run")
    assert (status, err) == (0, "")
    assert "loss, mean over the ranks: first 1 at step 1, last 0.1 at step 10, lowest 0.1 at step 10" in out
    status, out, _ = printed(capsys, "ls", tmp_path)
    assert (status, out.splitlines()[1].split()[:2]) == (0, ["run", "completed"])


def test_show_says_why_a_run_failed_what_was_best_and_what_was_changed(tmp_path, capsys):
    for attempt in (1, 2):
        with contextlib.suppress(ValueError), AdvancedLogger(tmp_path, "run", console="off", parquet=False) as log:
            log.start_training({"lr": 0.1 / attempt, "model": {"depth": 3}})
            for step in range(1, 41):
                log.log_metrics({"loss": 1 / step, "f1": step / 40}, step=step)
                if step % 20 == 0:
                    log.log_validation({"val/loss": 1 / step, "train/loss": 0.0}, step=step, name="dev")
            if attempt == 2:
                log.log_error("not this one", "other")
                raise ValueError("diverged\nat batch 40")
    status, out, _ = printed(capsys, "show", tmp_path)
    assert status == 0
    lines = out.splitlines()
    for line in (
        "best validation: val/loss 0.025 at step 40: val/loss=0.025 train/loss=0",
        "last validation of dev at step 40: val/loss=0.025 train/loss=0",
        "errors: 2",
        "  ValueError: diverged\\nat batch 40 (attempt 2, rank 0, in training)",
        "configuration: lr=0.05 model.depth=3",
        "changed since the attempt before: lr 0.1 -> 0.05",
    ):
        assert line in lines, out
    (f1,) = (line for line in lines if line.startswith("f1 "))
    assert f1.split()[1] == "1", "the last value"
    _, out, _ = printed(capsys, "show", tmp_path, "--json")
    found = strict_json(out)
    assert [error["type"] for error in found["last_errors"]] == ["Message", "ValueError"]
    assert found["config_changes"] == {"lr": [0.1, 0.05]}


def test_show_of_a_folder_of_several_runs_asks_which(tmp_path, capsys):
    for name in ("a", "b"):
        AdvancedLogger(tmp_path, name, console="off", parquet=False).close()
    status, out, err = printed(capsys, "show", tmp_path)
    assert (status, out) == (2, "")
    assert "NAME: expected one of the runs in" in err
    assert "its runs are a, b" in err


def test_ls_tells_the_errors_of_a_run_without_records_and_one_broken_run_hides_no_other(tmp_path, capsys):
    with contextlib.suppress(ValueError), AdvancedLogger(tmp_path, "failed", console="off", parquet=False):
        raise ValueError
    with AdvancedLogger(tmp_path, "broken", console="off", parquet=False) as log:
        log.log_batch_progress(1, 1, 1, 0.5)
    for file in (tmp_path / ".advlog" / "broken").rglob("*.json"):
        file.write_text("{")
    (tmp_path / "broken_summary.json").write_text("[]")
    with_large = [AdvancedLogger(tmp_path, "large", console="off", rank=rank, world_size=2) for rank in range(2)]
    for log in with_large:
        log.log_batch_progress(1, 1, 1, 1e308)
        log.close()
    rows = {row["name"]: row for row in list_runs(tmp_path).to_pylist()}
    assert (rows["failed"]["errors"], rows["failed"]["records"]) == (1, 0)
    assert rows["large"]["loss"] == 1e308
    assert set(rows) == {"failed", "broken", "large"}
    assert printed(capsys, "ls", tmp_path)[0] == 0
