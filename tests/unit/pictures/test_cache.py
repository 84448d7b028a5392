"""The cache of pictures: what was kept comes back whole, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from advlog_fast.pictures.cache import Cache, Kept

BLOCKS = {"loss": Kept(3, 8, b"x" * 176), "a/b": Kept(-(2**60), 40, b"y" * 88), "empty": Kept(0, 0, b"")}


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_blocks_come_back_by_name_and_of_their_own_part_alone(tmp_path: Path):
    cache = Cache(tmp_path)
    cache.put("one", BLOCKS)
    cache.put("one", {"late": Kept(1, 2, b"z" * 88)})
    assert Cache(tmp_path).get("one", [*BLOCKS, "late", "never"]) == {**BLOCKS, "late": Kept(1, 2, b"z" * 88)}
    assert Cache(tmp_path).get("two", list(BLOCKS)) == {}
    assert len(files(tmp_path)) == 1


def test_nobody_else_can_read_it(tmp_path: Path):
    Cache(tmp_path).put("one", BLOCKS)
    (path,) = files(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_file_that_was_cut_or_changed_anywhere_gives_nothing_false(tmp_path: Path):
    cache = Cache(tmp_path)
    cache.put("one", BLOCKS)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :]):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(damaged)
            found = cache.get("one", list(BLOCKS))
            assert all(found[name] == BLOCKS[name] for name in found), at


def test_a_damaged_file_is_made_again(tmp_path: Path):
    cache = Cache(tmp_path)
    cache.put("one", BLOCKS)
    (path,) = files(tmp_path)
    path.write_bytes(b"\0" * 100)
    assert cache.get("one", ["loss"]) == {}
    cache.put("one", BLOCKS)
    assert cache.get("one", ["loss"]) == {"loss": BLOCKS["loss"]}


def test_the_least_recently_used_go_first(tmp_path: Path):
    cache = Cache(tmp_path)
    for number in range(6):
        cache.put(f"part {number}", {"loss": Kept(number, 0, b"x" * 880)})
    for path in files(tmp_path):
        os.utime(path, (1, 1))
    assert cache.get("part 2", ["loss"])
    size = files(tmp_path)[0].stat().st_size
    cache.clean(limit=2 * size)
    assert len(files(tmp_path)) == 2
    assert cache.get("part 2", ["loss"])


def test_a_link_in_its_place_is_not_followed(tmp_path: Path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    cache = Cache(tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    cache.put("one", BLOCKS)
    (path,) = files(tmp_path / "cache")
    path.unlink()
    path.symlink_to(precious)
    cache.put("one", BLOCKS)
    assert cache.get("one", ["loss"]) == {}
    assert precious.read_text() == "mine"


def test_without_a_folder_nothing_is_kept_and_nothing_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cache = Cache.of_user()
    cache.put("one", BLOCKS)
    assert cache.get("one", ["loss"]) == {}


def test_two_processes_fill_one_file_at_once(tmp_path: Path):
    code = """
import sys
from pathlib import Path
from advlog_fast.pictures.cache import Cache, Kept
cache = Cache(Path(sys.argv[1]))
for i in range(200):
    cache.put("one", {f"metric {i}": Kept(i, 1, bytes([i]) * 88 * (i + 1))})
"""
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(2)]
    assert [each.wait(60) for each in both] == [0, 0]
    found = Cache(tmp_path).get("one", [f"metric {i}" for i in range(200)])
    assert found == {f"metric {i}": Kept(i, 1, bytes([i]) * 88 * (i + 1)) for i in range(200)}
