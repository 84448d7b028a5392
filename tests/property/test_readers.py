"""Random runs against a model in plain Python: every reader, the summary, the commands and the readers of others tell
the same of ranks, attempts, kills, resumes, late metrics, values that are not finite, steps that go back, children."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from advlog_fast import follow, list_runs, read_jsonl, read_run
from advlog_fast.cli import main
from advlog_fast.recovery import recover

from .random_run import Model, Row, expected, plan

HERE = Path(__file__).parent


def bits(value):
    return None if value is None else struct.pack("<d", value)


def launch_all(folder, seed):
    """Makes the run; recovers what is killed last."""
    for number, launch in enumerate(plan(seed)):
        command = [sys.executable, str(HERE / "random_run.py"), str(folder), str(seed), str(number)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == (-9 if launch.ends == "killed" else 0), done.stderr
    recover(folder / "logs")


def key(row: Row):
    return row.attempt, row.rank, row.seq


def check_tables(folder, model: Model):
    for attempts, unsorted in (("all", model.rows), ("chain", model.chain())):
        table = read_run(folder, "run", attempts=attempts).metrics
        found = table.to_pylist()
        rows = sorted(unsorted, key=key)
        assert [(row["attempt"], row["rank"], row["seq"]) for row in found] == [key(row) for row in rows]
        for row, wanted in zip(found, rows, strict=True):
            assert (row["step"], row["worker"] > 0) == (wanted.step, wanted.worker > 0)
            told = {name: row.get(name) for name in {*row, *wanted.values} if isinstance(row.get(name), float)}
            assert {name: bits(value) for name, value in told.items()} == {
                name: bits(value) for name, value in wanted.values.items()
            }


def mean(values):
    if any(map(math.isnan, values)):
        return math.nan
    if math.inf in values and -math.inf in values:
        return math.nan
    infinite = [value for value in values if math.isinf(value)]
    return infinite[0] if infinite else statistics.fmean(value / len(values) for value in values) * len(values)


def same(found, wanted, values):
    if found is None or wanted is None or math.isnan(wanted) or math.isinf(wanted):
        return str(found) == str(wanted)
    # What cancels is as exact as the largest of them.
    return found == pytest.approx(wanted, rel=1e-9, abs=max(1e-300, 1e-12 * max(map(abs, values))))


def check_series(folder, model: Model):
    run = read_run(folder, "run")
    rows = model.chain()
    for name in sorted({name for row in rows for name in row.values}):
        mine = [row for row in rows if name in row.values and row.step is not None]
        if not mine:
            continue
        of = {
            attempt: len({row.rank for row in model.rows if row.attempt == attempt and name in row.values})
            for attempt in {row.attempt for row in rows}
        }
        table = run.series(name).to_pylist()
        assert [row["step"] for row in table] == sorted({row.step for row in mine})
        for told in table:
            here = [row for row in mine if row.step == told["step"]]
            by_rank = {rank: [row.values[name] for row in here if row.rank == rank] for rank in {r.rank for r in here}}
            wanted = mean([mean(values) for values in by_rank.values()])
            assert same(told[name], wanted, [row.values[name] for row in here]), (name, told)
            assert (told["count"], told["ranks"]) == (len(here), len(by_rank))
            assert told["of"] == max(of[row.attempt] for row in here)


def check_by_step(folder, model: Model):
    table = read_run(folder, "run", attempts="all").by_step()
    wanted = []
    processes = {(row.attempt, row.rank, row.worker) for row in model.rows}
    for process in sorted(processes):
        number, last = 1, None
        for row in (row for row in model.rows if (row.attempt, row.rank, row.worker) == process):
            if row.step is None:
                continue
            if last is not None and row.step < last:
                number += 1
            if wanted and wanted[-1][0] == (*process, number, row.step):
                wanted[-1][1] += 1
                wanted[-1][2].update(row.values)
            else:
                wanted.append([(*process, number, row.step), 1, dict(row.values)])
            last = row.step
    found = table.to_pylist()
    keys = ("attempt", "rank", "worker", "pass", "step")
    wanted.sort(key=lambda each: each[0])
    assert [tuple(row[name] for name in keys) for row in found] == [each[0] for each in wanted]
    for row, (_, records, values) in zip(found, wanted, strict=True):
        assert row["records"] == records
        assert {name: bits(row[name]) for name in values} == {name: bits(value) for name, value in values.items()}
    assert int(table.schema.metadata[b"rows_without_step"]) == sum(row.step is None for row in model.rows)


def check_step_times(folder, model: Model):
    rows = [row for row in model.chain() if row.worker == 0 and row.step is not None and "batch_time" in row.values]
    newest = [row for row in rows if row.attempt == max((each.attempt for each in model.chain()), default=0)]
    pairs = itertools.pairwise(sorted(rows, key=key))
    goes_back = any(each.step < one.step for one, each in pairs if key(one)[:2] == key(each)[:2])
    if not newest or goes_back:
        return
    table = read_run(folder, "run").step_times("batch_time").to_pylist()
    for told in table:
        here = [row for row in rows if (row.attempt, row.step) == (told["attempt"], told["step"])]
        by_rank = {rank: math.fsum(row.values["batch_time"] for row in here if row.rank == rank)
                   for rank in {row.rank for row in here}}  # fmt: skip
        assert told["ranks"] <= len(by_rank)
        if told["ranks"] == len(by_rank):
            assert told["min"] == pytest.approx(min(by_rank.values()))
            assert told["max"] == pytest.approx(max(by_rank.values()))
            assert told["mean"] == pytest.approx(statistics.fmean(by_rank.values()))
            assert by_rank[told["slowest"]] == pytest.approx(told["max"])


def check_summary(folder, model: Model):
    newest = len(model.ends)
    summary = json.loads((folder / "run_summary.json").read_text())
    mine = model.rows_of(newest, 0)
    assert (summary["attempt"], summary["status"]) == (newest, model.ends[-1])
    assert summary["total_metrics"] == len(mine)
    for name in {name for row in mine for name in row.values}:
        values = [row.values[name] for row in mine if name in row.values]
        finite = [value for value in values if math.isfinite(value)]
        told = summary["metrics"][name]
        assert told["count"] == len(finite)
        assert (told["nan"], told["posinf"], told["neginf"]) == (
            sum(map(math.isnan, values)), values.count(math.inf), values.count(-math.inf),
        )  # fmt: skip
        if finite:
            assert (told["min"], told["max"]) == (min(finite), max(finite))
            if max(map(abs, finite)) < 1e300:
                scale = max(map(abs, finite)) or 1.0
                assert told["mean"] == pytest.approx(statistics.fmean(finite), rel=1e-9, abs=1e-12 * scale)
        bad = [row for row in mine if name in row.values and not math.isfinite(row.values[name])]
        first = told["first_nonfinite"]
        assert (first and first["seq"]) == (bad[0].seq if bad else None)
        last = values[-1]
        assert summary["last"][name] == (last if math.isfinite(last) else None)
    steps = [row.step for row in mine if row.step is not None and row.worker == 0]
    if steps:
        assert summary["last"]["step"] == steps[-1]
    validations = [metrics for attempt, _, metrics in model.validations if attempt == newest]
    assert summary["validations"] == len(validations)
    best = min((metrics["val/loss"] for metrics in model.validations_until(newest)), default=None)
    assert (summary["best"] and summary["best"]["value"]) == best


def check_processes(folder, model: Model):
    run = read_run(folder, "run", attempts="all")
    wanted = [
        (attempt, rank, status, len(model.rows_of(attempt, rank)))
        for attempt, (status, ranks) in enumerate(zip(model.ends, model.ranks, strict=True), 1)
        for rank in range(ranks)
    ]
    names = ("attempt", "rank", "status", "records")
    assert [tuple(row[name] for name in names) for row in run.processes.to_pylist()] == wanted
    (listed,) = list_runs(folder).to_pylist()
    assert (listed["status"], listed["attempts"]) == (model.ends[-1], len(model.ends))
    newest = len(model.ends)
    cuts = model.shown()
    if newest in cuts:
        assert listed["records"] == len(model.chain())
    assert run.validation.num_rows == len(model.validations)


def check_followed(folder, model: Model):
    rows, cuts = [], {}
    for item in follow(folder, "run"):
        assert item.gap is None
        if item.rows is not None:
            names = ("attempt", "rank", "seq")
            rows += zip(*(item.rows[name].to_pylist() for name in names), strict=True)
        if item.cut is not None:
            cuts[item.cut[:2]] = min(item.cut[2], cuts.get(item.cut[:2], item.cut[2]))
    assert sorted(rows) == sorted(key(row) for row in model.rows)
    chain = model.shown()
    kept = [row for row in rows if row[2] <= cuts.get(row[:2], row[2]) and row[0] in chain]
    if all(attempt in {row.attempt for row in model.rows} for attempt in chain):
        assert sorted(kept) == sorted(key(row) for row in model.chain())


def check_others(folder, model: Model, seed: int):
    launches = plan(seed)
    for attempt, launch in enumerate(launches, 1):
        if launch.options["jsonl"]:
            files = [folder / f"run_metrics{f'.rank{rank:05d}' if rank else ''}.jsonl" for rank in range(launch.ranks)]
            lines = [row for file in files if file.exists() for row in read_jsonl(file) if row["attempt"] == attempt]
            wanted = sorted(key(row) for row in model.rows if row.attempt == attempt)
            assert sorted((row["attempt"], row["rank"], row["seq"]) for row in lines) == wanted
    stored = [row for row in model.rows if launches[row.attempt - 1].options["parquet"]]
    if not stored:
        return
    dataset = folder / "run_metrics.parquet"
    duckdb, pandas, polars = (pytest.importorskip(name) for name in ("duckdb", "pandas", "polars"))
    query = f"SELECT attempt, rank, seq FROM read_parquet('{dataset}/*/*.parquet', hive_partitioning = false)"
    columns = ["attempt", "rank", "seq"]
    wanted = sorted(key(row) for row in stored)
    assert sorted(duckdb.sql(query).fetchall()) == wanted
    assert sorted(pandas.read_parquet(dataset)[columns].itertuples(index=False, name=None)) == wanted
    assert sorted(polars.scan_parquet(dataset).select(columns).collect().rows()) == wanted


def check(folder, seed):
    """Everything, and again once the run is compact."""
    model = expected(seed)
    logs = folder / "logs"
    for _ in range(2):
        check_tables(logs, model)
        check_series(logs, model)
        check_by_step(logs, model)
        check_step_times(logs, model)
        check_summary(logs, model)
        check_processes(logs, model)
        check_followed(logs, model)
        check_others(logs, model, seed)
        for command in (["verify", str(logs)], ["show", str(logs), "run"], ["ls", str(logs)]):
            assert main(command) == 0, command
        assert main(["compact", str(logs)]) == 0


@pytest.mark.parametrize("seed", range(10))
def test_every_reader_tells_what_the_model_knows(tmp_path, seed):
    launch_all(tmp_path, seed)
    check(tmp_path, seed)


@pytest.mark.stress
def test_every_reader_tells_what_the_model_knows_for_an_hour(tmp_path):
    """`ADVLOG_SECONDS` is another time, `ADVLOG_SEED` the first seed."""
    end = time.monotonic() + float(os.environ.get("ADVLOG_SECONDS", "3600"))
    seed = int(os.environ.get("ADVLOG_SEED", str(random.randrange(1 << 30))))
    runs = 0
    while time.monotonic() < end:
        folder = tmp_path / str(seed)
        folder.mkdir()
        print(f"seed {seed}", flush=True)
        launch_all(folder, seed)
        check(folder, seed)
        seed += 1
        runs += 1
    print(f"{runs} runs")
