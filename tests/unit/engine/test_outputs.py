"""Every output holds what was logged, to the bit, and plain readers find it."""

from __future__ import annotations

import json
import math
import random
import struct
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pytest

from advlog_fast import AdvancedLogger, read_jsonl, read_run
from advlog_fast.store.rotated_files import rotated_files

SPECIAL = (math.nan, math.inf, -math.inf, -0.0, 0.0, 5e-324, 1.7976931348623157e308, 0.1, 1e22, 2.0**53)
METRICS = ("loss", "accuracy", "learning_rate", "gradient_norm", "batch_time", "data_time", "other")


def bits(value: float) -> bytes:
    """The value's bits; every NaN counts as the same one."""
    return struct.pack("<d", math.nan if math.isnan(value) else value)


def some_doubles(count: int) -> list[float]:
    """The special values, then doubles of random bits: subnormals, infinities and NaNs among them."""
    rng = random.Random(7)
    patterns = (struct.unpack("<d", rng.randbytes(8))[0] for _ in range(count - len(SPECIAL)))
    return [*SPECIAL, *patterns]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """A closed run of 60,000 values in rows of seven, in several JSONL files and several parts."""
    log_dir = tmp_path_factory.mktemp("logged")
    values = some_doubles(60_004)
    rows = len(values) // 7
    with AdvancedLogger(
        log_dir, "bits", console="off", max_log_size=200_000, max_log_files=1000, part_rows=3000
    ) as log:
        for i in range(rows):
            seven = values[7 * i : 7 * i + 7]
            log.log_batch_progress(1, i + 1, rows, *seven[:6], other=seven[6])
    return log_dir, values[: 7 * rows]


def flat(rows: list[dict[str, Any]]) -> list[bytes]:
    return [bits(row[name]) for row in rows for name in METRICS]


def test_jsonl_and_parquet_give_the_same_rows_equal_to_the_bit_to_what_was_logged(
    logged: tuple[Path, list[float]],
):
    log_dir, values = logged
    expected = [bits(value) for value in values]
    from_lines = read_jsonl(log_dir / "bits_metrics.jsonl")
    assert flat(from_lines) == expected
    from_parts = pd.read_parquet(log_dir / "bits_metrics.parquet").sort_values("seq")
    assert flat(from_parts.to_dict("records")) == expected
    for column in ("seq", "rank", "epoch", "batch", "total_batches", "step"):
        assert from_parts[column].tolist() == [row[column] for row in from_lines], column
    assert from_parts["timestamp"].tolist() == [pd.Timestamp(row["timestamp"]) for row in from_lines]
    assert len(list((log_dir / "bits_metrics.parquet").rglob("*.parquet"))) == 3


def texts(path: Path) -> list[str]:
    """The values as a training log and the files that were rotated out of it show them."""
    lines = [
        line for file in (*rotated_files(path), path) for line in file.read_text().splitlines() if "INFO epoch=" in line
    ]
    found = [dict(field.split("=") for field in line.split()[2:]) for line in lines]
    return [fields[name] for fields in found for name in METRICS]


def in_six_digits(value: float) -> float:
    whole = value.is_integer() and abs(value) < 2**53
    if whole or not math.isfinite(value) or abs(value) < 1e-318:  # where neighbours differ by more than a sixth digit
        return value
    return float(f"{value:.5e}")


def test_the_text_log_has_the_same_numbers_in_six_digits(logged: tuple[Path, list[float]]):
    log_dir, values = logged
    found = texts(log_dir / "bits_training.log")
    assert [bits(float(text)) for text in found] == [bits(in_six_digits(value)) for value in values]
    assert max(len(text) for text in found if "e" in text) == len("-1.79769e+308")


@pytest.mark.parametrize("options", [{"text_digits": 17}, {"jsonl": False, "parquet": False}], ids=str)
def test_the_text_log_has_every_digit_where_asked_or_where_nothing_else_has_them(tmp_path: Path, options: Any):
    values = some_doubles(70)
    with AdvancedLogger(tmp_path, "bits", console="off", **options) as log:
        for i in range(10):
            log.log_batch_progress(1, i + 1, 10, *values[7 * i : 7 * i + 6], other=values[7 * i + 6])
        log.log_validation(1, {"loss": 1 / 3})
    assert [bits(float(text)) for text in texts(tmp_path / "bits_training.log")] == [bits(value) for value in values]
    asked = "text_digits" in options
    shown = f"loss={1 / 3!r}" if asked else "loss=0.333333"
    assert shown in log.paths["main_log"].read_text(), "the events' file has the bits of an event in either case"
    assert shown in (tmp_path / "bits_training.log").read_text()


@pytest.mark.parametrize("options", [{"jsonl": False}, {"parquet": False}], ids=str)
def test_one_other_output_is_enough_for_a_short_text_log(tmp_path: Path, options: Any):
    with AdvancedLogger(tmp_path, "run", console="off", **options) as log:
        log.log_batch_progress(1, 1, 1, loss=1 / 3, accuracy=1234567.0, learning_rate=12345678.9)
    assert "loss=0.333333 accuracy=1234567 learning_rate=1.23457e+07" in (tmp_path / "run_training.log").read_text()


def test_every_line_passes_a_strict_parser(logged: tuple[Path, list[float]]):
    def refuse(name: str) -> None:
        raise AssertionError(f"not JSON: {name}")

    log_dir, _ = logged
    files = [
        *log_dir.glob("bits_metrics.jsonl*"),
        log_dir / "bits_events.jsonl",
        log_dir / "bits_system.jsonl",
    ]
    assert len(files) > 5
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            json.loads(line, parse_constant=refuse)
    json.loads((log_dir / "bits_summary.json").read_text(), parse_constant=refuse)


def test_the_text_log_has_a_line_for_every_batch(logged: tuple[Path, list[float]]):
    log_dir, values = logged
    lines = [line for file in log_dir.glob("bits_training.log*") for line in file.read_text().splitlines()]
    assert sum(" INFO epoch=" in line for line in lines) == len(values) // 7
    first = next(line for line in lines if " batch=1/" in line)
    assert first.endswith("loss=nan accuracy=inf learning_rate=-inf gradient_norm=-0 batch_time=0 data_time=5e-324 "
                          "other=1.79769e+308")  # fmt: skip


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose metric `born_late` first came after its first part was sealed."""
    log_dir = tmp_path_factory.mktemp("grown")
    with AdvancedLogger(log_dir, "grown", console="off") as log:
        for i in range(1, 31):
            late = {"born_late": i / 2} if i > 15 else {}
            log.log_batch_progress(1, i, 30, 1 / i, **late)
            if i == 15:
                log.end_training()  # seals; the logger stays open
    return log_dir


def test_pandas_describes_the_json_lines(grown: Path):
    with open(grown / "grown_metrics.jsonl") as file:
        frame = pd.DataFrame(map(json.loads, file))
    described = frame.describe()
    assert described["loss"]["count"] == 30
    assert described["loss"]["max"] == 1.0
    assert described["born_late"]["count"] == 15


LATE = [i / 2 for i in range(16, 31)]


def test_read_run_finds_a_late_metric_wide(grown: Path):
    table = read_run(grown, "grown").metrics
    assert table.num_rows == 30
    assert [value for value in table["born_late"].to_pylist() if value is not None] == LATE


def test_plain_readers_find_a_late_metric_in_extra(grown: Path):
    folder = grown / "grown_metrics.parquet"
    frame = pd.read_parquet(folder).sort_values("seq")
    found = [dict(extra)["born_late"] for extra in frame["extra"] if extra is not None and len(extra)]
    assert found == LATE
    query = f"SELECT extra['born_late'] FROM read_parquet('{folder}/**/*.parquet') WHERE seq > 15 ORDER BY seq"
    assert [row[0] for row in duckdb.sql(query).fetchall()] == LATE
    polars = pl.scan_parquet(folder).sort("seq").collect()
    assert polars.height == 30
    assert [dict(row)["born_late"] for row in polars["extra"].to_list() if row] == LATE
    table = ds.dataset(folder, partitioning="hive").to_table().sort_by("seq")
    assert [dict(extra)["born_late"] for extra in table["extra"].to_pylist() if extra] == LATE


@pytest.mark.parametrize("reader", ["pandas", "duckdb", "polars", "pyarrow"])
def test_every_reader_sees_the_attempt(grown: Path, reader: str):
    folder = grown / "grown_metrics.parquet"
    found: list[Any]
    if reader == "pandas":
        found = pd.read_parquet(folder)["attempt"].astype(int).tolist()
    elif reader == "duckdb":
        found = [r[0] for r in duckdb.sql(f"SELECT attempt FROM read_parquet('{folder}/**/*.parquet')").fetchall()]
    elif reader == "polars":
        found = pl.read_parquet(folder)["attempt"].to_list()
    else:
        found = ds.dataset(folder, partitioning="hive").to_table()["attempt"].to_pylist()
    assert [int(value) for value in found] == [1] * 30


def test_a_metric_is_a_column_of_the_stream_that_has_it_and_of_no_other(tmp_path: Path):
    with AdvancedLogger(tmp_path, "streams", console="off", memory_interval_s=0, metrics=("declared",)) as log:
        log.log_batch_progress(1, 1, 1, 0.5, mine=2.0)
        log.log_memory_usage()
        log.log_performance_metrics(0.25)
        unsealed = read_run(tmp_path, "streams")
        assert log.flush()
        assert "mine" not in unsealed.system.column_names
        assert "cpu_memory_gb" not in unsealed.metrics.column_names
    run = read_run(tmp_path, "streams")
    assert {"declared", "mine"} <= {*run.metrics.column_names}
    assert not {"declared", "mine"} & {*run.system.column_names}
    assert "cpu_memory_gb" in run.system.column_names
    assert "cpu_memory_gb" not in run.metrics.column_names
    for stream in ("metrics", "system"):
        schema = ds.dataset(log.paths[f"{stream}_parquet"], format="parquet").schema.names
        assert ("mine" in schema, "cpu_memory_gb" in schema) == (stream == "metrics", stream == "system")
