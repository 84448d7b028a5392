"""Events of the user's that are named like the logger's own, or whose fields are."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from run_files import json_lines

from advlog_fast import AdvancedLogger, read_jsonl, read_run
from advlog_fast.cli import main

BUILT_IN = (
    "attempt_start",
    "attempt_end",
    "training_start",
    "training_end",
    "epoch_start",
    "epoch_end",
    "validation",
    "error",
    "error_context",
    "recovery",
    "resumed",
    "milestone",
    "recovered",
    "nonfinite",
    "signal",
)
FIELDS = (
    {},
    {"split": "test", "accuracy": 0.8},
    {"epoch": "final"},
    {"metrics": {"bleu": "n/a"}},
    {"metrics": {"bleu": 0.3}, "epoch": 1 << 80},
    {"id": 17, "message": None},
    {"message": "retrying the download", "context": [1]},
    {"nonfinite": 3},
    {"nonfinite": {"loss": "nan"}, "user_event": False, "fields": {"fields": 1}},
    {"timestamp": "yesterday", "attempt": "first", "rank": None, "seq": 1.5, "event": "other", "level": 3},
    {"self": 1, "name": "n"},
)


@pytest.mark.parametrize("name", BUILT_IN)
def test_an_event_of_the_users_has_any_name_and_any_fields(tmp_path, name, capsys):
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        log.log_batch_progress(1, 1, 1, 0.5)
        log.log_validation(1, {"accuracy": 0.9}, is_best=True)
        log.log_error(ValueError("its own"))
        for fields in FIELDS:
            log.log_event(name, **fields)
    run = read_run(tmp_path, "run")
    assert run.validation.select(["epoch", "accuracy", "is_best"]).to_pylist() == [
        {"epoch": 1, "accuracy": 0.9, "is_best": True}
    ]
    assert run.errors["message"].to_pylist() == ["its own"]
    assert run.processes["status"].to_pylist() == ["completed"]
    mine = [row for row in run.events.to_pylist() if row["user_event"]]
    assert {row["event"] for row in mine} == {name}
    given = [{key: str(value) if value == 1 << 80 else value for key, value in one.items()} for one in FIELDS]
    assert [json.loads(row["fields"]) for row in mine] == given
    assert len(read_jsonl(tmp_path / "run_events.jsonl")) == run.events.num_rows
    assert main(["show", str(tmp_path), "run"]) == 0
    assert "errors: 1" in capsys.readouterr().out


def test_events_that_were_not_marked_yet_break_no_table(tmp_path):
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        for fields in FIELDS:
            log.log_event("validation", **fields)
            log.log_event("error", **fields)
    file = tmp_path / "run_events.jsonl"
    lines = json_lines(file)
    for line in lines:
        line.pop("user_event", None)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = read_run(tmp_path, "run")
    assert run.validation.num_rows == 2, "those whose metrics are a mapping"
    assert run.validation["bleu"].to_pylist() == [None, 0.3]
    assert run.validation["epoch"].to_pylist() == [None, None]
    assert run.errors.num_rows == len(FIELDS)
    assert run.errors["id"].to_pylist() == [None] * len(FIELDS)
    assert "retrying the download" in run.errors["message"].to_pylist()
    assert run.overview()["errors"] == len(FIELDS)


def test_lines_that_are_no_events_cost_no_other(tmp_path: Path):
    with AdvancedLogger(tmp_path, "run", console="off", parquet=False) as log:
        log.log_batch_progress(1, 1, 1, 0.5)
        log.log_validation(1, {"accuracy": 0.5})
    file = tmp_path / "run_events.jsonl"
    broken = ['"<dict: unreadable>"', '{"timestamp":"<str: unreadable>","attempt":"<int: unreadable>"}', "{", "7", ""]
    file.write_text("\n".join([*broken, *file.read_text().splitlines()]) + "\n")
    run = read_run(tmp_path, "run")
    assert run.metrics.num_rows == 1
    assert run.validation["accuracy"].to_pylist() == [0.5]
    assert "attempt_end" in run.events["event"].to_pylist()


def test_a_file_of_the_users_under_one_of_our_names_ends_no_command(tmp_path: Path):
    (tmp_path / "a_metrics.jsonl").write_text('{"mine": 1}\n')
    (tmp_path / "a_events.jsonl").write_text('{"mine": 2}\n')
    for command in ("show", "verify", "ls"):
        where = [str(tmp_path), *(["a"] if command == "show" else [])]
        done = subprocess.run([sys.executable, "-m", "advlog_fast", command, *where], capture_output=True, text=True)
        assert "Traceback" not in done.stderr, done.stderr


def test_validations_stand_on_the_axis_of_steps(tmp_path: Path):
    with AdvancedLogger(tmp_path, "run", console="off", parquet=False) as log:
        for step in range(1, 31):
            log.log_metrics({"loss": 1 / step}, step=step)
            if step % 10 == 0:
                log.log_validation({"loss": 1 / step}, name="test" if step == 30 else None)
        log.log_validation(2, {"loss": 0.5}, step=7)
    table = read_run(tmp_path, "run").validation
    assert table.column_names[4:] == ["epoch", "step", "name", "is_best", "best_so_far", "loss"]
    assert table["step"].to_pylist() == [10, 20, 30, 7]
    assert table["epoch"].to_pylist() == [None, None, None, 2]
    assert table["name"].to_pylist() == [None, None, "test", None]
    assert table["best_so_far"].to_pylist() == [True, True, True, False]
    assert read_run(tmp_path, "run").summary["best"]["step"] == 30
    assert "validation name=test loss=0.0333333" in (tmp_path / "run_training.log").read_text()
    assert "validation epoch=2 step=7 loss=0.5" in (tmp_path / "run_training.log").read_text()


def test_a_validation_without_metrics_is_wrong_at_every_call(tmp_path: Path):
    with AdvancedLogger(tmp_path, "run", console="off", parquet=False) as log:
        for call in (log.log_validation, lambda: log.log_validation(1), lambda: log.log_validation(1, 5)):
            with pytest.raises(TypeError, match="metrics: expected "):
                call()
        log.log_validation(1, None)
    assert read_run(tmp_path, "run").validation.num_rows == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"best_metric": 3}, TypeError, "best_metric: expected a string, got int 3"),
        ({"best_metric": "wer"}, ValueError, "best_mode: expected 'max' or 'min' for 'wer'"),
        ({"best_mode": "max"}, ValueError, "best_metric: expected the metric whose max is the best"),
        ({"best_metric": "wer", "best_mode": "low"}, ValueError, "best_mode: expected 'max' or 'min', got str 'low'"),
    ],
)
def test_options_of_the_best_that_say_nothing_are_refused(tmp_path: Path, options, error, message):
    with pytest.raises(error, match=message):
        AdvancedLogger(tmp_path, "run", **options)
