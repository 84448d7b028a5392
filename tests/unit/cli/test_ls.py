"""What is asked first of many runs, and of one: how far, how it ended, how good, what was changed."""

from __future__ import annotations

import multiprocessing
import os
import shutil

import pytest

from advlog_fast import AdvancedLogger, list_runs, read_run
from advlog_fast.cli import main


def opened(folder, name="run", **options):
    return AdvancedLogger(folder, name, **{"console": "off", "memory_interval_s": 0, **options})


def said(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    assert code == 0, capsys.readouterr().err
    return capsys.readouterr().out


def rows_of(text):
    head, *lines = text.splitlines()
    names = [name for name in head.split("  ") if name.strip()]
    return [name.strip() for name in names], lines


def test_a_metric_of_any_name_is_listed(tmp_path, capsys):
    with opened(tmp_path, "gan") as log:
        for step, value in enumerate((3.0, 1.0, 2.0)):
            log.log_metrics({"generator/loss": value}, step=step)
    text = said(capsys, "ls", tmp_path, "--metric", "generator/loss")
    assert rows_of(text)[0][-2:] == ["generator/loss", "lowest"]
    assert rows_of(text)[1][0].split()[-2:] == ["2", "1"]
    (row,) = list_runs(tmp_path, metric="generator/loss").to_pylist()
    assert (row["generator/loss"], row["generator/loss_min"]) == (2.0, 1.0)
    (row,) = list_runs(tmp_path, metric="records").to_pylist()
    assert (row["records"], row["metrics/records"], row["metrics/records_min"]) == (3, None, None)


def test_a_live_run_is_told_from_its_first_record(tmp_path, capsys):
    with opened(tmp_path) as log:
        log.log_metrics({"loss": 2.0}, step=1)
        log.log_metrics({"loss": 4.0}, step=2)
        log.log_error(ValueError("no data"))
        log.flush()
        (row,) = list_runs(tmp_path).to_pylist()
        assert (row["status"], row["records"], row["errors"]) == ("running", 2, 1)
        assert (row["loss"], row["loss_min"]) == (4.0, 2.0)


def test_runs_of_several_directories_and_of_those_below_are_listed(tmp_path, capsys):
    for folder, name in (("a", "one"), ("b/learning_rate=0.1", "two"), ("b/learning_rate=0.2", "two")):
        with opened(tmp_path / folder, name) as log:
            log.log_metrics({"loss": 1.0}, step=1)
    (tmp_path / "empty").mkdir()
    text = said(capsys, "ls", tmp_path / "a", tmp_path / "b")
    assert sorted(line.split()[0] for line in text.splitlines()[1:]) == [
        str(tmp_path / "a" / "one"),
        str(tmp_path / "b" / "learning_rate=0.1" / "two"),
        str(tmp_path / "b" / "learning_rate=0.2" / "two"),
    ]
    assert said(capsys, "ls", tmp_path).splitlines()[1:] == text.splitlines()[1:]
    assert said(capsys, "ls", tmp_path / "a").splitlines()[1].startswith("one ")
    assert main(["ls", str(tmp_path / "empty")]) == 2


def test_a_resumed_run_is_told_as_one(tmp_path):
    log = opened(tmp_path)
    for step in range(1, 101):
        log.log_batch_progress(1, step, 1000, 0.25 if step == 50 else 5.0)
        if step == 80:
            state = log.state_dict()
    log.close()
    log = opened(tmp_path)
    log.load_state_dict(state)
    for step in range(81, 91):
        log.log_batch_progress(1, step, 1000, 2.0)
    log.close()
    (row,) = list_runs(tmp_path).to_pylist()
    assert (row["attempts"], row["records"], row["loss"], row["loss_min"]) == (2, 90, 2.0, 0.25)


def test_groups_and_tags_are_listed_where_there_are_some(tmp_path, capsys):
    opened(tmp_path, "plain").close()
    assert "group" not in rows_of(said(capsys, "ls", tmp_path))[0]
    opened(tmp_path, "swept", group="sweep", tags=("a", "b")).close()
    head, lines = rows_of(said(capsys, "ls", tmp_path))
    assert head[:4] == ["name", "group", "tags", "status"]
    assert any(line.split()[:3] == ["swept", "sweep", "a,b"] for line in lines)


def test_show_tells_the_rates_and_what_was_changed_since_the_run_before(tmp_path, capsys):
    for name, rate in (("first", 0.1), ("second", 0.2)):
        with opened(tmp_path, name) as log:
            log.start_training({"optimizer": {"lr": rate}, "seed": 1})
            log.start_epoch(1)
            for batch in range(1, 11):
                log.log_batch_progress(1, batch, 10, 1.0, samples=4)
            log.end_epoch(1)
    text = said(capsys, "show", tmp_path, "second")
    assert "changed since run first: optimizer.lr 0.1 -> 0.2" in text
    assert " batches/s, " in text
    assert " samples/s" in text
    assert "changed since" not in said(capsys, "show", tmp_path, "first")


@pytest.mark.parametrize("command", ["ls", "show"])
def test_a_run_without_a_private_folder_says_unknown(tmp_path, capsys, command):
    log = opened(tmp_path)
    log.log_metrics({"loss": 1.0}, step=1)
    log.flush()
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in tmp_path.glob("run_*"):
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    log.close()
    assert "unknown" in said(capsys, command, copy)


def test_show_tells_what_makes_numbers_look_odd(tmp_path, capsys):
    with opened(tmp_path) as log:
        for epoch, total in ((1, 10), (2, 10), (3, 5), (0, 10)):
            log.log_batch_progress(epoch, 1, total, 1.0)
        log.log_batch_progress(2, 10, 10, 1.0)
        log.log_batch_progress(3, 1, 5, 1.0)
    text = said(capsys, "show", tmp_path)
    assert "steps_contradicted: first_epoch=1 but=a record is of epoch 0" in text
    assert "steps_collide: epoch=3 total_batches=5 step=11 last_step=" in text


def test_a_directory_without_a_run_hides_no_other(tmp_path, capsys):
    with opened(tmp_path / "runs", "one") as log:
        log.log_metrics({"loss": 1.0}, step=1)
    (tmp_path / "empty").mkdir()
    assert main(["ls", str(tmp_path / "empty"), str(tmp_path / "runs")]) == 2
    text, error = capsys.readouterr()
    assert [line.split()[0] for line in text.splitlines()] == ["name", "one"]
    assert str(tmp_path / "empty") in error


def test_show_compares_with_no_run_whose_files_are_damaged(tmp_path, capsys):
    for name in ("one", "two"):
        with opened(tmp_path, name) as log:
            log.start_training({"lr": 0.1})
            log.log_metrics({"loss": 1.0}, step=1)
    (tmp_path / "one_summary.json").write_text("[")
    assert "two: completed" in said(capsys, "show", tmp_path, "two")


def test_a_copy_without_the_private_folder_is_told_as_one_run(tmp_path, capsys):
    states = [{}]
    for first in (1, 4):
        with opened(tmp_path / "logs") as log:
            if states[-1]:
                log.load_state_dict(states[-1])
            for step in range(first, first + 3):
                log.log_metrics({"loss": 1.0}, step=step)
            states.append(log.state_dict())
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "logs", copy, ignore=shutil.ignore_patterns(".advlog"))
    shown, whole = ((said(capsys, "show", folder)).splitlines() for folder in (copy, tmp_path / "logs"))
    assert shown[0].split("run ")[-1] == whole[0].split("run ")[-1]
    assert [line for line in shown if "from run" in line] == []
    (row,), (wanted,) = (list_runs(folder).to_pylist() for folder in (copy, tmp_path / "logs"))
    assert (row["run_id"], row["records"]) == (wanted["run_id"], wanted["records"]) == (wanted["run_id"], 6)


def test_show_says_which_records_are_in_no_file(tmp_path, capsys):
    with opened(tmp_path, parquet=False, max_log_size=65536, max_log_files=2) as log:
        for step in range(3000):
            log.log_metrics({"loss": 1.0}, step=step)
    gone = read_run(tmp_path, "run").overview()["lost"]["expired"]
    assert gone == 3000 - len(read_run(tmp_path, "run").metrics) > 0
    assert f"records that are in no file: {gone} expired" in said(capsys, "show", tmp_path)


def test_show_says_that_a_killed_run_is_not_recovered(tmp_path, capsys):
    def die():
        log = opened(tmp_path)
        log.log_metrics({"loss": 1.0}, step=1)
        log.flush()
        os.kill(os.getpid(), 9)

    child = multiprocessing.get_context("fork").Process(target=die)
    child.start()
    child.join()
    assert "killed and not recovered yet: ranks 0; `advlog recover DIR`" in said(capsys, "show", tmp_path)
    assert main(["recover", str(tmp_path)]) == 0
    capsys.readouterr()
    assert "not recovered" not in said(capsys, "show", tmp_path)


def test_show_says_why_an_attempt_is_left_out(tmp_path, capsys):
    state = None
    for _ in range(3):
        with opened(tmp_path) as log:
            if state is not None:
                log.load_state_dict(state)
            log.log_metrics({"loss": 1.0}, step=1)
            state = state or log.state_dict()
    text = said(capsys, "show", tmp_path)
    assert "not in these numbers: attempt 2; attempt 3 was resumed from attempt 1;" in text
