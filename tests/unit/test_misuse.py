"""Wrong code raises at once; a wrong value is left out, said once and counted. Nothing else is lost by either."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_files import unescape

from advlog_fast import AdvancedLogger, TrainingMetrics, TrainingProgressTracker, read_jsonl


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AdvancedLogger]:
    with AdvancedLogger(tmp_path, "misused", console="off", parquet=False) as logger:
        yield logger


TIMESTAMP = r"^timestamp: expected a time in the years 1678 to 2261, got datetime datetime\.datetime\("


def at(time: Any) -> TrainingMetrics:
    return TrainingMetrics(1, 1, 2, 0.5, timestamp=time)


ROW = {"epoch": 1, "batch": 1, "total_batches": 2, "step": 1, "loss": 0.5}


def nested(kind: type[dict[str, Any] | list[Any]]) -> Any:
    """A value nested so deep that its own repr fails: from 3.14 on at the end of the stack, before that far earlier."""
    value: Any = 1.0
    for _ in range(200_000):
        value = {"a": value} if kind is dict else [value]
    return value


Call = Callable[[AdvancedLogger], Any]

WRONG_CODE: dict[str, tuple[Call, type[Exception], str]] = {
    "a missing argument": (
        lambda log: log.log_batch_progress(epoch=1, batch=1, total_batches=2),  # type: ignore[call-arg]
        TypeError,
        r"^loss: expected .* 'loss' is missing$",
    ),
    "one argument twice": (
        lambda log: log.log_batch_progress(1, 2, 3, 4.0, loss=5.0),  # type: ignore[misc]
        TypeError,
        r"^loss: expected one value",
    ),
    "an unknown severity": (
        lambda log: log.log_error(ValueError("x"), "op", severity="FATAL"),
        ValueError,
        r"^severity: expected one of DEBUG, INFO, WARNING, ERROR, CRITICAL, got str 'FATAL'$",
    ),
    "no mapping": (lambda log: log.log_metrics(5), TypeError, r"^metrics: expected a mapping"),  # type: ignore[arg-type]
    "no metrics": (lambda log: log.log_metrics(), TypeError, r"^metrics: expected .* 'metrics' is missing$"),  # type: ignore[call-arg]
    "an unknown argument": (
        lambda log: log.log_metrics({}, stp=1),  # type: ignore[call-arg]
        TypeError,
        r"^stp: expected log_metrics\(metrics, step=None\)$",
    ),
    "a level set later": (
        lambda log: setattr(log, "log_level", 10),
        AttributeError,
        r"log_level",
    ),
    "no batch_time": (
        lambda log: log.log_performance_metrics(),  # type: ignore[call-arg]
        TypeError,
        r"^batch_time: expected seconds",
    ),
    "no context": (
        lambda log: log.log_error("x", context=5),  # type: ignore[arg-type]
        TypeError,
        r"^context: expected a mapping, got int 5$",
    ),
}


@pytest.mark.parametrize("on_misuse", ["warn", "raise"])
@pytest.mark.parametrize("case", WRONG_CODE)
def test_what_is_wrong_at_every_call_raises_and_loses_nothing_else(tmp_path: Path, case: str, on_misuse: str):
    call, error, message = WRONG_CODE[case]
    with AdvancedLogger(tmp_path, "misused", console="off", parquet=False, on_misuse=on_misuse) as log:
        log.log_batch_progress(1, 1, 2, 0.25)
        with pytest.raises(error, match=message):
            call(log)
        log.log_batch_progress(1, 2, 2, 0.125)
        assert log.flush()
        rows = read_jsonl(log.paths["metrics_jsonl"])
        assert [(row["seq"], row["loss"]) for row in rows] == [(1, 0.25), (2, 0.125)]


WRONG_VALUES: dict[str, tuple[Call, type[Exception], str, dict[str, Any] | None]] = {
    "a string for loss": (
        lambda log: log.log_batch_progress(epoch=1, batch=1, total_batches=2, loss="0.5", other=1),
        TypeError,
        r"^loss: expected a number, got str '0\.5'",
        {"epoch": 1, "batch": 1, "total_batches": 2, "step": 1, "other": 1.0},
    ),
    "no integer for batch": (
        lambda log: log.log_batch_progress(epoch=1, batch=1.5, total_batches=2, loss=1),
        TypeError,
        r"^batch: expected an integer, got float 1\.5",
        {"epoch": 1, "total_batches": 2, "loss": 1.0},
    ),
    "an integer that float64 cannot hold": (
        lambda log: log.log_batch_progress(1, 1, 2, 2**53 + 1),
        ValueError,
        r"^loss: expected an integer that float64 holds exactly, got int 9007199254740993",
        {"epoch": 1, "batch": 1, "total_batches": 2, "step": 1, "loss": 2.0**53},
    ),
    "a batch beyond int32": (
        lambda log: log.log_batch_progress(1, 2**31, 2, 1.0),
        ValueError,
        r"^batch: expected an integer from -2147483648 to 2147483647, got int 2147483648",
        {"epoch": 1, "total_batches": 2, "loss": 1.0},
    ),
    "a list for a metric": (
        lambda log: log.log_batch_progress(1, 2, 3, 4.0, other=[1, 2]),
        TypeError,
        r"^metrics\['other'\]: expected a number, got list \[1, 2\]",
        {"epoch": 1, "batch": 2, "total_batches": 3, "step": 2, "loss": 4.0},
    ),
    "a reserved name": (
        lambda log: log.log_batch_progress(1, 2, 3, 4.0, seq=5),
        ValueError,
        r"^metric name: expected a name that the outputs do not use",
        {"epoch": 1, "batch": 2, "total_batches": 3, "step": 2, "loss": 4.0},
    ),
    "a name twice": (
        lambda log: log.log_metrics({"g/a": 1, "g": {"a": 2}}),
        ValueError,
        r"^metrics\['g/a'\]: expected each name once, ",
        {"g/a": 1.0},
    ),
    "a step that is none": (
        lambda log: log.log_metrics({"a": 1.0}, step="first"),  # type: ignore[arg-type]
        TypeError,
        r"^step: expected an integer, got str 'first'",
        {"a": 1.0},
    ),
    "mappings nested 200,000 deep": (
        lambda log: log.log_metrics({"a": 1.0, "deep": nested(dict)}),
        ValueError,
        r"^metrics\['deep/a/a/.*'\]: expected at most 20 nested mappings, none within itself, got dict ",
        {"a": 1.0},
    ),
    "lists nested 200,000 deep": (
        lambda log: log.log_batch_progress(1, 1, 2, 0.5, deep=nested(list)),
        TypeError,
        r"^metrics\['deep'\]: expected a number, got list ",
        {"epoch": 1, "batch": 1, "total_batches": 2, "step": 1, "loss": 0.5},
    ),
    "a time before all others": (lambda log: log.log_metrics(at(datetime.min)), ValueError, TIMESTAMP, ROW),
    "a time after all others": (lambda log: log.log_metrics(at(datetime.max)), ValueError, TIMESTAMP, ROW),
    "a time that UTC does not have": (
        lambda log: log.log_metrics(at(datetime.min.replace(tzinfo=timezone(timedelta(hours=1))))),
        ValueError,
        TIMESTAMP,
        ROW,
    ),
    "a time beyond 64 bits of nanoseconds": (
        lambda log: log.log_metrics(at(datetime(2262, 5, 1, tzinfo=timezone.utc))),
        ValueError,
        TIMESTAMP,
        ROW,
    ),
    "no time": (
        lambda log: log.log_metrics(at("now")),
        TypeError,
        r"^timestamp: expected a datetime, got str 'now'",
        ROW,
    ),
    "no value that can be logged": (
        lambda log: log.log_metrics({"a": "x"}, step=3),
        TypeError,
        r"^metrics\['a'\]: expected a number, got str 'x'",
        None,
    ),
    "no error": (lambda log: log.log_error(5, "op"), TypeError, r"^error: expected an exception or a string", None),  # type: ignore[arg-type]
    "a validation of text": (
        lambda log: log.log_validation(1, {"a": "x", "b": 1}),
        TypeError,
        r"^metrics\['a'\]: expected a number, got str 'x'",
        None,
    ),
    "an epoch that is none": (lambda log: log.start_epoch("x"), TypeError, r"^epoch: expected an integer", None),  # type: ignore[arg-type]
    "the end of an epoch that is none": (lambda log: log.end_epoch("x"), TypeError, r"^epoch: expected", None),  # type: ignore[arg-type]
    "an event without a name": (lambda log: log.log_event(""), ValueError, r"^name: expected a string that", None),
    "a recovery of nothing": (lambda log: log.log_recovery(1, "a"), TypeError, r"^operation: expected a string", None),  # type: ignore[arg-type]
    "a context without a name": (lambda log: log.training_context(1), TypeError, r"^name: expected a string", None),  # type: ignore[arg-type]
    "a batch that is none": (
        lambda log: TrainingProgressTracker(log).update_progress(1, "x", 2, 3),  # type: ignore[arg-type]
        TypeError,
        r"^batch: expected an integer, got str 'x'",
        None,
    ),
}


def kept(log: AdvancedLogger) -> list[dict[str, Any]]:
    """The rows that were logged, without what every row has."""
    assert log.flush()
    common = ("timestamp", "attempt", "rank", "seq")
    return [
        {name: value for name, value in row.items() if name not in common}
        for row in read_jsonl(log.paths["metrics_jsonl"])
    ]


@pytest.mark.parametrize("case", WRONG_VALUES)
def test_a_value_misused_is_left_out_and_the_rest_of_its_record_is_logged(log: AdvancedLogger, case: str):
    call, _, message, row = WRONG_VALUES[case]
    with pytest.warns(RuntimeWarning, match=message) as said:
        call(log)
    call(log)
    assert len(said) == 1
    assert said[0].filename == __file__
    assert kept(log) == ([] if row is None else [row, row])
    ((_, found),) = log.health().misuse.items()
    assert found.count == 2
    assert found.first_step == (3 if case == "no value that can be logged" else (row or {}).get("step"))
    assert log.get_training_summary()["misuse"] == {name: vars(found) for name, found in log.health().misuse.items()}
    assert re.search(message.removeprefix("^"), unescape(log.paths["main_log"].read_text()))


@pytest.mark.parametrize("case", WRONG_VALUES)
def test_a_misuse_that_raises_does_so_after_the_rest_is_logged(tmp_path: Path, case: str):
    call, error, message, row = WRONG_VALUES[case]
    with AdvancedLogger(tmp_path, "misused", console="off", parquet=False, on_misuse="raise") as log:
        for _ in range(2):
            with pytest.raises(error, match=message):
                call(log)
        assert kept(log) == ([] if row is None else [row, row])


@pytest.mark.parametrize("case", WRONG_VALUES)
def test_where_warnings_are_errors_a_misuse_raises_nothing_and_is_in_the_main_log(log: AdvancedLogger, case: str):
    call, _, message, row = WRONG_VALUES[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(log)
        call(log)
    assert kept(log) == ([] if row is None else [row, row])
    assert len(re.findall(message.removeprefix("^"), unescape(log.paths["main_log"].read_text()))) == 1


def test_the_environment_says_whether_a_misuse_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ADVLOG_ON_MISUSE", "Raise")
    log = AdvancedLogger(tmp_path, "misused", console="off", parquet=False)
    with log, pytest.raises(TypeError, match=r"^loss: expected a number"):
        log.log_metrics({"loss": "x"})
    monkeypatch.setenv("ADVLOG_ON_MISUSE", "warn")
    log = AdvancedLogger(tmp_path, "misused", console="off", parquet=False, on_misuse="raise")
    with log, pytest.warns(RuntimeWarning, match=r"^metrics\['a'\]: expected a number"):
        log.log_metrics({"a": "x"})
    monkeypatch.setenv("ADVLOG_ON_MISUSE", "loud")
    with pytest.raises(ValueError, match=r"^ADVLOG_ON_MISUSE: expected 'warn' or 'raise', got str 'loud'$"):
        AdvancedLogger(tmp_path / "other", "misused", console="off", parquet=False)
    assert not (tmp_path / "other").exists()


def test_misuses_of_many_names_are_counted_together_and_said_once(log: AdvancedLogger):
    with pytest.warns(RuntimeWarning) as said:
        for i in range(1000):
            log.log_metrics({f"m{i}": "x", "loss": 1.0}, step=i)
    assert len(said) == 65
    assert str(said[-1].message).startswith("metrics['m64']: expected a number")
    assert "misuses of more than 64 names are said no more" in str(said[-1].message)
    misuse = log.health().misuse
    assert list(misuse) == [*(f"m{i}" for i in range(64)), "others"]
    assert (misuse["others"].count, misuse["others"].first_step) == (936, 64)
    assert len(kept(log)) == 1000


EMPTY: dict[str, Call] = {
    "no value": lambda log: log.log_metrics({}, step=3),
    "no value that is given": lambda log: log.log_metrics({"a": None, "deep": {"b": None}}, step=3),
    "no mapping at all": lambda log: log.log_metrics(None, step=3),
    "a validation of nothing": lambda log: log.log_validation(1, None),  # type: ignore[arg-type]
    "no time of a batch": lambda log: log.log_performance_metrics(None),
    "an epoch without metrics": lambda log: log.end_epoch(1, {}),
}


@pytest.mark.parametrize("case", EMPTY)
def test_a_record_without_a_value_passes_and_is_none(log: AdvancedLogger, case: str):
    EMPTY[case](log)
    assert kept(log) == []
    assert log.health().misuse == {}


@pytest.mark.parametrize("total", [None, -1, float("inf"), sys.maxsize, np.float64("inf"), np.int64(-1)])
def test_a_total_that_a_loader_does_not_know_is_unknown(log: AdvancedLogger, total: Any):
    log.log_batch_progress(1, 2, total, 0.5)
    log.log_metrics({"epoch": 1, "batch": 2, "total_batches": total, "loss": 0.5})
    log.start_epoch(1, total)
    TrainingProgressTracker(log).update_progress(1, 1, total, total)
    assert kept(log) == [{"epoch": 1, "batch": 2, "loss": 0.5}] * 2
    assert log.health().misuse == {}


def test_a_training_without_epochs_says_none(log: AdvancedLogger):
    log.log_batch_progress(None, None, None, 0.5, step=7)
    log.log_batch_progress(epoch=None, batch=3, total_batches=None, loss=None, x=1.0)
    assert kept(log) == [{"step": 7, "loss": 0.5}, {"batch": 3, "x": 1.0}]


def test_what_the_callback_of_a_trainer_gets_can_be_logged(log: AdvancedLogger):
    log.log_metrics({"loss": 0.5, "grad_norm": 1.0, "learning_rate": 1e-5, "epoch": 0.33}, step=10)
    log.log_metrics({"eval_loss": None}, step=10)
    log.log_metrics({"train_runtime": 1.0, "epoch": 1.0}, step=20)
    log.log_batch_progress(np.float32(1.5), 3, 4, 0.25)
    assert kept(log) == [
        {"step": 10, "loss": 0.5, "learning_rate": 1e-5, "grad_norm": 1.0, "epoch_progress": 0.33},
        {"epoch": 1, "step": 20, "train_runtime": 1.0, "epoch_progress": 1.0},
        {"batch": 3, "total_batches": 4, "loss": 0.25, "epoch_progress": 1.5},
    ]
    assert log.health().misuse == {}


def test_a_record_of_more_values_than_one_can_hold_becomes_several(tmp_path: Path):
    with AdvancedLogger(tmp_path, "wide", console="off", parquet=False, ring_bytes=64 * 1024) as log:
        most = log.health().ring_slots // 4 * 11 - 11 + 3
        names = [f"m{i}" for i in range(2 * most - 5)]
        log.log_batch_progress(1, 2, 10, 0.5, **dict.fromkeys(names, 1.0))
        log.log_metrics(dict.fromkeys(names, 2.0), step=3)
        rows = kept(log)
    place = {"epoch": 1, "batch": 2, "total_batches": 10, "step": 2}
    assert [len(row) for row in rows] == [most + 5, most - 1, most + 1, most - 4]
    assert all(row.items() >= place.items() for row in rows[:2])
    assert {name for row in rows[:2] for name in row} == {*place, "loss", *names}
    assert {name for row in rows[2:] for name in row} == {"step", *names}
    assert log.get_training_summary()["performance"]["step_interval"]["count"] == 0, "one batch, in several records"


OPTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a name that is a path": (
        {"experiment_name": "../x"},
        ValueError,
        r"^experiment_name: .*\(such as 'x', which safe_name\(\) makes of it\), got str '\.\./x'$",
    ),
    "a name with a NUL": ({"experiment_name": "a\0b"}, ValueError, r"^experiment_name: "),
    "a device of Windows": (
        {"experiment_name": "CON"},
        ValueError,
        r"^experiment_name: .* not a device name of Windows \(such as 'run_CON', ",
    ),
    "a name of 4 KB": ({"experiment_name": "x" * 4096}, ValueError, r"^experiment_name: "),
    "a name written right to left": ({"experiment_name": "\u202egpj"}, ValueError, r"^experiment_name: "),
    "no size": ({"max_log_size": 0}, ValueError, r"^max_log_size: expected an integer from 1024 .*, got int 0$"),
    "no files": ({"max_log_files": 0}, ValueError, r"^max_log_files: expected an integer from 1 "),
    "an unknown level": (
        {"log_level": "LOUD"},
        ValueError,
        r"^log_level: expected a number or one of DEBUG, .*, got str 'LOUD'$",
    ),
    "no level": ({"log_level": 1.5}, TypeError, r"^log_level: expected a level .*, got float 1\.5$"),
    "an unknown overflow": (
        {"overflow": "spill"},
        ValueError,
        r"^overflow: expected 'block' or 'drop_newest', got str 'spill'$",
    ),
    "an option that is none": ({"colour": 1}, TypeError, r"colour"),
}  # fmt: skip


@pytest.mark.parametrize("case", OPTIONS)
def test_an_option_misused_raises_and_makes_no_file(tmp_path: Path, case: str):
    options, error, message = OPTIONS[case]
    with pytest.raises(error, match=message):
        AdvancedLogger(tmp_path / "logs", **options)
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("relative", [False, True])
def test_a_directory_that_is_no_utf_8_is_refused_naming_log_dir_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool
):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    if relative:
        os.mkdir(odd)
        monkeypatch.chdir(odd)
    with pytest.raises(ValueError, match=r"^log_dir: expected a path that is valid UTF-8, .*, got str '/"):
        AdvancedLogger("logs" if relative else odd, console="off")
    assert os.listdir(tmp_path) == ([os.path.basename(odd)] if relative else [])


def test_a_value_nested_too_deep_is_shortened_where_any_value_may_stand_and_loses_nothing(
    log: AdvancedLogger, tmp_path: Path
):
    deep = nested(dict)
    log.start_training({"deep": deep})
    log.log_hyperparameters({"deep": nested(list)})
    log.log_event("deep", deep=deep)
    log.log_error(ValueError(deep), "deep", context={"deep": deep})
    log.logger.info(deep)
    log.logger.info("%s", deep)
    with log.training_context("deep"):
        pass
    log.end_training({"deep": deep})
    log.close()
    assert not any(log.health().entries_lost.values())
    main = log.paths["main_log"].read_text()
    assert main.count("<dict: too deep>") == 4
    assert "unreadable log record" not in main
    assert '"deep":{"a":' in log.paths["errors_log"].read_text()


def test_a_directory_that_cannot_be_made_raises_naming_log_dir(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        NotADirectoryError, match=r"log_dir: expected a directory that can be written, got '.*file/logs'"
    ):
        AdvancedLogger(tmp_path / "file" / "logs")


def test_a_log_that_is_no_regular_file_is_refused_and_nothing_stays_open(tmp_path: Path):
    (tmp_path / "odd_main.log").mkdir()
    with pytest.raises(OSError, match=r"log_dir: expected .*odd_main\.log"):
        AdvancedLogger(tmp_path, "odd", console="off")
    (tmp_path / "odd_main.log").rmdir()
    with AdvancedLogger(tmp_path, "odd", console="off") as log:
        log.log_batch_progress(1, 1, 1, 0.5)
    assert len(read_jsonl(tmp_path / "odd_metrics.jsonl")) == 1


def raised(message: str) -> RuntimeError:
    """An error that has a traceback."""
    try:
        raise RuntimeError(message)
    except RuntimeError as error:
        return error


def test_a_message_is_one_physical_line_in_every_text_file_and_forges_nothing(tmp_path: Path):
    forged = "a\r\nERROR forged\x1b[2J\x00\n2026-01-01T00:00:00.000000Z ERROR id=e9 forged"
    with AdvancedLogger(tmp_path, "forged", console="off") as log:
        log.logger.info(forged)
        log.log_event("note", text=forged)
        log.log_validation(1, {"accuracy\nERROR forged": 0.5})
        log.log_batch_progress(1, 1, 1, 0.5, **{"x\nERROR forged": 1.0})
        log.log_error(raised(forged), operation=forged, context={"why\n": forged})
        log.log_recovery(forged, forged)
    for name in ("forged_main.log", "forged_training.log", "forged_errors.log"):
        content = (tmp_path / name).read_bytes()
        assert not {*content} & {*range(32), 127} - {ord("\n")}, name
        for line in content.decode().splitlines():
            assert line.startswith(("2026-11", "  | ")) or line[:4].isdigit(), (name, line)
            assert not line.startswith("ERROR"), (name, line)
    errors = (tmp_path / "forged_errors.log").read_text().splitlines()
    assert [line.split(" ")[1] for line in errors if not line.startswith("  | ")] == ["ERROR", "INFO"]
