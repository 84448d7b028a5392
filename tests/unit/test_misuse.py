"""Misuse raises at once, naming the argument, what was expected and what came; nothing else is lost by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from advlog_fast import AdvancedLogger, read_jsonl


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AdvancedLogger]:
    with AdvancedLogger(tmp_path, "misused", console="off", parquet=False) as logger:
        yield logger


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
