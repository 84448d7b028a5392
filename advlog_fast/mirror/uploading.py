"""Copies the runs of a folder into a store: one pass after another, each of which ends with a manifest.

A pass uploads the blocks that the store lacks, then replaces the manifest, then removes the objects that neither this
manifest nor the two before it list. So a reader finds all that its manifest lists, and a kill at any moment leaves
objects that the next pass uses or removes. The state of a mirror is its manifest in the store.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from ..store.paths import RunPaths, run_names
from .manifest import MANIFEST_LIMIT, Block, Entry, Files, Manifest, block_bytes, decoded
from .naming import mirror_name
from .scanning import MovedError, Seen, has_ended, is_unchanged, view_of
from .store import RemoteError, Store

AT_ONCE = 8
"""How many objects are on their way at a time: a store answers late, and to many at once."""
_REWRITTEN = 8 << 20
"""How much of a file's end a recovery may write anew at most: what a sink had written and not committed."""
_ENOUGH = 64 << 20
_TRIES = 5


class Uploader:
    """Copies a folder's runs into the folder of its mirror in the store.

    :param runs: which ones; empty for all.
    """

    def __init__(self, log_dir: Path, store: Store, runs: Iterable[str] = ()) -> None:
        self._name = ""
        self._log_dir = log_dir
        self._store = store
        self._runs = frozenset(runs)
        self._manifest: Manifest | None = None
        self._objects: dict[str, int] = {}
        """What the store has."""
        self._waiting = 0
        """The bytes that were uploaded since the last manifest."""
        self.uploaded = 0
        """The bytes that were uploaded."""
        self._pool = ThreadPoolExecutor(AT_ONCE, "advlog-mirror")
        self._uploads: list[tuple[str, Future[None]]] = []

    def copy(self) -> list[str]:
        """Makes one pass, and returns what could not be copied.

        :raises RemoteError: the store failed, and the next pass goes on; or it holds what no mirror writes.
        """
        there = [run for run in run_names(self._log_dir) if not self._runs or run in self._runs]
        if not there:
            return []
        if self._manifest is None:
            self._manifest = self._begun()
        before = self._manifest
        problems: list[str] = []
        runs = dict(before.runs)  # a run that has left the folder stays in the store
        names = os.listdir(self._log_dir)
        # Those that still log first: others can wait.
        for run in sorted(there, key=lambda run: has_ended(RunPaths(self._log_dir, run))):
            try:
                files, left_out = self._copied(run, names, before.runs.get(run, {}))
            except RemoteError:
                raise
            except OSError as error:  # one run that cannot be read must not hold back the others
                problems.append(f"{run}: {error}")
                continue
            problems += [f"{path}: no regular file, and no link is followed" for path in left_out]
            if files:
                runs[run] = files
            if self._waiting > _ENOUGH:  # what was uploaded is shown before the others are
                self._show(runs)
        self._show(runs)
        self._clean()
        return problems

    def _show(self, runs: Mapping[str, Files]) -> None:
        """Replaces the manifest, unless it shows the same."""
        self._wait()
        before = self._manifest
        assert before is not None, "it was read at the begin"
        self._waiting = 0
        if runs != before.runs:
            earlier = (frozenset(before.blocks()), *before.earlier)[:2]
            manifest = Manifest(max(time.time_ns(), before.taken_ns + 1), dict(runs), earlier)
            self._store.put_manifest(self._name, manifest.encoded())
            self._manifest = manifest

    def _begun(self) -> Manifest:
        """Returns the manifest that the store has."""
        self._name = mirror_name(self._log_dir)
        self._objects = self._store.objects(self._name)
        data = self._store.manifest(self._name, MANIFEST_LIMIT + 1)
        return Manifest() if data is None else decoded(data, f"{self._store.url}: {self._name}")

    def _copied(self, run: str, names: list[str], before: Files) -> tuple[Files, list[str]]:
        """:raises MovedError: the files were cut each time that they were read."""
        sound = {path: entry for path, entry in before.items() if all(self._has(block) for block in entry.blocks)}
        known = {entry.file: entry for entry in sound.values()}
        for remaining in reversed(range(_TRIES)):
            with view_of(self._log_dir, names, run, sound) as (seen, left_out):
                try:
                    return {each.path: self._entry(each, known.get(_file(each))) for each in seen}, left_out
                except MovedError:
                    if not remaining:
                        raise OSError(f"{self._log_dir}/{run}: the files were cut while they were read") from None
        raise AssertionError

    def _has(self, block: Block) -> bool:
        return self._objects.get(block[0]) == block[1]

    def _entry(self, seen: Seen, known: Entry | None) -> Entry:
        """Uploads what the store lacks of a file."""
        if seen.fd is None:
            assert known is not None, "only a known file stays closed"
            return known
        status = seen.status
        if known is not None and is_unchanged(status, known):
            return known
        most = block_bytes(seen.path)
        blocks: list[Block] = []
        at = 0
        if known is not None and _has_grown(seen.fd, known, status.st_size):
            # What lies far enough before the former end is never written again.
            blocks = list(known.blocks[: max(known.size - _REWRITTEN, 0) // most])
            at = sum(size for _, size in blocks)
        while at < status.st_size:
            data = _read(seen.fd, min(most, status.st_size - at), at)
            block = hashlib.sha256(data).hexdigest(), len(data)
            if not self._has(block):
                self._upload(block, data)
            blocks.append(block)
            at += len(data)
        return Entry(status.st_size, status.st_dev, status.st_ino, max(status.st_mtime_ns, 0), tuple(blocks))

    def _upload(self, block: Block, data: bytes) -> None:
        """Begins to upload an object, once a few before it are there."""
        if len(self._uploads) >= AT_ONCE:
            self._wait()
        self._uploads.append((block[0], self._pool.submit(self._store.put, self._name, block[0], data)))
        self._objects[block[0]] = block[1]
        self._waiting += block[1]
        self.uploaded += block[1]

    def _wait(self) -> None:
        """Waits until every object is in the store.

        :raises RemoteError: one is not.
        """
        failed = None
        for name, upload in self._uploads:
            try:
                upload.result()
            except RemoteError as error:
                del self._objects[name]
                failed = error
        self._uploads.clear()
        if failed is not None:
            raise failed

    def _clean(self) -> None:
        """Removes the objects that no reader can need. Those that stay are removed after the next pass."""
        assert self._manifest is not None
        needed = self._manifest.blocks().keys() | frozenset().union(*self._manifest.earlier)
        unneeded = list(self._objects.keys() - needed)
        removed = self._pool.map(lambda name: self._store.remove(self._name, name), unneeded)
        for name, _ in zip(unneeded, removed, strict=True):
            del self._objects[name]


def _file(seen: Seen) -> tuple[int, int]:
    return seen.status.st_dev, seen.status.st_ino


def _has_grown(fd: int, known: Entry, size: int) -> bool:
    """Returns whether it is the known file, and none that has got the inode of one that was removed."""
    if size < known.size or known.size < _REWRITTEN:
        return False
    name, length = known.blocks[0]
    return hashlib.sha256(_read(fd, length, 0)).hexdigest() == name


def _read(fd: int, size: int, at: int) -> bytes:
    """:raises MovedError: the file has become shorter."""
    data = b""
    while len(data) < size:
        more = os.pread(fd, size - len(data), at + len(data))
        if not more:
            raise MovedError
        data += more
    return data
