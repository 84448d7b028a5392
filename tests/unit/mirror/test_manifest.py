"""What a manifest may list, and how those of several mirrors become one."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from advlog_fast import AdvancedLogger
from advlog_fast.mirror.manifest import Entry, Manifest, decoded, merged
from advlog_fast.mirror.naming import mirror_name
from advlog_fast.mirror.store import checked_url
from advlog_fast.store.paths import is_url, run_file_of

RANK0, RANK1 = "run_events.jsonl", "run_events.rank00001.jsonl"
WHOLE = ".advlog/run/run.json"


def entry(mtime_ns: int, content: str = "a") -> Entry:
    return Entry(1, 1, 1, mtime_ns, ((content * 64, 1),))


def mirrors_of(manifests: dict[str, Manifest]) -> dict[str, str]:
    return {path: mirror for path, (mirror, _) in merged(manifests).get("run", {}).items()}


def test_a_manifest_comes_back_as_it_was():
    manifest = Manifest(7, {"run": {RANK0: entry(1), WHOLE: entry(2, "b")}}, (frozenset({"c" * 64}), frozenset()))
    assert decoded(manifest.encoded(), "x") == manifest


def test_ranks_of_several_mirrors_are_put_together_and_the_run_is_that_of_the_lowest():
    first = Manifest(1, {"run": {RANK1: entry(9), WHOLE: entry(9)}})
    second = Manifest(2, {"run": {RANK0: entry(1), WHOLE: entry(1)}})
    assert mirrors_of({"a": first, "b": second}) == {RANK0: "b", RANK1: "a", WHOLE: "b"}


def test_all_files_of_a_rank_come_from_the_mirror_with_its_latest_change():
    older = Manifest(9, {"run": {RANK0: entry(3), "run_summary.json": entry(4), "run_main.log": entry(1)}})
    newer = Manifest(1, {"run": {RANK0: entry(5), "run_summary.json": entry(2)}})
    assert mirrors_of({"a": older, "b": newer}) == {RANK0: "b", "run_summary.json": "b"}
    same = Manifest(2, {"run": {RANK0: entry(5), "run_summary.json": entry(2)}})
    assert mirrors_of({"a": same, "b": newer}) == {RANK0: "a", "run_summary.json": "a"}


@pytest.mark.parametrize(
    ("path", "of"),
    [
        ("run_main.log", ("run", 0)),
        ("run_main.rank00012.log.3", ("run", 12)),
        ("a_main_metrics.jsonl", ("a_main", 0)),
        ("run_summary.rank00001.json", ("run", 1)),
        ("run_metrics.parquet/attempt-1/rank00002-000001.parquet", ("run", 2)),
        ("run_system.parquet/attempt=1/rank00000-000001.parquet", ("run", 0)),
        (".advlog/run/run.json", ("run", None)),
        (".advlog/run/attempts/1.json", ("run", None)),
        (".advlog/run/attempts/1-rank00003.claim", ("run", 3)),
        (".advlog/run/accounts/attempt1-rank00003.json", ("run", 3)),
        (".advlog/run/spool/metrics-attempt1-rank00003-000001.spool", ("run", 3)),
        (".advlog/run/rings/attempt1-rank00000.json", None),
        (".advlog/run/rank00000.lock", None),
        (".advlog/../run.json", None),
        ("../run_main.log", None),
        ("/run_main.log", None),
        ("run_main.log\n", None),
        ("run_main.log.01", None),
        ("con_main.log", None),
        (".x_main.log", None),
        ("run_metrics.parquet/attempt-1/../../../x/rank00002-000001.parquet", None),
        ("", None),
    ],
)
def test_the_files_of_a_run_are_known_by_their_paths(path: str, of):
    assert run_file_of(path) == of


def test_every_file_that_a_run_leaves_but_its_lock_is_copied(tmp_path: Path):
    with AdvancedLogger(tmp_path, "run", console="off", part_rows=10, max_log_size=4096) as log:
        for batch in range(100):
            log.log_batch_progress(1, batch, None, batch / 7)
        log.log_error(ValueError("x"))
        log.log_memory_usage()
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {path for path in left if run_file_of(path) is None} == {".advlog/run/rank00000.lock"}


@pytest.mark.parametrize(
    ("url", "checked"),
    [
        ("s3://bucket", "s3://bucket"),
        ("S3://bucket/a b/", "s3://bucket/a b"),
        ("gs://bucket/x", "gs://bucket/x"),
        ("abfs://box@account.dfs.core.windows.net/x", "abfs://box@account.dfs.core.windows.net/x"),
        ("az://box/x", "az://box/x"),
        ("file:///a/b//", "file:///a/b"),
    ],
)
def test_a_url_of_a_store_is_taken(url: str, checked: str):
    assert is_url(url)
    assert checked_url(url) == checked


@pytest.mark.parametrize("place", ["logs", "/logs", "a::b", "C:", Path("s3:/x"), "./s3://x", 7])
def test_a_path_is_no_url(place: object):
    assert not is_url(place)


def test_a_mirror_has_one_name_for_each_folder_and_host(tmp_path: Path, monkeypatch):
    names = set()
    for folder in (tmp_path / "a", tmp_path / "b"):
        (folder / ".advlog").mkdir(parents=True)
        names.add(mirror_name(folder))
        assert mirror_name(folder) in names
    # A clone: the same host, the same path, another folder.
    (tmp_path / "a" / ".advlog" / "mirror.id").unlink()
    names.add(mirror_name(tmp_path / "a"))
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    names.add(mirror_name(tmp_path / "a"))
    assert len(names) == 4


def test_a_folder_without_a_place_for_a_number_is_known_by_its_path(tmp_path: Path):
    assert mirror_name(tmp_path) == mirror_name(tmp_path)
    assert os.listdir(tmp_path) == []
