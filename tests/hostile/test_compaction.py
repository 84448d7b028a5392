"""A compaction follows no link, and gives back whatever else lay in a dataset."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
from hostile_runs import PRECIOUS, tree

from advlog_fast import AdvancedLogger
from advlog_fast.compaction import compact


def test_what_comes_into_a_dataset_while_it_is_compacted_is_kept_beside_what_was_there(tmp_path: Path):
    two_attempts(tmp_path)
    dataset, left = tmp_path / "run_metrics.parquet", tmp_path / ".advlog/run/compact/metrics"
    (dataset / "attempt=notes.txt").write_bytes(PRECIOUS)
    left.mkdir(parents=True)
    for folder in (dataset, left):
        (folder / "_metadata").write_bytes(str(folder).encode())
    compact(tmp_path, "run")
    assert {path.name for path in dataset.iterdir()} == {
        "_metadata",
        "_metadata.1",
        "attempt-1",
        "attempt-2",
        "attempt=notes.txt",
    }
    assert (dataset / "_metadata.1").read_bytes() == str(left).encode()
    assert not left.exists()


def two_attempts(log_dir: Path, name: str = "run") -> None:
    for batch in (1, 2):
        with AdvancedLogger(log_dir, name, console="off", part_rows=1) as log:
            log.log_batch_progress(1, batch, None, 0.5)
            log.log_metrics({"late": 1.0})


def test_a_compaction_loses_nothing_that_the_user_keeps_in_the_dataset(tmp_path: Path):
    two_attempts(tmp_path)
    two_attempts(tmp_path, "other")
    dataset = tmp_path / "run_metrics.parquet"
    (tmp_path / "other_metrics.parquet").rename(dataset / "other")
    shutil.copytree(dataset / "attempt-1", dataset / "backup")
    (dataset / "empty").mkdir()
    (dataset / "private").mkdir(mode=0o700)
    (dataset / "attempt-1/notes").mkdir()
    (dataset / "attempt-1/notes/file").write_bytes(PRECIOUS)
    (dataset / "link").symlink_to(tmp_path)
    dataset.chmod(0o750)
    (dataset / "attempt-1").chmod(0o700)

    def looked_at() -> dict[str, object]:
        paths = [path for path in dataset.rglob("*") if "attempt-1" not in path.parts or "notes" in path.parts]
        paths = [path for path in paths if path.parent.name != "attempt-2" or "other" in path.parts]
        return {str(path): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"") for path in paths}

    before = looked_at()
    compact(tmp_path, "run")
    assert looked_at() == before
    assert [stat.S_IMODE(path.stat().st_mode) for path in (dataset, dataset / "attempt-1")] == [0o750, 0o700]


@pytest.mark.parametrize("folder", ["compact", "compact/metrics"])
def test_a_compaction_follows_no_link(tmp_path: Path, folder: str):
    log_dir, mine = tmp_path / "logs", tmp_path / "mine"
    two_attempts(log_dir)
    (mine / "metrics/sub").mkdir(parents=True)
    (mine / "metrics/sub/file").write_bytes(PRECIOUS)
    planted = log_dir / ".advlog/run" / folder
    planted.parent.mkdir(exist_ok=True)
    planted.symlink_to(mine)
    with pytest.raises(OSError, match="expected a folder or nothing, got a symbolic link"):
        compact(log_dir, "run")
    assert tree(mine) == {"metrics/sub/file": PRECIOUS}


def test_an_attempts_folder_that_is_a_link_is_named_before_anything_is_done(tmp_path: Path):
    two_attempts(tmp_path)
    attempt = tmp_path / "run_metrics.parquet/attempt-1"
    attempt.rename(tmp_path / "elsewhere")
    attempt.symlink_to(tmp_path / "elsewhere")
    before = tree(tmp_path / "elsewhere")
    for _ in range(2):
        with pytest.raises(OSError, match=r"expected a folder or nothing, got a symbolic link.*attempt-1"):
            compact(tmp_path, "run")
    assert tree(tmp_path / "elsewhere") == before
