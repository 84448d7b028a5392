"""Manifests: each lists the objects that make one consistent view of the runs of a folder.

An object is a block of a file, named by its SHA-256. So a file that is renamed costs nothing, no object ever changes,
and whoever reads an object can check it. A block of a file that grows is at most 1 MiB: the last one is uploaded anew
whenever it has grown. Readers trust what manifests list and nothing else in the store.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..store.paths import run_file_of
from .store import RemoteError

BLOCK_BYTES = 1 << 20
PART_BLOCK_BYTES = 64 << 20
"""Of a Parquet part, which never grows."""

MANIFEST_LIMIT = 256 << 20
_VERSION = 1
_HASH = re.compile(r"[0-9a-f]{64}\Z")

Block = tuple[str, int]
"""An object's name and size."""


@dataclass(frozen=True)
class Entry:
    """A file of a run."""

    size: int
    device: int
    inode: int
    mtime_ns: int
    """With the two before it: by which the mirror knows the file again, under another name too."""
    blocks: tuple[Block, ...]
    """Its content, in order."""

    @property
    def file(self) -> tuple[int, int]:
        return self.device, self.inode


Files = dict[str, Entry]
"""Of one run, by their paths in the log folder."""


@dataclass(frozen=True)
class Manifest:
    """What one mirror shows."""

    taken_ns: int = 0
    """When it was made, in nanoseconds since 1970."""
    runs: Mapping[str, Files] = field(default_factory=dict)
    earlier: tuple[frozenset[str], ...] = ()
    """The objects of the manifests before it, the newest first, which a reader may still be reading."""

    def blocks(self) -> dict[str, int]:
        """Returns the objects that it lists, with their sizes."""
        return {name: size for files in self.runs.values() for each in files.values() for name, size in each.blocks}

    def encoded(self) -> bytes:
        """Returns it as the store has it."""
        listed = self.blocks()
        content = {
            "version": _VERSION,
            "taken_ns": self.taken_ns,
            "runs": {
                run: {
                    path: [each.size, each.device, each.inode, each.mtime_ns, each.blocks]
                    for path, each in sorted(files.items())
                }
                for run, files in self.runs.items()
            },
            "earlier": [sorted(names - listed.keys()) for names in self.earlier],
        }
        return json.dumps(content, separators=(",", ":")).encode()


def decoded(data: bytes, where: str) -> Manifest:
    """Returns the manifest that the store has. It is checked as if an enemy had written it: every path is one of a
    run's file, every size is that of its blocks.

    :param where: which one it is, for the message.
    :raises RemoteError: it is no manifest.
    """
    try:
        content = _content(data)
        runs = {name: _files(name, files) for name, files in content["runs"].items()}
        earlier = tuple(frozenset(map(_hash, names)) for names in content["earlier"])
        return Manifest(_count(content["taken_ns"]), runs, earlier)
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise RemoteError(f"{where}: expected the manifest of a mirror, got {error}") from None


def _content(data: bytes) -> dict[str, Any]:
    if len(data) > MANIFEST_LIMIT:
        raise ValueError(f"more than {MANIFEST_LIMIT} bytes")
    content = json.loads(data)
    if not isinstance(content, dict) or content.get("version") != _VERSION:
        raise ValueError(f"no JSON object of version {_VERSION}")
    return content


def _files(run: str, files: Mapping[str, Any]) -> Files:
    found: Files = {}
    for path, (size, device, inode, mtime_ns, blocks) in files.items():
        of = run_file_of(path)
        if of is None or of[0] != run:
            raise ValueError(f"a file that is none of the run's: {path[:100]!r}")
        most = block_bytes(path)
        parts = tuple((_hash(name), _count(length)) for name, length in blocks)
        if any(not 0 < length <= most for _, length in parts) or sum(length for _, length in parts) != _count(size):
            raise ValueError(f"sizes that cannot be: of {path!r}")
        found[path] = Entry(size, _count(device), _count(inode), _count(mtime_ns), parts)
    return found


def _hash(name: str) -> str:
    if not _HASH.match(name):
        raise ValueError(f"no SHA-256: {name[:100]!r}")
    return name


def _count(number: object) -> int:
    if type(number) is not int or not 0 <= number < 1 << 64:
        raise ValueError(f"no count: {str(number)[:100]}")
    return number


def block_bytes(path: str) -> int:
    """Returns the size of the blocks of a file."""
    return PART_BLOCK_BYTES if path.endswith(".parquet") else BLOCK_BYTES


def merged(manifests: Mapping[str, Manifest]) -> dict[str, dict[str, tuple[str, Entry]]]:
    """Returns each run's files, by path, with the mirror that has each.

    All files of a rank come from one mirror, so that no row is there twice: from the one that has its latest change.
    The files of a run as a whole come from the mirror that has the lowest rank.
    """
    ranks: dict[tuple[str, int], tuple[tuple[int, int], str]] = {}
    split = {
        (run, mirror): _by_rank(files) for mirror, manifest in manifests.items() for run, files in manifest.runs.items()
    }
    for (run, mirror), by_rank in split.items():
        for rank, files in by_rank.items():
            if rank is not None:
                changed = max(entry.mtime_ns for entry in files.values()), manifests[mirror].taken_ns
                ranks[run, rank] = max(ranks.get((run, rank), (changed, mirror)), (changed, mirror))
    found: dict[str, dict[str, tuple[str, Entry]]] = {}
    for (run, rank), (_, mirror) in sorted(ranks.items()):
        chosen: Iterable[Files] = [split[run, mirror][rank]]
        if run not in found:
            chosen = [*chosen, split[run, mirror].get(None, {})]
        for files in chosen:
            found.setdefault(run, {}).update({path: (mirror, entry) for path, entry in files.items()})
    return found


def _by_rank(files: Files) -> dict[int | None, Files]:
    by_rank: dict[int | None, Files] = {}
    for path, entry in files.items():
        of = run_file_of(path)
        assert of is not None, "checked when it was read"
        by_rank.setdefault(of[1], {})[path] = entry
    return by_rank
