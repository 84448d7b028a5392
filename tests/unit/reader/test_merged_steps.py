"""The records of a step as one row."""

from __future__ import annotations

import pytest

from advlog_fast import AdvancedLogger, read_run
from advlog_fast.parquet import part_reader


@pytest.fixture
def log(tmp_path):
    with AdvancedLogger(tmp_path, "run", console="off", memory_interval_s=0) as logger:
        yield logger


def merged(log, tmp_path, *columns):
    log.close()
    return read_run(tmp_path, "run").by_step(columns or None)


def test_what_several_calls_log_at_a_step_is_one_row(log, tmp_path):
    for step in (1, 2):
        log.log_batch_progress(1, step, 10, 0.5 + step, discriminator=0.25)
        log.log_metrics({"generator": 2.0 * step}, step=step)
    log.log_metrics({"val/loss": 0.1}, step=2)
    table = merged(log, tmp_path)
    keys = {"attempt": 1, "rank": 0, "worker": 0, "pass": 1}
    metrics = ("step", "records", "epoch", "batch", "loss", "discriminator", "generator", "val/loss")
    rows = [(1, 2, 1, 1, 1.5, 0.25, 2.0, None), (2, 3, 1, 2, 2.5, 0.25, 4.0, 0.1)]
    found = table.select([*keys, *metrics]).to_pylist()
    assert found == [{**keys, **dict(zip(metrics, row, strict=True))} for row in rows]
    assert table.schema.metadata == {b"rows_without_step": b"0"}


def test_the_last_value_that_is_there_wins(log, tmp_path):
    for loss, other in ((1.0, 5.0), (2.0, None), (3.0, 6.0), (4.0, None)):
        log.log_metrics({"loss": loss} if other is None else {"loss": loss, "other": other}, step=7)
    assert merged(log, tmp_path, "loss", "other").select(["records", "loss", "other"]).to_pylist() == [
        {"records": 4, "loss": 4.0, "other": 6.0}
    ]


def test_steps_that_go_back_begin_a_new_pass_and_rows_without_one_are_counted(log, tmp_path):
    for step in (1, 2, 3, None, 2, 3, 1):
        log.log_metrics({"loss": 1.0}, step=step)
    table = merged(log, tmp_path, "loss")
    found = list(zip(table["pass"].to_pylist(), table["step"].to_pylist(), strict=True))
    assert found == [(1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (3, 1)]
    assert table.schema.metadata == {b"rows_without_step": b"1"}


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_a_step_that_lies_in_two_batches_is_one_row(log, tmp_path, monkeypatch, rows):
    monkeypatch.setattr(part_reader, "BATCH_ROWS", rows)
    for step in range(10):
        for part in range(3):
            log.log_metrics({"loss": step + part / 10}, step=step)
    log.close()
    reader = read_run(tmp_path, "run")
    monkeypatch.setattr(type(reader._reader("metrics")).batches, "__defaults__", (rows,))
    table = reader.by_step(["loss"])
    assert table["records"].to_pylist() == [3] * 10
    assert table["loss"].to_pylist() == [step + 0.2 for step in range(10)]


def test_each_attempt_and_rank_has_rows_of_its_own(tmp_path):
    for _ in range(2):
        logs = [AdvancedLogger(tmp_path, "run", rank=rank, world_size=2, console="off") for rank in (0, 1)]
        for log in logs:
            log.log_metrics({"loss": 1.0}, step=1)
            log.log_metrics({"loss": 2.0}, step=1)
        for log in logs:
            log.close()
    table = read_run(tmp_path, "run", attempts="all").by_step(["loss"])
    keys = [tuple(row[name] for name in ("attempt", "rank", "records", "loss")) for row in table.to_pylist()]
    assert keys == [(attempt, rank, 2, 2.0) for attempt in (1, 2) for rank in (0, 1)]


def test_metrics_under_the_names_of_its_columns_stand_beside_them(log, tmp_path):
    log.log_metrics({"pass": 3.0, "records": 4.0}, step=1)
    (row,) = merged(log, tmp_path, "pass", "records").to_pylist()
    assert (row["pass"], row["records"], row["metrics/pass"], row["metrics/records"]) == (1, 1, 3.0, 4.0)


def test_a_column_that_is_nowhere_is_an_error(log, tmp_path):
    log.log_metrics({"loss": 3.0}, step=1)
    with pytest.raises(ValueError, match=r"columns: expected some of .*, got str 'los'"):
        merged(log, tmp_path, "los")
