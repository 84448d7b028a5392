"""Files of earlier versions, kept in tests/data: of 0.1.0, and of the last one with folders `attempt=<n>` (`hive`).
Every later version reads, recovers, verifies and shows them, and goes on with them."""

from __future__ import annotations

import json
import math
import os
import struct
import tarfile
from pathlib import Path

import pytest
from run_files import text_lines

from advlog_fast import AdvancedLogger, read_jsonl, read_run
from advlog_fast.cli import main

DATA = Path(__file__).resolve().parents[1] / "data"


@pytest.fixture(params=[".", "hive"])
def unpacked(tmp_path: Path, request):
    def unpack(name: str) -> Path:
        with tarfile.open(DATA / request.param / f"{name}.tar.xz") as archive:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(tmp_path)  # noqa: S202 - an archive of this repository
        return tmp_path / "logs"

    return unpack


def renew(folder: Path) -> None:
    """Makes the killed run one of this folder, where it lay in another: a ring knows its log folder by its name, and
    its sinks' files by device and inode."""
    made = json.loads((folder / "made.json").read_text())
    for ring in (folder / "rings").rglob("*.ring"):
        content = ring.read_bytes()
        before, after = (os.fsencode(f"{place}/logs") for place in (made["folder"], folder))
        assert content.count(before) == (1 if ring.parent.name == "rings" else 0)
        content = content.replace(before.ljust(1024, b"\0"), after.ljust(1024, b"\0"))
        for name, numbers in made["files"].items():
            if (folder / name).exists():
                state = (folder / name).stat()
                content = content.replace(struct.pack("<2Q", *numbers), struct.pack("<2Q", state.st_dev, state.st_ino))
        ring.write_bytes(content)
    (note,) = folder.glob("logs/.advlog/killed/rings/*.json")
    note.write_text(note.read_text().replace(made["folder"], str(folder)))


def steps_of(run) -> list[int]:
    return run.metrics["step"].to_pylist()


def test_a_run_of_two_ranks_is_read_to_the_bit(unpacked):
    run = read_run(unpacked("run"), "run")
    for rank in (0, 1):
        rows = [row for row in run.metrics.to_pylist() if row["rank"] == rank]
        assert [row["step"] for row in rows] == list(range(1, 350))
        assert [row["attempt"] for row in rows] == [1] * 149 + [2] * 200
        for row in rows:
            step = row["step"]
            assert (row["loss"], row["accuracy"], row["batch_time"]) == (1.0 / step, step / 1000, 0.01)
            assert row["perplexity"] == step * 2.5 or (step == 60 and math.isnan(row["perplexity"]))
            # 149 comes from the first attempt, 150 from the second
            assert (row["late"] is None) == (step <= 120)
            assert row["late"] is None or math.copysign(1, row["late"]) == -1
    assert len(read_run(unpacked("run"), "run", attempts="all").metrics) == 800
    assert run.summary["status"] == "completed"
    assert run.summary["total_metrics"] == 200
    assert [row["message"] for row in run.errors.to_pylist()] == ["one of ours"] * 4
    # Of attempt 1 those up to the time of the checkpoint, or up to its step, where they have one.
    assert run.validation.num_rows == (10 if run.validation["step"].null_count else 12)
    assert run.system.num_rows == 16
    assert run.step_times().num_rows > 0


def test_a_run_of_two_ranks_is_verified_shown_and_gone_on_with(unpacked, capsys):
    folder = unpacked("run")
    assert main(["verify", str(folder)]) == 0
    assert main(["show", str(folder), "run"]) == 0
    shown = capsys.readouterr().out
    assert "349" in shown
    assert "perplexity" in shown
    assert main(["ls", str(folder)]) == 0
    with AdvancedLogger(folder, "run", console="off", memory_interval_s=0, rank=0, world_size=2) as log:
        assert log.attempt == 3
        log.log_batch_progress(1, 1, 1, 0.5)
    assert main(["verify", str(folder)]) == 0
    assert len(read_run(folder, "run", attempts="all").metrics) == 801


def test_a_killed_run_is_recovered_with_its_childs_records(unpacked, capsys):
    folder = unpacked("killed")
    renew(folder.parent)
    written = [row["step"] for row in read_jsonl(folder / "killed_metrics.jsonl")]
    assert max(written) < 700  # the rest lies in the rings
    assert main(["recover", str(folder)]) == 0
    assert not list((folder.parent / "rings").rglob("*.ring"))
    rows = sorted(read_run(folder, "killed").metrics.to_pylist(), key=lambda row: row["step"])
    assert [row["step"] for row in rows] == list(range(1, 701))
    for row in rows:
        step = row["step"]
        assert (row["loss"], row["accuracy"]) == (1.0 / step, step / 1000)
        by_child = 650 < step <= 660
        assert (row["worker"], row["child"]) == ((1, 1.0) if by_child else (0, None))
        assert row["late"] == (step * 0.5 if step > 400 and not by_child else None)
    lines = [line for file in folder.glob("killed_training.log*") for line in text_lines(file)]
    assert sorted(int(line.fields["step"]) for line in lines if "step" in line.fields) == list(range(1, 701))
    assert main(["verify", str(folder)]) == 0
    assert json.loads((folder / "killed_summary.json").read_text())["status"] == "killed"
    capsys.readouterr()
    assert main(["show", str(folder), "killed"]) == 0
    assert "killed" in capsys.readouterr().out


def test_a_killed_run_is_recovered_by_the_next_start(unpacked):
    folder = unpacked("killed")
    renew(folder.parent)
    with AdvancedLogger(folder, "killed", console="off", memory_interval_s=0) as log:
        assert log.attempt == 2
    assert sorted(steps_of(read_run(folder, "killed", attempts="all"))) == list(range(1, 701))
    assert main(["verify", str(folder)]) == 0


def test_a_compacted_run_is_read_verified_and_compacted_again(unpacked, capsys):
    folder = unpacked("compacted")
    rows = read_run(folder, "compacted").metrics.to_pylist()
    assert [row["step"] for row in rows] == list(range(1, 401))
    assert all(row["late"] == (row["step"] * 0.5 if row["step"] > 200 else None) for row in rows)
    assert main(["verify", str(folder)]) == 0
    capsys.readouterr()
    assert main(["compact", str(folder)]) == 0
    assert main(["verify", str(folder)]) == 0
    assert read_run(folder, "compacted").metrics.to_pylist() == rows


def folders_of(folder: Path, name: str) -> set[str]:
    return {part.parent.name for part in (folder / f"{name}_metrics.parquet").glob("*/*.parquet")}


def test_an_old_run_keeps_its_layout_until_it_is_compacted(unpacked):
    folder = unpacked("run")
    assert folders_of(folder, "run") == {"attempt=1", "attempt=2"}
    state = json.loads((folder / "state0.json").read_text())
    for rank in (0, 1):
        with AdvancedLogger(folder, "run", console="off", memory_interval_s=0, rank=rank, world_size=2) as log:
            log.load_state_dict(state)
            log.log_batch_progress(1, 150, 400, 0.25, late=1.0)
            attempt = log.attempt
    assert folders_of(folder, "run") == {f"attempt={each}" for each in range(1, attempt + 1)}
    before = read_run(folder, "run", attempts="all").metrics
    rows = readers_rows(folder / "run_metrics.parquet")
    assert all(len(each) == 802 for each in rows.values())
    assert main(["compact", str(folder)]) == 0
    assert folders_of(folder, "run") == {f"attempt-{each}" for each in range(1, attempt + 1)}
    after = read_run(folder, "run", attempts="all").metrics.select(before.column_names)
    assert str(after.to_pylist()) == str(before.to_pylist())  # one is NaN
    assert readers_rows(folder / "run_metrics.parquet") == rows
    with AdvancedLogger(folder, "run", console="off", memory_interval_s=0) as log:
        log.log_batch_progress(1, 151, 400, 0.25)
    assert f"attempt-{attempt + 1}" in folders_of(folder, "run")
    assert all(len(each) == 803 for each in readers_rows(folder / "run_metrics.parquet").values())
    assert main(["verify", str(folder)]) == 0


def readers_rows(dataset: Path) -> dict[str, list[tuple[int, int, int]]]:
    """The rows as plain calls of other readers give them: (attempt, rank, seq)."""
    duckdb, pandas, polars = (pytest.importorskip(name) for name in ("duckdb", "pandas", "polars"))
    columns = ["attempt", "rank", "seq"]
    query = f"SELECT attempt, rank, seq FROM read_parquet('{dataset}/*/*.parquet', hive_partitioning = true)"
    found = {
        "duckdb": duckdb.sql(query).fetchall(),
        "pandas": pandas.read_parquet(dataset)[columns].astype("int64").itertuples(index=False, name=None),
        "polars": polars.scan_parquet(dataset).select(columns).collect().rows(),
    }
    return {name: sorted(map(tuple, rows)) for name, rows in found.items()}


def test_a_killed_run_of_the_old_layout_goes_on_in_it(unpacked):
    folder = unpacked("killed")
    renew(folder.parent)
    with AdvancedLogger(folder, "killed", console="off", memory_interval_s=0) as log:
        log.log_batch_progress(1, 701, 700, 0.5)
    assert folders_of(folder, "killed") == {"attempt=1", "attempt=2"}
    assert main(["compact", str(folder)]) == 0
    assert folders_of(folder, "killed") == {"attempt-1", "attempt-2"}
    assert sorted(steps_of(read_run(folder, "killed", attempts="all"))) == list(range(1, 702))


def test_a_compaction_that_was_killed_before_it_froze_the_layout_leaves_no_mixture(unpacked):
    folder = unpacked("compacted")
    schema = folder / ".advlog" / "compacted" / "metrics_schema.json"
    before = schema.read_text()
    assert main(["compact", str(folder)]) == 0
    assert folders_of(folder, "compacted") == {"attempt-1"}
    schema.write_text(before)
    with AdvancedLogger(folder, "compacted", console="off", memory_interval_s=0) as log:
        log.log_batch_progress(1, 401, 400, 0.5)
    assert folders_of(folder, "compacted") == {"attempt-1", "attempt-2"}
    assert main(["compact", str(folder)]) == 0
    assert sorted(steps_of(read_run(folder, "compacted", attempts="all"))) == list(range(1, 402))
