"""Reading runs back: the parts, and what is not sealed yet, as one, of all ranks."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from run_files import descriptors
from unit.reader.writing import bits, line, put
from unit.spools import CORE, MEMORY, Late, Spool

from advlog_fast.exceptions import AdvlogError, RunNotFoundError
from advlog_fast.reader import read_run
from advlog_fast.store.paths import RunPaths

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ODD = (math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1)


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path, "exp")


class TestReadRun:
    def test_parts_of_all_ranks_and_attempts_in_order_with_late_metrics_as_columns(self, paths):
        other = RunPaths(paths.log_dir, "exp", 3)
        ids: dict[str, int] = {}
        first = Spool(ids=ids)
        second = Spool(ids=ids, first_seq=len(ODD))
        for value in ODD:
            first.add({"loss": value, "early": value}, epoch=1, batch=2, total_batches=3, step=4)
            second.add({"loss": value, "late": value})
        put(other, Spool(rank=3).add({"loss": 7.0, "late": 8.0}), 1, sealed=True)
        put(paths, Spool(attempt=2).add({"loss": 9.0, "third": 10.0}), 1, sealed=True)
        put(paths, first, 1, sealed=True)
        put(paths, second, 2, sealed=True)
        run = read_run(paths.log_dir, "exp", attempts="all")
        table = run.metrics
        # The first seal froze `late`; the other columns came in `extra`.
        assert table.column_names == [
            *("timestamp", "attempt", "rank", "worker", "seq", "epoch", "batch", "total_batches", "step"),
            *(*CORE, "late", "early", "third", "unresolved"),
        ]
        assert table.schema.field("attempt").type == pa.int32()
        keys = list(zip(*(table.column(name).to_pylist() for name in ("attempt", "rank", "seq")), strict=True))
        assert keys == [*((1, 0, seq) for seq in range(12)), (1, 3, 0), (2, 0, 0)]
        columns = table.to_pydict()
        assert list(map(bits, columns["early"][:6])) == list(map(bits, ODD))
        assert columns["early"][6:] == [None] * 8
        assert list(map(bits, columns["late"][6:12])) == list(map(bits, ODD))
        assert columns["late"][12:] == [8.0, None]
        assert columns["third"] == [None] * 13 + [10.0]
        assert columns["step"][0] == 4
        assert run.attempts == [1, 2]

    def test_a_run_being_written_shows_what_is_in_spools_too(self, paths):
        ids: dict[str, int] = {}
        put(paths, Spool(ids=ids).add({"loss": 0.0, "a": 1.0}), 1, sealed=True)
        put(paths, Spool(ids=ids, first_seq=1).add({"loss": 1.0, "late": Late(1), "a": 2.0}), 2, sealed=False)
        live = Spool(ids=ids, first_seq=2).add({"loss": 2.0, "late": math.inf}).add({"loss": 3.0})
        live.data = live.data[:-60]
        put(paths, live, 3, sealed=False)
        put(RunPaths(paths.log_dir, "exp", 2), Spool(rank=2, attempt=4).add({"z": 1.0}), 1, sealed=False)
        run = read_run(paths.log_dir, "exp", attempts="all")
        columns = run.metrics.to_pydict()
        assert columns["seq"] == [0, 1, 2, 0]
        assert columns["attempt"] == [1, 1, 1, 4]
        assert columns["rank"] == [0, 0, 0, 2]
        assert columns["loss"] == [0.0, 1.0, 2.0, None]
        assert columns["a"] == [1.0, 2.0, None, None]
        assert columns["late"] == [None, None, math.inf, None]
        assert columns["z"] == [None, None, None, 1.0]
        assert columns["unresolved"] == [None, [("late", "timeout")], None, None]
        assert run.attempts == [1, 4]
        assert paths.spool("metrics", 1, 2).exists()

    def test_a_batch_of_a_large_spool_does_not_overwrite_another(self, paths):
        spool = Spool()
        for index in range(70_000):
            spool.add({"loss": float(index)})
        put(paths, spool, 1, sealed=False)
        assert read_run(paths.log_dir, "exp").metrics.column("loss").to_pylist() == list(map(float, range(70_000)))

    def test_a_spool_whose_part_stands_is_not_counted_twice(self, paths):
        spool = Spool().add({"loss": 1.0}).add({"loss": 2.0})
        put(paths, spool, 1, sealed=True)
        put(paths, spool, 1, sealed=False)
        assert read_run(paths.log_dir, "exp").metrics.column("loss").to_pylist() == [1.0, 2.0]

    def test_records_that_stand_in_two_files_are_shown_once_and_in_order(self, paths):
        both = Spool(first_seq=1).add({"loss": 1.0}).add({"loss": 2.0})
        put(paths, both, 1, sealed=True)
        put(paths, Spool().add({"loss": 0.0}).add({"loss": 1.0}), 2, sealed=True)
        columns = read_run(paths.log_dir, "exp").metrics.to_pydict()
        assert (columns["seq"], columns["loss"]) == ([0, 1, 2], [0.0, 1.0, 2.0])

    def test_system_samples_are_wide_too(self, paths):
        put(paths, Spool("system").add({"rss": 1.0}, kind=MEMORY), 1, sealed=True)
        put(paths, Spool("system", first_seq=1).add({"batch_time": 2.0}), 2, sealed=True)
        put(paths, Spool("system", first_seq=2).add({"gpu": 3.0}, kind=MEMORY), 3, sealed=False)
        run = read_run(paths.log_dir, "exp")
        assert run.system.column_names == [
            *("timestamp", "attempt", "rank", "worker", "seq", "kind"),
            *("batch_time", "data_time", "rss", "gpu", "unresolved"),
        ]
        assert run.system.column("kind").to_pylist() == ["memory", "performance", "memory"]
        assert run.system.column("gpu").to_pylist() == [None, None, 3.0]
        assert run.metrics.num_rows == 0
        assert run.metrics.column_names[-7:] == [*CORE, "unresolved"]

    def test_without_parquet_the_lines_are_read(self, paths):
        paths.metrics_jsonl.write_text(
            line(
                0,
                epoch=1,
                step=1,
                loss=None,
                late=None,
                nonfinite={"loss": "nan"},
                unresolved={"late": "killed"},
            )
            + line(1, mine=2.5)
        )
        RunPaths(paths.log_dir, "exp", 12).metrics_jsonl.write_text(line(0, loss=0.5, rank=12, worker=3))
        table = read_run(paths.log_dir, "exp").metrics
        columns = table.to_pydict()
        assert columns["rank"] == [0, 0, 12]
        assert columns["worker"] == [0, 0, 3]
        assert math.isnan(columns["loss"][0])
        assert columns["loss"][1:] == [None, 0.5]
        assert columns["mine"] == [None, 2.5, None]
        assert columns["unresolved"] == [[("late", "killed")], None, None]
        assert table.schema.field("step").type == pa.int64()
        assert table.schema.field("timestamp").type == pa.timestamp("us", "UTC")

    def test_events_errors_and_the_summary(self, paths):
        paths.events_jsonl.write_text(
            line(3, event="epoch_end") + line(5, event="error", type="ValueError") + line(7, event="milestone")
        )
        RunPaths(paths.log_dir, "exp", 1).events_jsonl.write_text(line(4, event="late", rank=1, attempt=2))
        paths.summary.write_text('{"status": "completed", "loss_stats": {"mean": null}}\n')
        run = read_run(paths.log_dir, "exp")
        assert run.events["event"].to_pylist() == ["epoch_end", "error", "milestone", "late"]
        assert [json.loads(fields) for fields in run.events["fields"].to_pylist()] == [
            {},
            {"type": "ValueError"},
            {},
            {},
        ]
        assert run.errors.select(["attempt", "rank", "seq", "type", "message"]).to_pylist() == [
            {"attempt": 1, "rank": 0, "seq": 5, "type": "ValueError", "message": None}
        ]
        assert run.summary == {"status": "completed", "loss_stats": {"mean": None}}
        assert run.attempts == [1, 2]

    def test_a_run_of_one_file_answers_everything(self, paths):
        paths.summary.write_text("{}\n")
        run = read_run(paths.log_dir, "exp")
        assert run.events.num_rows == run.errors.num_rows == run.validation.num_rows == run.processes.num_rows == 0
        assert (run.summary, run.attempts, run.run_id) == ({}, [], None)
        assert run.step_times().num_rows == run.stragglers().num_rows == run.series("loss").num_rows == 0
        assert run.overview()["status"] == "unknown"
        assert run.metrics.num_rows == run.system.num_rows == 0
        assert list(run.scan()) == []

    def test_scan_gives_the_sealed_rows_in_order_with_the_columns_asked_for(self, paths):
        for part in range(1, 4):
            put(paths, Spool(attempt=2, first_seq=part).add({"loss": float(part)}), part, sealed=True)
        put(paths, Spool(attempt=10).add({"loss": 10.0}), 1, sealed=True)
        batches = list(read_run(paths.log_dir, "exp", attempts="all").scan(["attempt", "loss"]))
        table = pa.Table.from_batches(batches)
        assert table.to_pydict() == {"attempt": [2, 2, 2, 10], "loss": [1.0, 2.0, 3.0, 10.0]}

    def test_a_stream_a_column_a_metric_or_a_choice_of_attempts_that_there_is_not_is_an_error_at_once(self, paths):
        put(paths, Spool().add({"loss": 1.0, "mine": 2.0}), 1, sealed=True)
        run = read_run(paths.log_dir, "exp")
        with pytest.raises(ValueError, match="stream: expected 'metrics' or 'system', got str 'metric'"):
            run.scan(stream="metric")
        with pytest.raises(ValueError, match=r"columns: expected some of timestamp, .*mine, unresolved, got str 'min'"):
            run.scan(["step", "min"])
        for metric in ("min", "step", "rank", "timestamp", "seq", "unresolved", "extra"):
            for read in (run.series, run.step_times):
                with pytest.raises(ValueError, match=rf"metric: expected one of loss, .*mine, got str '{metric}'"):
                    read(metric)
        for call in (run.stragglers, run.overview):
            with pytest.raises(ValueError, match=r"ratio: expected a number above 1, got float 0\.5"):
                call(ratio=0.5)
        with pytest.raises(ValueError, match=r"reduce: expected 'mean' or .* or None, got str 'median'"):
            run.series("loss", reduce="median")
        with pytest.raises(ValueError, match="attempts: expected 'chain' or 'latest' or 'all', got str 'newest'"):
            read_run(paths.log_dir, "exp", attempts="newest")

    @pytest.mark.parametrize(
        ("reduce", "values"),
        [("mean", [2.0, math.nan, 5.0]), ("min", [1.0, math.nan, 5.0]), ("max", [3.0, math.nan, 5.0]),
         ("sum", [4.0, math.nan, 5.0]), ("std", [1.0, math.nan, 0.0])],
    )  # fmt: skip
    def test_a_series_is_reduced_over_the_ranks_and_shows_a_nan_whatever_the_reduction(self, paths, reduce, values):
        for rank, losses in ((0, (1.0, math.nan, 5.0)), (3, (3.0, 1.0))):
            spool = Spool(rank=rank)
            for step, loss in enumerate(losses, 1):
                spool.add({"loss": loss}, step=step)
            put(RunPaths(paths.log_dir, "exp", rank), spool, 1, sealed=True)
        found = read_run(paths.log_dir, "exp").series("loss", reduce)
        assert found.column_names == ["step", "loss", "count", "ranks", "of"]
        assert (found["ranks"].to_pylist(), found["of"].to_pylist()) == ([2, 2, 1], [2, 2, 2])
        assert (found["step"].to_pylist(), found["count"].to_pylist()) == ([1, 2, 3], [2, 2, 1])
        assert list(map(bits, found["loss"].to_pylist())) == list(map(bits, values))

    def test_a_series_that_is_not_reduced_has_a_row_a_rank(self, paths):
        for rank in (3, 0):
            spool = Spool(rank=rank).add({"loss": 1.0 + rank}, step=1).add({"loss": 2.0}).add({"accuracy": 1.0}, step=2)
            put(RunPaths(paths.log_dir, "exp", rank), spool, 1, sealed=True)
        found = read_run(paths.log_dir, "exp").series("loss", reduce=None)
        assert found.to_pydict() == {"step": [1, 1], "rank": [0, 3], "loss": [1.0, 4.0]}

    def test_a_time_is_found_although_the_first_part_has_none(self, paths):
        put(paths, Spool().add({"accuracy": 0.5}), 1, sealed=True)
        put(paths, Spool(first_seq=1).add({"batch_time": 2.0}, step=1), 2, sealed=True)
        assert read_run(paths.log_dir, "exp").step_times()["mean"].to_pylist() == [2.0]

    def test_the_time_of_loading_alone_is_not_that_of_a_step(self, paths):
        spool = Spool()
        for step in (1, 2):
            spool.add({"data_time": 0.25}, step=step, time_ns=step * 1_000_000_000)
        put(paths, spool, 1, sealed=True)
        run = read_run(paths.log_dir, "exp")
        assert run.step_times().select(["step", "mean"]).to_pydict() == {"step": [2], "mean": [1.0]}
        assert run.step_times("data_time")["mean"].to_pylist() == [0.25, 0.25]

    @pytest.mark.parametrize("columns", [None, ["seq", "late", "loss", "attempt"]])
    def test_scan_gives_late_metrics_as_columns_and_what_is_not_sealed_yet(self, paths, columns):
        ids: dict[str, int] = {}
        put(paths, Spool(ids=ids).add({"loss": 0.0}), 1, sealed=True)
        put(paths, Spool(ids=ids, first_seq=1).add({"loss": 1.0, "late": 2.0}), 2, sealed=True)
        put(paths, Spool(ids=ids, first_seq=2).add({"late": 3.0}), 3, sealed=False)
        run = read_run(paths.log_dir, "exp")
        table = pa.Table.from_batches(run.scan(columns))
        wanted = run.metrics if columns is None else run.metrics.select(columns)
        assert table.equals(wanted)
        assert table["late"].to_pylist() == [None, 2.0, 3.0]

    def test_runs_whose_names_begin_alike_stay_apart(self, paths):
        for name, value in (("exp", 1.0), ("exp_metrics", 2.0), ("exp2", 3.0)):
            put(RunPaths(paths.log_dir, name), Spool().add({"loss": value}), 1, sealed=True)
            RunPaths(paths.log_dir, name).events_jsonl.write_text(line(int(value), event=name))
        for name, value in (("exp", 1.0), ("exp_metrics", 2.0), ("exp2", 3.0)):
            run = read_run(paths.log_dir, name)
            assert run.metrics.column("loss").to_pylist() == [value]
            assert run.events["event"].to_pylist() == [name]

    def test_a_run_that_is_not_there_is_an_error_that_names_those_that_are(self, paths):
        put(RunPaths(paths.log_dir, "first"), Spool().add({"loss": 1.0}), 1, sealed=False)
        RunPaths(paths.log_dir, "second", 3).system_jsonl.write_text("")
        with pytest.raises(RunNotFoundError, match=r"got 'third'; its runs are first, second$") as caught:
            read_run(paths.log_dir, "third")
        assert isinstance(caught.value, FileNotFoundError)
        assert isinstance(caught.value, AdvlogError)

    def test_a_directory_without_runs_says_so(self, tmp_path):
        with pytest.raises(RunNotFoundError, match=r"got 'experiment'; it has no runs$"):
            read_run(tmp_path)

    def test_a_directory_that_is_not_there_is_named(self, tmp_path):
        (tmp_path / "file").write_text("")
        for name, why in (("nowhere", "does not exist"), ("file", "is no directory")):
            with pytest.raises(RunNotFoundError, match=rf"^log_dir: expected .*{name}', which {why}$"):
                read_run(tmp_path / name)

    def test_spools_that_cannot_all_be_read_leave_no_file_open(self, paths):
        for rank in range(8):  # in whatever order the folder has them
            put(RunPaths(paths.log_dir, "exp", rank), Spool(rank=rank).add({"loss": 1.0}), 1, sealed=False)
        paths.spool("metrics", 1, 1).unlink()
        paths.spool("metrics", 1, 1).mkdir()
        with pytest.raises(OSError, match="expected a regular file, got a directory") as caught:
            _ = read_run(paths.log_dir, "exp").metrics
        assert caught.tb is not None  # its frames would hold what was left open
        assert not [name for name in descriptors() if name.startswith(str(paths.log_dir)) and name.endswith(".spool")]

    def test_a_name_that_no_run_can_have_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="experiment_name: expected"):
            read_run(tmp_path, "../x")

    def test_a_corrupted_part_is_named(self, paths):
        spool = Spool()
        for index in range(1000):
            spool.add({"loss": index / 7})
        put(paths, spool, 1, sealed=True)
        part = paths.part("metrics", 1, 1)
        group = pq.read_metadata(part).row_group(0)
        (loss,) = (column for at in range(group.num_columns) if (column := group.column(at)).path_in_schema == "loss")
        data = bytearray(part.read_bytes())
        data[loss.data_page_offset + loss.total_compressed_size // 2] ^= 1
        part.write_bytes(data)
        with pytest.raises(OSError, match=r"rank00000-000001\.parquet: expected a whole Parquet part, got"):
            _ = read_run(paths.log_dir, "exp").metrics


DRIFT_PROOF: dict[str, Callable[[Path], list[float | None]]] = {}


def reads(reader: str) -> Callable[[Callable[[Path], list]], Callable[[Path], list]]:
    def keep(function: Callable[[Path], list]) -> Callable[[Path], list]:
        DRIFT_PROOF[reader] = function
        return function

    return keep


@reads("pandas")
def _pandas(folder: Path) -> list:
    import pandas as pd

    frame = pd.read_parquet(folder)
    return [dict(extra or ()).get("late") for extra in frame["extra"]]


@reads("pyarrow")
def _pyarrow(folder: Path) -> list:
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    table = ds.dataset(folder, partitioning="hive").to_table()
    return pc.map_lookup(table["extra"], "late", "first").to_pylist()


@reads("duckdb")
def _duckdb(folder: Path) -> list:
    import duckdb

    with duckdb.connect() as connection:
        query = f"SELECT extra['late'] FROM '{folder}/*/*.parquet' ORDER BY attempt, rank, seq"
        found = [row[0] for row in connection.sql(query).fetchall()]
    # DuckDB before 1.3 gives a list of at most one value.
    return [(value or [None])[0] if isinstance(value, list) else value for value in found]


@reads("polars")
def _polars(folder: Path) -> list:
    import polars as pl

    frame = pl.scan_parquet(folder).sort("attempt", "rank", "seq").collect()
    found = []
    for extra in frame["extra"].to_arrow().to_pylist():
        # Polars before it had maps reads them as lists of {"key", "value"}.
        pairs = (entry.values() if isinstance(entry, dict) else entry for entry in extra or ())
        found.append(dict(pairs).get("late"))
    return found


@pytest.mark.parametrize("reader", sorted(DRIFT_PROOF))
def test_one_call_of_each_reader_finds_a_metric_born_in_the_second_part(paths, reader):
    pytest.importorskip(reader)
    ids: dict[str, int] = {}
    put(paths, Spool(ids=ids).add({"loss": 1.0, "early": 1.0}), 1, sealed=True)
    second = Spool(ids=ids, first_seq=1)
    for value in ODD:
        second.add({"loss": 1.0, "late": value})
    put(paths, second, 2, sealed=True)
    put(paths, Spool(attempt=2).add({"late": 4.0}), 1, sealed=True)
    first, *late = DRIFT_PROOF[reader](paths.metrics_parquet)
    assert first is None
    assert [bits(value) for value in late] == [bits(value) for value in (*ODD, 4.0)]


def test_importing_the_reader_imports_no_pyarrow():
    code = "import sys, advlog_fast.reader; print([m for m in ('pyarrow', 'torch') if m in sys.modules])"
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment)
    assert (done.stdout, done.stderr) == ("[]\n", "")
