"""The user's cache of what was downloaded, and the folders that are put together from it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
import tempfile
import time
import weakref
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..store.files import cache_folder, open_new, read_file, write_whole
from ..store.paths import safe_name
from ..store.processes import process_start
from .manifest import Block, Entry
from .store import RemoteError, Store

_AT_ONCE = 8
_UNUSED_S = 60.0
"""How long an object stays in the cache after no manifest lists it: another process may be about to use it."""

Listed = dict[str, tuple[str, Entry]]
"""The files of a run, by path, each with the mirror that has it."""


class View:
    """A log folder that is removed when this object goes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        weakref.finalize(self, _remove, folder)


class MissingError(Exception):
    """An object is not there."""


class Cache:
    """The user's cache of one URL.

    :raises RemoteError: it cannot be made.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = cache_folder(hashlib.sha256(store.url.encode()).hexdigest()[:32])
        self._objects = cache_folder(self._folder.name, "objects")

    def download(self, files: Listed) -> None:
        """Downloads the objects that the cache lacks.

        :raises MissingError: the store has no more what the manifests listed.
        """
        # The ends of files that grow first: they are what the store removes first.
        ordered = sorted(files.values(), key=lambda each: -each[1].mtime_ns)
        lacking = dict.fromkeys(
            (mirror, b) for mirror, each in ordered for b in reversed(each.blocks) if not self._has(b)
        )
        total = sum(size for _, (_, size) in lacking)
        total += sum(each.size for path, (_, each) in files.items() if not _is_linked(path, each))
        free = shutil.disk_usage(self._folder).free
        if total > free:
            raise RemoteError(
                f"{self._store.url}: its manifests list files of {total} bytes with their objects, and {self._folder} "
                f"has {free} free"
            )
        with ThreadPoolExecutor(_AT_ONCE, "advlog-fetch") as pool:
            fetched = [pool.submit(self._download, *each) for each in lacking]
            try:
                for each in fetched:
                    each.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _download(self, mirror: str, block: Block) -> None:
        name, size = block
        data = self._store.get(mirror, name, size + 1)
        if data is None:
            raise MissingError
        if len(data) != size or hashlib.sha256(data).hexdigest() != name:
            raise RemoteError(f"{self._store.url}: {mirror}/{name} has not the content that the manifest says")
        write_whole(self._objects / name, data)

    def view(self, files: Listed) -> View:
        """Makes a log folder of the files.

        :raises MissingError: another process has removed an object from the cache.
        """
        view = View(Path(tempfile.mkdtemp(prefix=f"{_process()}-", dir=self._folder)))
        try:
            for path, (_, entry) in files.items():
                target = view.folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                self._assemble(entry, target)
        except FileNotFoundError:
            raise MissingError from None
        return view

    def _assemble(self, entry: Entry, target: Path) -> None:
        if _is_linked(target.name, entry):
            os.link(self._objects / entry.blocks[0][0], target)
            return
        fd = open_new(target)
        with open(fd, "wb") as file:
            file.writelines(read_file(self._objects / name, size) for name, size in entry.blocks)
        # By the time of its summary a reader tells whether a rank is silent.
        os.utime(target, ns=(entry.mtime_ns, entry.mtime_ns))

    def clean(self, listed: Iterable[str]) -> None:
        """Removes what no manifest lists any more, and what killed processes left."""
        needed = set(listed)
        now = time.time()
        for path in self._objects.iterdir():
            with contextlib.suppress(OSError):
                if path.name not in needed and now - path.stat().st_mtime > _UNUSED_S:
                    path.unlink()
        for path in self._folder.iterdir():
            match = re.match(r"(.+)-(\d+)-(\d+)-[^-]+\Z", path.name)
            if match and match[1] == _host() and process_start(int(match[2])) != int(match[3]):
                _remove(path)

    def _has(self, block: Block) -> bool:
        try:
            return os.lstat(self._objects / block[0]).st_size == block[1]
        except FileNotFoundError:
            return False


def _is_linked(path: str, entry: Entry) -> bool:
    """Returns whether a file is a second name of an object: parts are large, and never change."""
    return path.endswith(".parquet") and len(entry.blocks) == 1


def _host() -> str:
    return safe_name(socket.gethostname())[:40]


def _process() -> str:
    return f"{_host()}-{os.getpid()}-{process_start(os.getpid())}"


def _remove(view: Path) -> None:
    shutil.rmtree(view, ignore_errors=True)
