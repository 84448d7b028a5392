"""Datasets made anew: what every reader finds afterwards, and what is refused. The kills are in tests/stress."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from unit.spools import CORE, MEMORY, RUN_ID, Late, Spool

from advlog_fast import AdvancedLogger, RunBusyError, RunNotFoundError, read_run
from advlog_fast.cli import main
from advlog_fast.compaction import compact
from advlog_fast.compaction.dataset import Dataset
from advlog_fast.compaction.files import FILE_ROWS, Part, grouped
from advlog_fast.engine.ring import ring_name
from advlog_fast.parquet.parts import seal_spool
from advlog_fast.records import MAX_COLUMNS
from advlog_fast.store.paths import RunPaths
from advlog_fast.store.ring_note import RingNote
from advlog_fast.verification import verify

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402

ODD = (math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1)
KEYS = ("attempt", "rank", "seq")
WIDE = ("early", "late", "third")


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path, "exp")


def seal(paths: RunPaths, spool: Spool, part: int = 1) -> Path:
    of_rank = dataclasses.replace(paths, rank=spool.rank)
    path = spool.write(of_rank.spool(spool.stream, spool.attempt, part))
    sealed = seal_spool(path, of_rank, part, declared=())
    assert sealed is not None
    assert sealed.path is not None
    return sealed.path


def seal_run(paths: RunPaths) -> None:
    """Two ranks, two attempts, ten parts; `late` and `third` came after the first part, which froze `early`."""
    for rank in (0, 3):
        ids: dict[str, int] = {}
        for part in range(1, 5):
            spool = Spool(ids=ids, rank=rank, first_seq=1 + (part - 1) * (len(ODD) + 1))
            for number, value in enumerate(ODD):
                late = {"late": value} if part > 1 and number != part else {}
                spool.add({"loss": value, "early": value, **late}, epoch=part, batch=number, worker=part % 2)
            spool.add({"loss": Late(1), **({"late": Late(2)} if part > 1 else {})})
            seal(paths, spool, part)
    seal(paths, Spool(attempt=2, first_seq=1).add({"third": 1.0, "late": 2.0}), 1)
    seal(paths, Spool(attempt=2, first_seq=2).add({"loss": 3.0}), 2)
    seal(paths, Spool("system", first_seq=1).add({"rss": 1.0}, kind=MEMORY), 1)
    seal(paths, Spool("system", first_seq=2).add({"gpu": 2.0}, kind=MEMORY).add({"batch_time": 3.0}), 2)


def contents(paths: RunPaths, stream: str = "metrics") -> dict[str, list]:
    """Every column in order, floats by their bits."""
    table = getattr(read_run(paths.log_dir, paths.name, attempts="all"), stream)
    found = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        found[name] = (column.view(pa.int64()) if column.type == pa.float64() else column).to_pylist()
    return found


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def state(paths: RunPaths) -> dict[str, bytes]:
    """All files but those that only say who holds a lock."""
    return {name: data for name, data in files_of(paths.log_dir).items() if not name.endswith(".lock")}


def names_in(paths: RunPaths, stream: str = "metrics") -> list[str]:
    return sorted(files_of(paths.dataset(stream)))


def test_order_and_values_stay_to_the_bit_and_every_metric_is_a_column(paths):
    seal_run(paths)
    before, samples = contents(paths), contents(paths, "system")
    bytes_before = sum(map(len, files_of(paths.metrics_parquet).values()))
    metrics, system = compact(paths.log_dir, "exp")
    assert names_in(paths) == [
        *("attempt-1/rank00000-000001.parquet", "attempt-1/rank00003-000001.parquet"),
        "attempt-2/rank00000-000001.parquet",
    ]
    assert (contents(paths), contents(paths, "system")) == (before, samples)
    for file in files_of(paths.metrics_parquet):
        part = pq.ParquetFile(paths.metrics_parquet / file)
        assert part.schema_arrow.names[-5:] == [*WIDE, "extra", "unresolved"]
        assert part.read()["extra"].null_count == part.metadata.num_rows
    assert json.loads(paths.schema("metrics").read_text()) == {"columns": list(WIDE)}
    assert json.loads(paths.schema("system").read_text()) == {"columns": ["rss", "gpu"]}
    assert (metrics.stream, metrics.rows, metrics.files_before, metrics.files_after) == ("metrics", 58, 10, 3)
    assert (metrics.changed, metrics.complete, metrics.bytes_before) == (True, True, bytes_before)
    assert metrics.bytes_after == sum(map(len, files_of(paths.metrics_parquet).values()))
    assert (system.stream, system.rows, system.files_before, system.files_after) == ("system", 3, 2, 1)
    assert list(paths.compaction.iterdir()) == []
    assert list(paths.temporary.iterdir()) == []


def test_a_merged_file_says_whose_it_is_and_which_parts_it_holds(paths):
    seal_run(paths)
    first = pq.read_metadata(RunPaths(paths.log_dir, "exp", 3).part("metrics", 1, 1)).metadata
    compact(paths.log_dir)
    found = pq.read_metadata(RunPaths(paths.log_dir, "exp", 3).part("metrics", 1, 1)).metadata
    told = {key.decode(): value for key, value in found.items() if key.startswith(b"advlog.")}
    assert told == {
        "advlog.run_id": RUN_ID.hex().encode(),
        "advlog.attempt": b"1",
        "advlog.rank": b"3",
        "advlog.first_seq": b"1",
        "advlog.records": b"28",
        "advlog.layout_version": first[b"advlog.layout_version"],
        "advlog.parts": b"[1, 2, 3, 4]",
    }


def test_a_dataset_that_is_compact_is_left_alone(paths, capsys):
    seal_run(paths)
    assert main(["compact", str(paths.log_dir)]) == 0
    first = capsys.readouterr().out.splitlines()
    assert first[0].startswith("exp metrics: 58 rows in 3 files, from 10 files; ")
    assert first[1].startswith("exp system: 3 rows in 1 file, from 2 files; ")
    before = {p: p.stat().st_mtime_ns for p in paths.log_dir.rglob("*.parquet")}
    assert [done.changed for done in compact(paths.log_dir)] == [False, False]
    assert main(["compact", str(paths.log_dir), "--name", "exp"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "exp metrics: 58 rows in 3 files, compact already",
        "exp system: 3 rows in 1 file, compact already",
    ]
    assert {p: p.stat().st_mtime_ns for p in paths.log_dir.rglob("*.parquet")} == before


def test_a_compact_dataset_takes_the_parts_of_later_attempts(paths):
    seal_run(paths)
    compact(paths.log_dir)
    seal(paths, Spool(attempt=3, first_seq=1).add({"third": 5.0, "fourth": 6.0}), 1)
    seal(paths, Spool(attempt=3, first_seq=2).add({"loss": 7.0}), 2)
    before = contents(paths)
    metrics, system = compact(paths.log_dir)
    assert (metrics.files_before, metrics.files_after, system.changed) == (5, 4, False)
    assert contents(paths) == before
    assert json.loads(paths.schema("metrics").read_text()) == {"columns": [*WIDE, "fourth"]}
    held = pq.read_metadata(paths.part("metrics", 1, 1)).metadata[b"advlog.parts"]
    assert held == b"[1, 2, 3, 4]"


# -- every reader's plain call ---------------------------------------------------------------------------------------

READERS: dict[str, Callable[[Path], tuple[list[str], list]]] = {}


def reads(reader: str) -> Callable[[Callable[[Path], tuple[list[str], list]]], None]:
    def keep(function: Callable[[Path], tuple[list[str], list]]) -> None:
        READERS[reader] = function

    return keep


@reads("pandas")
def _pandas(folder: Path) -> tuple[list[str], list]:
    import pandas as pd

    frame = pd.read_parquet(folder).sort_values(["attempt", "rank", "seq"])
    return list(frame.columns), frame["late"].tolist()


@reads("pyarrow")
def _pyarrow(folder: Path) -> tuple[list[str], list]:
    rows = sorted(pq.read_table(folder).to_pylist(), key=lambda row: [row[key] for key in KEYS])
    return list(rows[0]), [row["late"] for row in rows]


@reads("duckdb")
def _duckdb(folder: Path) -> tuple[list[str], list]:
    import duckdb

    with duckdb.connect() as connection:
        found = connection.sql(f"SELECT * FROM '{folder}/*/*.parquet' ORDER BY attempt, rank, seq")
        at = found.columns.index("late")
        return found.columns, [row[at] for row in found.fetchall()]


@reads("polars")
def _polars(folder: Path) -> tuple[list[str], list]:
    import polars as pl

    frame = pl.read_parquet(folder).sort("attempt", "rank", "seq")
    return frame.columns, frame["late"].to_list()


@pytest.mark.parametrize("reader", sorted(READERS))
def test_one_call_of_each_reader_finds_every_metric_as_a_column(paths, reader):
    pytest.importorskip(reader)
    seal_run(paths)
    want = read_run(paths.log_dir, "exp", attempts="all").metrics["late"].to_pylist()
    compact(paths.log_dir)
    seal(paths, Spool(attempt=3, first_seq=1).add({"late": 5.0}), 1)
    columns, late = READERS[reader](paths.metrics_parquet)
    assert set(columns) >= {*WIDE, *CORE, *KEYS}

    def plain(values: list) -> list:
        return [None if value is None or math.isnan(value) else value for value in values]  # pandas has no null

    assert plain(late) == plain([*want, 5.0])


# -- runs of loggers -------------------------------------------------------------------------------------------------


def log(folder: Path, records: int, **metrics: float) -> None:
    with AdvancedLogger(folder, "run", console="off", part_rows=100, memory_interval_s=0, max_log_files=1000) as logger:
        for batch in range(1, records + 1):
            late = metrics if batch > 150 else {}
            logger.log_batch_progress(1, batch, None, 1.0 / batch, **late)
        logger.flush()


def test_a_later_attempt_writes_parts_with_the_same_columns(tmp_path):
    log(tmp_path, 400, late=1.5)
    assert verify(tmp_path) == []
    compact(tmp_path)
    assert verify(tmp_path) == []
    log(tmp_path, 250, late=2.5, later=3.5)
    found = {tuple(pq.read_schema(path).names) for path in tmp_path.glob("run_metrics.parquet/*/*.parquet")}
    assert len(found) == 1
    assert "late" in found.pop()
    assert verify(tmp_path) == []
    columns = read_run(tmp_path, "run", attempts="all").metrics.to_pydict()
    assert columns["late"] == [None] * 150 + [1.5] * 250 + [None] * 150 + [2.5] * 100
    assert columns["later"] == [None] * 550 + [3.5] * 100
    assert [done.complete for done in compact(tmp_path)] == [True]
    assert read_run(tmp_path, "run", attempts="all").metrics.to_pydict() == columns


DIES = """
import os, sys
from advlog_fast import AdvancedLogger
log = AdvancedLogger(sys.argv[1], "run", console="off", memory_interval_s=0, ring_dir=sys.argv[2], part_rows=100)
for batch in range(1, 451):
    late = {"late": float(batch)} if batch > 150 else {}
    log.log_batch_progress(1, batch, 500, 1.0 / batch, **late)
    if batch == 400:
        log.flush()
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_run_left_is_recovered_first(tmp_path):
    folder = tmp_path / "logs"
    command = [sys.executable, "-c", DIES, str(folder), str(tmp_path / "rings")]
    assert subprocess.run(command, capture_output=True, timeout=180).returncode == -9
    paths = RunPaths(folder, "run")
    assert list(paths.rings.iterdir())
    (done,) = compact(folder)
    assert (done.rows, done.files_after, done.complete) == (450, 1, True)
    assert list(paths.rings.iterdir()) == []
    assert list(paths.spools.iterdir()) == []
    assert [f for f in verify(folder) if not f.explained] == []
    table = pq.read_table(paths.part("metrics", 1, 1))
    assert table["batch"].to_pylist() == list(range(1, 451))
    assert table["late"].to_pylist() == [None] * 150 + [float(batch) for batch in range(151, 451)]


def test_a_run_that_is_logged_is_refused_and_nothing_of_it_changed(tmp_path, capsys):
    log(tmp_path, 300, late=1.0)
    with AdvancedLogger(tmp_path, "run", console="off", memory_interval_s=0) as live:
        live.flush()
        before = files_of(tmp_path / "run_metrics.parquet")
        with pytest.raises(RunBusyError, match=r"rank 0 of 'run' in .* is being logged by this process"):
            compact(tmp_path)
        command = [sys.executable, "-m", "advlog_fast", "compact", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"is being logged by another live process: pid {os.getpid()}" in done.stderr
        assert files_of(tmp_path / "run_metrics.parquet") == before
        assert not (tmp_path / ".advlog/run/compact").exists()
    assert main(["compact", str(tmp_path)]) == 0
    assert "run metrics: 300 rows in 1 file" in capsys.readouterr().out


HOLDS = """
import sys, time
from pathlib import Path
from advlog_fast.store.locks import COMPACTING, FileLock
lock = FileLock(Path(sys.argv[1]), COMPACTING)
print("held", flush=True)
time.sleep(1)
"""


def test_a_start_waits_for_a_compaction_that_another_process_is_at(tmp_path):
    log(tmp_path, 10)
    command = [sys.executable, "-c", HOLDS, str(RunPaths(tmp_path, "run").lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with AdvancedLogger(tmp_path, "run", console="off") as logger:
            assert logger.attempt == 2


# -- refused ---------------------------------------------------------------------------------------------------------


def test_a_damaged_part_is_refused_by_name_and_nothing_changed(paths, capsys):
    seal_run(paths)
    bad = RunPaths(paths.log_dir, "exp", 3).part("metrics", 1, 4)
    whole = bad.read_bytes()
    chunk = pq.read_metadata(bad).row_group(0).column(9)
    last = chunk.data_page_offset + chunk.total_compressed_size - 1
    for damaged in (whole[:-20], whole[:last] + bytes([whole[last] ^ 1]) + whole[last + 1 :]):
        bad.write_bytes(damaged)
        before = state(paths)
        with pytest.raises(OSError, match=r"rank00003-000004\.parquet: expected a whole Parquet part"):
            compact(paths.log_dir)
        assert state(paths) == before
        assert not list(paths.compaction.glob("*"))
    assert main(["compact", str(paths.log_dir)]) == 1
    assert "rank00003-000004.parquet" in capsys.readouterr().err
    bad.write_bytes(whole)
    assert compact(paths.log_dir)[0].complete


FULL_DISK = """
import resource, sys
from advlog_fast.compaction import compact
resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, resource.RLIM_INFINITY))
try:
    compact(sys.argv[1])
except OSError as error:
    print("raised", error.errno)
# Whoever measures this process has files of its own to write at its end.
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


def test_a_full_disk_changes_nothing_and_leaves_nothing(paths, run_python):
    seal_run(paths)
    before = state(paths)
    done = run_python("-c", FULL_DISK, paths.log_dir)
    assert (done.stdout, done.stderr) == ("raised 27\n", "")
    assert state(paths) == before
    assert compact(paths.log_dir)[0].complete


def test_a_dataset_that_is_a_symbolic_link_is_refused(paths, tmp_path_factory):
    seal_run(paths)
    elsewhere = tmp_path_factory.mktemp("disk") / "moved"
    paths.metrics_parquet.rename(elsewhere)
    paths.metrics_parquet.symlink_to(elsewhere)
    with pytest.raises(OSError, match="expected a folder, which can be exchanged for another, got a symbolic link"):
        compact(paths.log_dir)
    assert len(files_of(elsewhere)) == 10


def test_no_such_run_is_status_2_and_a_run_without_parquet_is_nothing_to_do(tmp_path, capsys):
    with pytest.raises(RunNotFoundError):
        compact(tmp_path / "nowhere")
    assert main(["compact", str(tmp_path / "nowhere")]) == 2
    AdvancedLogger(tmp_path, "there", console="off", parquet=False).close()
    assert main(["compact", str(tmp_path), "--name", "typo"]) == 2
    assert "its runs are there" in capsys.readouterr().err
    assert main(["compact", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "nothing to compact\n"


def test_a_refused_run_holds_back_no_other(paths, capsys):
    seal_run(paths)
    with AdvancedLogger(paths.log_dir, "busy", console="off"):
        assert main(["compact", str(paths.log_dir)]) == 1
    told = capsys.readouterr()
    assert "rank 0 of 'busy'" in told.err
    assert told.out.startswith("exp metrics: 58 rows in 3 files")


# -- what is still to come -------------------------------------------------------------------------------------------


def test_parts_whose_ring_lies_elsewhere_are_flattened_one_by_one_and_known_again(paths, capsys):
    seal_run(paths)
    note = RingNote(f"/nowhere/{ring_name(RUN_ID.hex(), 1, 3)}", "elsewhere", "aa" * 16, RUN_ID.hex(), {})
    note.write(RunPaths(paths.log_dir, "exp", 3).ring_note(1))
    before = contents(paths)
    assert main(["compact", str(paths.log_dir)]) == 1
    assert "attempts not recovered yet, and not merged: 1" in capsys.readouterr().out
    assert names_in(paths) == [
        "attempt-1/rank00000-000001.parquet",
        *(f"attempt-1/rank00003-00000{part}.parquet" for part in range(1, 5)),
        "attempt-2/rank00000-000001.parquet",
    ]
    assert contents(paths) == before
    # Its recovery finds the parts that stand: a spool that was sealed goes, and is not sealed twice.
    again = Spool(rank=3, first_seq=22)
    for _ in range(7):
        again.add({"loss": 1.0})
    seal(paths, again, 4)
    seal(paths, Spool(rank=3, first_seq=29).add({"third": 1.0}), 5)
    assert contents(paths)["seq"][:56] == before["seq"][:56]
    assert len(contents(paths)["seq"]) == 59
    RunPaths(paths.log_dir, "exp", 3).ring_note(1).unlink()
    metrics, _ = compact(paths.log_dir)
    assert (metrics.files_before, metrics.files_after, metrics.complete) == (7, 3, True)
    assert len(contents(paths)["seq"]) == 59


def test_a_spool_that_could_not_be_sealed_keeps_its_attempt_apart(paths):
    seal_run(paths)
    stuck = Spool(rank=3, first_seq=1, run_id=bytes(16)).add({"loss": 1.0})
    path = stuck.write(RunPaths(paths.log_dir, "exp", 3).spool("metrics", 1, 2))
    metrics, _ = compact(paths.log_dir)
    assert (metrics.apart, metrics.files_after, metrics.complete) == (1, 6, False)
    assert path.exists()


class LateDataset(Dataset):
    """A rank that nobody knew of seals a part when the new dataset is complete, just before the exchange."""

    def _swap(self) -> None:
        seal(self._paths, Spool(attempt=3, rank=9, first_seq=1).add({"loss": 9.0, "late": 9.5}), 1)
        super()._swap()


def test_a_part_that_was_sealed_meanwhile_is_not_lost(paths):
    seal_run(paths)
    before = contents(paths)
    done = LateDataset(paths, "metrics", frozenset((0, 3))).compact()
    assert (done.late, done.complete, done.files_after) == (1, False, 4)
    assert "parts sealed meanwhile: 1; run the compaction again" in str(done)
    after = contents(paths)
    assert (after["rank"][-1], after["seq"][-1]) == (9, 1)
    assert {name: column[:-1] for name, column in after.items()} == before
    metrics, _ = compact(paths.log_dir)
    assert (metrics.changed, metrics.complete) == (True, True)
    assert contents(paths) == after
    assert pq.read_table(paths.metrics_parquet)["extra"].null_count == 59


def test_a_rank_whose_lock_is_not_held_is_not_merged(paths):
    seal_run(paths)
    done = Dataset(paths, "metrics", frozenset((0,))).compact()
    assert (done.apart, done.files_after) == (1, 6)


def test_a_file_of_somebody_elses_stays(paths):
    seal_run(paths)
    (paths.metrics_parquet / ".directory").write_text("[Desktop]")
    (paths.metrics_parquet / "attempt-1" / "_notes").write_text("mine")
    compact(paths.log_dir)
    files = files_of(paths.metrics_parquet)
    assert (files[".directory"], files["attempt-1/_notes"]) == (b"[Desktop]", b"mine")
    assert len(files) == 5


def test_where_two_names_cannot_be_exchanged_the_dataset_is_renamed_away_and_in(paths, monkeypatch):
    seal_run(paths)
    before = contents(paths)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())  # a C library that has no such call
    assert [done.complete for done in compact(paths.log_dir)] == [True, True]
    assert contents(paths) == before
    assert len(names_in(paths)) == 3
    assert list(paths.compaction.iterdir()) == []


def test_a_dataset_that_a_kill_left_away_comes_home_although_an_attempt_made_the_folder_anew(paths):
    seal_run(paths)
    paths.compaction.mkdir()
    paths.metrics_parquet.rename(paths.compaction / "metrics-old")
    shutil.copytree(paths.compaction / "metrics-old", paths.compaction / "metrics")  # complete, and never to be used
    seal(paths, Spool(attempt=3, first_seq=1).add({"loss": 5.0}), 1)
    metrics, _ = compact(paths.log_dir)
    assert (metrics.rows, metrics.files_before, metrics.files_after, metrics.complete) == (59, 11, 4, True)
    assert len(contents(paths)["seq"]) == 59
    assert list(paths.compaction.iterdir()) == []


def test_a_damaged_frozen_schema_is_made_again_from_the_parts(paths):
    seal_run(paths)
    paths.schema("metrics").write_text('["ear')
    compact(paths.log_dir)
    assert json.loads(paths.schema("metrics").read_text()) == {"columns": list(WIDE)}


def test_no_more_columns_are_frozen_than_a_sealer_can_make(paths):
    names = [f"m{n:04d}" for n in range(MAX_COLUMNS + 50)]
    for attempt, mine in enumerate((names[:600], names[600:]), 1):
        seal(paths, Spool(attempt=attempt, first_seq=1).add(dict.fromkeys(mine, float(attempt))))
    before = contents(paths)
    (done,) = compact(paths.log_dir)
    assert contents(paths) == before
    assert pq.read_schema(paths.part("metrics", 1, 1)).names[11:-2] == [*CORE[2:], *names[:MAX_COLUMNS]]
    (extra,) = pq.read_table(paths.part("metrics", 2, 1))["extra"].to_pylist()
    assert dict(extra) == dict.fromkeys(names[MAX_COLUMNS:], 2.0)
    assert json.loads(paths.schema("metrics").read_text()) == {"columns": names[:MAX_COLUMNS]}
    seal(paths, Spool(attempt=3, first_seq=1).add({"m0001": 1.0}))
    assert not compact(paths.log_dir)[0].apart
    assert done.complete


def test_files_end_where_parts_do_and_before_they_are_too_long():
    def of(attempt: int, rank: int, *rows: int) -> list[Part]:
        return [Part((attempt, rank, n), Path(), count, {}) for n, count in enumerate(rows, 1)]

    half = FILE_ROWS // 2
    parts = [*of(1, 0, half, half, 1, FILE_ROWS + 1, 5), *of(1, 1, 2, 3), *of(2, 0, 4), *of(2, 3, 5, 6)]
    files = [[part.key for part in file] for file in grouped(parts, {(1, 1)})]
    assert files == [
        *([(1, 0, 1), (1, 0, 2)], [(1, 0, 3)], [(1, 0, 4)], [(1, 0, 5)]),
        *([(1, 1, 1)], [(1, 1, 2)], [(2, 0, 1)], [(2, 3, 1), (2, 3, 2)]),
    ]
