"""Misuse raises at once, naming the argument, what was expected and what came; nothing else is lost by it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from advlog_fast import AdvancedLogger, TrainingMetrics, read_jsonl


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AdvancedLogger]:
    with AdvancedLogger(tmp_path, "misused", console="off", parquet=False) as logger:
        yield logger


TIMESTAMP = r"^timestamp: expected a time in the years 1678 to 2261, got datetime datetime\.datetime\("


def at(time: Any) -> TrainingMetrics:
    return TrainingMetrics(1, 1, 2, 0.5, timestamp=time)


def nested(kind: type[dict[str, Any] | list[Any]]) -> Any:
    """A value nested so deep that its own repr fails: from 3.14 on at the end of the stack, before that far earlier."""
    value: Any = 1.0
    for _ in range(200_000):
        value = {"a": value} if kind is dict else [value]
    return value


CALLS: dict[str, tuple[Callable[[AdvancedLogger], Any], type[Exception], str]] = {
    "a string for loss": (
        lambda log: log.log_batch_progress(epoch=1, batch=1, total_batches=2, loss="0.5"),
        TypeError,
        r"^loss: expected a number, got str '0\.5'$",
    ),
    "a missing argument": (
        lambda log: log.log_batch_progress(epoch=1, batch=1, total_batches=2),  # type: ignore[call-arg]
        TypeError,
        r"^loss: expected .* 'loss' is missing$",
    ),
    "no integer for epoch": (
        lambda log: log.log_batch_progress(epoch=1.5, batch=1, total_batches=2, loss=1),  # type: ignore[arg-type]
        TypeError,
        r"^epoch: expected an integer, got float 1\.5$",
    ),
    "an integer that float64 cannot hold": (
        lambda log: log.log_batch_progress(1, 1, 2, 2**53 + 1),
        ValueError,
        r"^loss: expected a number that float64 can hold, got int 9007199254740993$",
    ),
    "a batch beyond int32": (
        lambda log: log.log_batch_progress(1, 2**31, 2, 1.0),
        ValueError,
        r"^batch: expected an integer from -2147483648 to 2147483647, got int 2147483648$",
    ),
    "one argument twice": (
        lambda log: log.log_batch_progress(1, 2, 3, 4.0, loss=5.0),  # type: ignore[misc]
        TypeError,
        r"^loss: expected one value",
    ),
    "a list for a metric": (
        lambda log: log.log_batch_progress(1, 2, 3, 4.0, other=[1, 2]),
        TypeError,
        r"^metrics\['other'\]: expected a number, got list \[1, 2\]$",
    ),
    "a reserved name": (
        lambda log: log.log_batch_progress(1, 2, 3, 4.0, seq=5),
        ValueError,
        r"^metric name: expected a name that the outputs do not use",
    ),
    "an unknown severity": (
        lambda log: log.log_error(ValueError("x"), "op", severity="FATAL"),
        ValueError,
        r"^severity: expected one of DEBUG, INFO, WARNING, ERROR, CRITICAL, got str 'FATAL'$",
    ),
    "no error": (
        lambda log: log.log_error(5, "op"),  # type: ignore[arg-type]
        TypeError,
        r"^error: expected an exception or a string, got int 5$",
    ),
    "no mapping": (lambda log: log.log_metrics(5), TypeError, r"^metrics: expected a mapping"),  # type: ignore[arg-type]
    "no value": (lambda log: log.log_metrics({}), ValueError, r"^metrics: expected at least one value, got dict \{\}$"),
    "no value that is given": (
        lambda log: log.log_metrics({"a": None, "deep": {"b": None}}, step=3),
        ValueError,
        r"^metrics: expected at least one value",
    ),
    "a name twice": (
        lambda log: log.log_metrics({"g/a": 1, "g": {"a": 2}}),
        ValueError,
        r"^metrics: expected each name once, .* got str 'g/a'$",
    ),
    "a level set later": (
        lambda log: setattr(log, "log_level", 10),
        AttributeError,
        r"log_level",
    ),
    "mappings nested 200,000 deep": (
        lambda log: log.log_metrics({"deep": nested(dict)}),
        ValueError,
        r"^metrics\['deep/a/a/.*'\]: expected at most 20 nested mappings, got dict ",
    ),
    "lists nested 200,000 deep": (
        lambda log: log.log_batch_progress(1, 1, 2, 0.5, deep=nested(list)),
        TypeError,
        r"^metrics\['deep'\]: expected a number, got list ",
    ),
    "a time before all others": (lambda log: log.log_metrics(at(datetime.min)), ValueError, TIMESTAMP),
    "a time after all others": (lambda log: log.log_metrics(at(datetime.max)), ValueError, TIMESTAMP),
    "a time that UTC does not have": (
        lambda log: log.log_metrics(at(datetime.min.replace(tzinfo=timezone(timedelta(hours=1))))),
        ValueError,
        TIMESTAMP,
    ),
    "a time beyond 64 bits of nanoseconds": (
        lambda log: log.log_metrics(at(datetime(2262, 5, 1, tzinfo=timezone.utc))),
        ValueError,
        TIMESTAMP,
    ),
    "no time": (lambda log: log.log_metrics(at("now")), TypeError, r"^timestamp: expected a datetime, got str 'now'$"),
    "no batch_time": (
        lambda log: log.log_performance_metrics(),  # type: ignore[call-arg]
        TypeError,
        r"^batch_time: expected seconds",
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_a_call_misused_raises_and_loses_nothing_else(log: AdvancedLogger, case: str):
    call, error, message = CALLS[case]
    log.log_batch_progress(1, 1, 2, 0.25)
    with pytest.raises(error, match=message):
        call(log)
    log.log_batch_progress(1, 2, 2, 0.125)
    assert log.flush()
    rows = read_jsonl(log.paths["metrics_jsonl"])
    assert [(row["seq"], row["loss"]) for row in rows] == [(1, 0.25), (2, 0.125)]


OPTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a name that is a path": (
        {"experiment_name": "../x"},
        ValueError,
        r"^experiment_name: .*\(such as 'x'\), got str '\.\./x'$",
    ),
    "a name with a NUL": ({"experiment_name": "a\0b"}, ValueError, r"^experiment_name: "),
    "a device of Windows": (
        {"experiment_name": "CON"},
        ValueError,
        r"^experiment_name: .* not a device name of Windows \(such as 'run_CON'\)",
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
