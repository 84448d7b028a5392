"""Keeps the buckets of parts that never change, in the user's own cache.

A file a part, with a block a metric, each with its checksum. What is read there was written by this user: nothing that
lies in a run is taken for a cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import struct
import zlib
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import NamedTuple

from ..store.files import cache_folder, open_file

_LIMIT = 2_000_000_000
"""Bytes, of all files together; the least recently used go."""
_HEAD = struct.Struct("<4sHiqqII")
"""A mark, the bytes of the name, the shift, the first bucket, the bytes of the block, its checksum and the header's."""
_MARK = b"ADB1"
_CLEANED_EVERY = 200
"""Files that are written, in the mean, between two looks at the sizes."""


class Kept(NamedTuple):
    """A block as it is kept."""

    first: int
    shift: int
    data: bytes


class Cache:
    """The blocks of parts.

    :param folder: None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    @classmethod
    def of_user(cls) -> Cache:
        """Returns the user's; one that keeps nothing where its folder cannot be made."""
        try:
            return cls(cache_folder("pictures"))
        except OSError:
            return cls(None)

    def get(self, identity: str, names: list[str]) -> dict[str, Kept]:
        """Returns the blocks that are kept of a part, of those names.

        :param identity: what no other part has, and this one only as long as it does not change.
        """
        if self._folder is None:
            return {}
        found: dict[str, Kept] = {}
        path = self._path(identity)
        try:
            with contextlib.closing(_blocks(path, set(names))) as blocks:
                for name, kept in blocks:
                    found[name] = kept
                    if len(found) == len(names):
                        break
            if found:
                os.utime(path)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, struct.error):  # cut, or spoilt: it is made again
            with contextlib.suppress(OSError):
                path.unlink()
        return found

    def put(self, identity: str, blocks: Mapping[str, Kept]) -> None:
        """Keeps blocks of a part, as far as the disk takes them."""
        if self._folder is None:
            return
        data = b"".join(_encoded(name, kept) for name, kept in blocks.items())
        path = self._path(identity)
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(path, flags, 0o600)
            try:
                # One write: what another process appends at the same time comes before or behind it.
                if os.write(fd, data) < len(data):
                    path.unlink()
            finally:
                os.close(fd)
            if random.random() * _CLEANED_EVERY < 1:  # noqa: S311 - that it is not always the same one
                self.clean()

    def clean(self, limit: int = _LIMIT) -> None:
        """Removes the files that were used least recently, as far as all are too large together."""
        if self._folder is None:
            return
        files = []
        for path in self._folder.glob("*/*"):
            with contextlib.suppress(OSError):
                status = path.lstat()
                files.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= limit:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size

    def _path(self, identity: str) -> Path:
        assert self._folder is not None
        name = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:40]
        return self._folder / name[:2] / name


def _blocks(path: Path, names: set[str]) -> Generator[tuple[str, Kept], None, None]:
    """:raises ValueError: the file is spoilt from here on."""
    with open_file(path) as file:
        while head := file.read(_HEAD.size):
            mark, length, shift, first, size, checksum, own = _HEAD.unpack(head)
            if mark != _MARK or own != zlib.crc32(head[:-4]):
                raise ValueError
            told = file.read(length)
            if told.decode() not in names:
                file.seek(size, os.SEEK_CUR)
                continue
            data = file.read(size)
            if len(data) != size or checksum != zlib.crc32(data, zlib.crc32(told)):
                raise ValueError
            yield told.decode(), Kept(first, shift, data)


def _encoded(name: str, kept: Kept) -> bytes:
    told = name.encode()
    checksum = zlib.crc32(kept.data, zlib.crc32(told))
    fields = _MARK, len(told), kept.shift, kept.first, len(kept.data), checksum
    head = _HEAD.pack(*fields, 0)[:-4]
    return head + zlib.crc32(head).to_bytes(4, "little") + told + kept.data
