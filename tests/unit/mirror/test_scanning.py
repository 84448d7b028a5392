"""A view of a run's files is of one moment, whatever becomes of their names while it is taken."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from advlog_fast import AdvancedLogger
from advlog_fast.compaction import compact
from advlog_fast.mirror import scanning
from advlog_fast.mirror.manifest import Entry
from advlog_fast.mirror.scanning import MovedError, has_ended, view_of
from advlog_fast.store.paths import RunPaths
from advlog_fast.store.rotated_files import shift


def write(folder: Path, batches: int = 400, **options: object) -> None:
    options = {"console": "off", "memory_interval_s": 0, "part_rows": 100, **options}
    with AdvancedLogger(folder, "run", **options) as log:
        for batch in range(batches):
            log.log_batch_progress(1, batch, None, batch / 7)


def view(folder: Path, known: dict[str, Entry] | None = None) -> dict[str, bytes]:
    """The content of each file, by path."""
    with view_of(folder, os.listdir(folder), "run", known or {}) as (seen, left_out):
        assert left_out == []
        return {each.path: os.pread(each.fd, each.status.st_size, 0) for each in seen if each.fd is not None}


def parts(found: dict[str, bytes]) -> list[str]:
    return [path for path in found if "/attempt-" in path]


@contextlib.contextmanager
def before(monkeypatch: pytest.MonkeyPatch, method: str, wanted: object, act):
    """Does something in the middle of a scan, once."""
    real = getattr(scanning._Scan, method)
    done = []

    def wrapped(self, *arguments, **options):
        if not done and wanted in arguments:
            done.append(True)
            act()
        return real(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(scanning._Scan, method, wrapped)
        yield
    assert done


@pytest.mark.parametrize("moment", ["attempts", "spool", "run_metrics.parquet", "attempt-1"])
def test_a_compaction_in_the_middle_shows_the_dataset_before_or_after_it(tmp_path: Path, monkeypatch, moment: str):
    write(tmp_path)
    old = parts(view(tmp_path))
    assert len(old) == 4
    with (
        before(monkeypatch, "_look_into", moment, lambda: compact(tmp_path))
        if moment != "run_metrics.parquet"
        else (before(monkeypatch, "_folder", moment, lambda: compact(tmp_path)))
    ):
        found = view(tmp_path)
    assert parts(found) == ["run_metrics.parquet/attempt-1/rank00000-000001.parquet"]
    assert found == view(tmp_path)


def test_a_compaction_behind_the_look_at_a_part_shows_all_old_parts(tmp_path: Path, monkeypatch):
    write(tmp_path)
    last = "rank00000-000003.parquet"
    with before(monkeypatch, "_meet", last, lambda: compact(tmp_path)):
        assert len(parts(view(tmp_path))) == 1


def test_a_dataset_that_a_compaction_has_moved_away_is_waited_for(tmp_path: Path, monkeypatch):
    """Where the file system cannot exchange two names."""
    write(tmp_path)
    paths = RunPaths(tmp_path, "run")
    paths.compaction.mkdir()
    whole = view(tmp_path)
    old = paths.metrics_parquet.rename(paths.compaction / "metrics-old")
    monkeypatch.setattr(scanning.time, "sleep", lambda _: old.rename(paths.metrics_parquet))
    assert view(tmp_path) == whole


@pytest.mark.parametrize("moment", ["run_metrics.jsonl", "run_metrics.jsonl.1", "run_metrics.jsonl.2"])
def test_a_rotation_in_the_middle_doubles_and_loses_no_file(tmp_path: Path, monkeypatch, moment: str):
    write(tmp_path, max_log_size=8192, parquet=False)
    lines = tmp_path / "run_metrics.jsonl"
    contents = [text for path, text in sorted(view(tmp_path).items()) if path.startswith(lines.name)]
    assert len(contents) > 3

    def rotate() -> None:
        shift(lines)
        lines.write_bytes(b"the new one\n")

    with before(monkeypatch, "_meet", moment, rotate):
        found = [text for path, text in sorted(view(tmp_path).items()) if path.startswith(lines.name)]
    assert found in (contents, [b"the new one\n", *contents])


def test_a_file_that_a_recovery_cuts_is_waited_for(tmp_path: Path, monkeypatch):
    write(tmp_path)
    lines = tmp_path / "run_metrics.jsonl"
    whole = lines.read_bytes()
    status = lines.stat()
    known = {lines.name: Entry(status.st_size, status.st_dev, status.st_ino, status.st_mtime_ns, ())}
    os.truncate(lines, 10)

    def grow(_: float) -> None:
        lines.write_bytes(whole)

    with monkeypatch.context() as patch:
        patch.setattr(scanning.time, "sleep", grow)
        assert view(tmp_path, known)[lines.name] == whole
    os.truncate(lines, 10)
    with monkeypatch.context() as patch:
        patch.setattr(scanning.time, "sleep", lambda _: None)
        assert view(tmp_path, known)[lines.name] == whole[:10]  # it stays so


def test_files_that_move_all_the_time_are_an_error(tmp_path: Path, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr(scanning.time, "sleep", lambda _: None)

    def moved(*_: object, **__: object) -> None:
        raise MovedError

    monkeypatch.setattr(scanning._Scan, "look", moved)
    with pytest.raises(OSError, match="were moved each time"):
        view(tmp_path)


def test_a_file_that_is_known_and_unchanged_stays_closed(tmp_path: Path):
    write(tmp_path)
    lines = tmp_path / "run_metrics.jsonl"
    status = lines.stat()
    entry = Entry(status.st_size, status.st_dev, status.st_ino, status.st_mtime_ns, ())
    assert lines.name not in view(tmp_path, {"under another name": entry})
    lines.write_bytes(lines.read_bytes() + b"more\n")
    assert lines.name in view(tmp_path, {"under another name": entry})


def test_a_run_has_ended_once_each_rank_has_a_ledger_and_no_ring(tmp_path: Path):
    paths = RunPaths(tmp_path, "run")
    with AdvancedLogger(tmp_path, "run", console="off", memory_interval_s=0) as log:
        log.log_batch_progress(1, 1, None, 0.5)
        assert not has_ended(paths)
    assert has_ended(paths)
    with AdvancedLogger(tmp_path, "run", console="off", memory_interval_s=0):
        assert not has_ended(paths)
    assert has_ended(paths)
    assert has_ended(RunPaths(tmp_path, "copied without its private folder"))
    (tmp_path / ".advlog" / "begins").mkdir()
    assert not has_ended(RunPaths(tmp_path, "begins"))
