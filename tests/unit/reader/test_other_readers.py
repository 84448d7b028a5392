"""The README's queries hold wherever a run lies, and whatever its metrics are called."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from advlog_fast import AdvancedLogger

duckdb = pytest.importorskip("duckdb")
pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")

README = (Path(__file__).resolve().parents[3] / "README.md").read_text(encoding="utf-8")


def run(folder, name="quickstart", **metrics):
    with AdvancedLogger(folder, name, console="off", memory_interval_s=0) as log:
        for step in range(1, 4):
            log.log_batch_progress(1, step, 3, 0.5, learning_rate=0.1 / step, **metrics)


@pytest.mark.parametrize("above", ["plain", "learning_rate=0.1", "attempt=7", "rank=5", "loss=low", "timestamp=now"])
def test_a_folder_above_gives_no_column(tmp_path, monkeypatch, above):
    folder = tmp_path / above
    run(folder / "logs")
    for name, value in dict_of_reads(folder, monkeypatch).items():
        assert value == [(1, 0, 0.1 / step, 0.5) for step in range(1, 4)], name


def dict_of_reads(folder, monkeypatch):
    monkeypatch.chdir(folder)
    parts = re.search(r'parts = "(.*)"', README)[1]
    columns = ["attempt", "rank", "learning_rate", "loss"]
    dataset = "logs/quickstart_metrics.parquet"
    frame = pandas.read_parquet(dataset)
    assert list(frame[frame.attempt >= 1].attempt) == [1, 1, 1]  # a number, and no category
    return {
        "duckdb": duckdb.sql(f"SELECT {', '.join(columns)} FROM {parts} ORDER BY seq").fetchall(),
        "pandas": list(frame.sort_values("seq")[columns].itertuples(index=False, name=None)),
        "polars": polars.scan_parquet(dataset).sort("seq").select(columns).collect().rows(),
    }


def test_several_runs_are_queried_at_once(tmp_path, monkeypatch):
    run(tmp_path / "logs", "one", x=1.0)
    run(tmp_path / "logs", "two", y=2.0)
    monkeypatch.chdir(tmp_path)
    every = re.search(r'every = "(.*)"', README)[1]
    rows = duckdb.sql(f"SELECT filename, max(x), max(y), max(step) FROM {every} GROUP BY ALL ORDER BY ALL").fetchall()
    assert [(Path(name).parts[1], *rest) for name, *rest in rows] == [
        ("one_metrics.parquet", 1.0, None, 3),
        ("two_metrics.parquet", None, 2.0, 3),
    ]


def test_a_young_run_is_queried_by_its_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with AdvancedLogger("logs", "quickstart", console="off", memory_interval_s=0) as log:
        log.log_batch_progress(1, 1, 3, 0.5)
        log.flush()
        query = re.search(r'duckdb\.sql\("(SELECT step, loss FROM read_json.*?)"\)', README)[1]
        assert duckdb.sql(query).fetchall() == [(1, 0.5)]


def test_names_that_differ_only_in_case_break_no_leaderboard(tmp_path, monkeypatch):
    run(tmp_path / "logs", "good")
    run(tmp_path / "logs", "odd", F1=1.0, f1=0.9, LR=1.0, lr=2.0)
    monkeypatch.chdir(tmp_path)
    columns = re.search(r'columns = "(.*)"  # named', README)[1]
    query = re.search(r'query = f"""(.*?)"""', README, re.DOTALL)[1].replace("{columns}", columns)
    assert sorted(duckdb.sql(query).fetchall()) == [(name, "completed", 0.5) for name in ("good", "odd")]
