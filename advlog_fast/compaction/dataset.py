"""One dataset made anew beside the old one, whose place it takes by one exchange of two names.

What a kill leaves is mended by one rule, before and after: of what lies where datasets are made anew, a part that the
dataset does not hold is moved into it, and the rest goes. So half a new dataset goes, and the old one after the
exchange, but for a part that a rank which nobody knew of sealed into it meanwhile.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .._failpoints import failpoint
from ..parquet.columns import columns_schema
from ..parquet.parts import make_synced_folder, read_frozen_columns, replace_frozen_columns, sync_path
from ..parquet.part_reader import opened_part, part_metrics
from ..records import MAX_METRIC_NAMES
from ..store.files import check_folder, free_name, remove_own
from ..store.paths import PartKey, RunPaths, part_key
from .files import Part, grouped, write_merged

if TYPE_CHECKING:
    import pyarrow as pa

_ATTEMPT = re.compile(r"attempt=[0-9]+\Z")
_AT_FDCWD = -100
_SWAP = 2
"""RENAME_EXCHANGE of Linux, and RENAME_SWAP of macOS."""
_NO_SWAP = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class Compacted:
    """What became of one dataset."""

    name: str
    """Of the run."""
    stream: str
    """`metrics` or `system`."""
    changed: bool
    """False: it was compact already."""
    rows: int
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    apart: int = 0
    """Attempts of ranks that are still to be recovered, or logged by now: their parts were not merged."""
    late: int = 0
    """Parts that such a rank sealed meanwhile: they are in the dataset, as they were sealed."""

    @property
    def complete(self) -> bool:
        """False: to be run again, when what `apart` and `late` tell of has ended."""
        return not self.apart and not self.late

    def __str__(self) -> str:
        told = f"{self.name} {self.stream}: {self.rows} rows in {_files(self.files_after)}"
        if self.changed:
            unit, size = ("MB", 1e6) if self.bytes_before >= 1e6 else ("kB", 1e3)
            sizes = f"{self.bytes_before / size:.1f} {unit} are {self.bytes_after / size:.1f} {unit}"
            told += f", which were {_files(self.files_before)}; {sizes}"
        else:
            told += ", compact already"
        if self.apart:
            told += f"; attempts that are not recovered yet, and were not merged: {self.apart}"
        if self.late:
            told += f"; parts that came meanwhile: {self.late}; to be run again"
        return told


def _files(count: int) -> str:
    return f"{count} file" if count == 1 else f"{count} files"


class Dataset:
    """The dataset of one stream of a run.

    :param locked: the ranks whose locks the caller holds.
    """

    def __init__(self, paths: RunPaths, stream: str, locked: frozenset[int]) -> None:
        self._paths = paths
        self._stream = stream
        self._locked = locked
        self._folder = paths.dataset(stream)
        self._new = paths.compaction / stream
        """The new dataset; after the exchange, the old one."""
        self._old = paths.compaction / f"{stream}-old"
        """The old dataset, where two names cannot be exchanged."""

    def compact(self) -> Compacted | None:
        """Makes it anew, unless it is compact already. None: there is none.

        :raises OSError: a part is damaged, or the disk failed; the dataset is as it was.
        """
        if self._folder.is_symlink():
            raise OSError(f"{self._folder}: expected a folder, which can be exchanged for another, got a symbolic link")
        for folder in self._folder.glob("attempt=*"):
            if _ATTEMPT.match(folder.name):
                check_folder(folder)
        self._mend()
        parts = self._parts()
        if not parts:
            return None
        apart = self._apart(parts)
        files = list(grouped(parts, apart))
        metrics = self._metrics(parts)
        schema = columns_schema(self._stream, metrics)
        bytes_before = sum(part.path.stat().st_size for part in parts)
        changed = len(files) < len(parts) or not all(_has_columns(part.path, schema) for part in parts)
        if changed:
            try:
                self._build(files, schema)
                self._swap()
            except BaseException:
                self._mend()
                raise
        # Afterwards: a part with columns that earlier ones lack is read without them by most readers.
        self._freeze(metrics)
        late = self._mend()
        after = self._paths.parts_of_all_ranks(self._stream).values()
        return Compacted(
            name=self._paths.name,
            stream=self._stream,
            changed=changed,
            rows=sum(part.rows for part in parts),
            files_before=len(parts),
            files_after=len(after),
            bytes_before=bytes_before,
            bytes_after=sum(path.stat().st_size for path in after),
            apart=len(apart),
            late=late,
        )

    def _parts(self) -> list[Part]:
        return [Part.read(key, path) for key, path in sorted(self._paths.parts_of_all_ranks(self._stream).items())]

    def _apart(self, parts: list[Part]) -> set[tuple[int, int]]:
        """The attempts and ranks that may still seal a part, or one again that stands: they know it by its number."""
        waiting = set(self._paths.ring_notes_of_all_ranks())
        waiting |= {key[:2] for key in self._paths.spools_of_all_ranks(self._stream)}
        there = {part.key[:2] for part in parts}
        return {(attempt, rank) for attempt, rank in there if (attempt, rank) in waiting or rank not in self._locked}

    def _metrics(self, parts: list[Part]) -> tuple[str, ...]:
        """The metrics of the stream beside the guide's: those frozen, then those of the parts, in order."""
        names = dict.fromkeys(self._frozen())
        for part in parts:
            names.update(dict.fromkeys(part_metrics(part.path)))
        return tuple(names)

    def _frozen(self) -> tuple[str, ...]:
        try:
            return read_frozen_columns(self._paths.schema(self._stream))
        except OSError:  # not there, or damaged: the parts tell
            return ()

    def _freeze(self, metrics: tuple[str, ...]) -> None:
        columns = metrics[:MAX_METRIC_NAMES]  # a sealer can make no more
        if self._frozen() != columns:
            replace_frozen_columns(self._paths, self._stream, columns)
            failpoint("compact_frozen")

    def _build(self, files: list[list[Part]], schema: pa.Schema) -> None:
        make_synced_folder(self._new)
        shutil.copymode(self._folder, self._new)
        failpoint("compact_begun")
        for parts in files:
            target = self._new / parts[0].path.relative_to(self._folder)
            make_synced_folder(target.parent)
            shutil.copymode(parts[0].path.parent, target.parent)
            write_merged(parts, target, schema)
            failpoint("compact_written")
        for folder in self._new.iterdir():
            sync_path(folder)
        failpoint("compact_built")

    def _swap(self) -> None:
        if not _exchange(self._new, self._folder):
            # Killed between the two, a run has no dataset until the next compaction.
            self._folder.rename(self._old)
            failpoint("compact_away")
            self._new.rename(self._folder)
        failpoint("compact_swapped")
        for folder in (self._paths.compaction, self._paths.log_dir):
            sync_path(folder)

    def _mend(self) -> int:
        """Moves what the dataset does not hold into it, and removes the rest: how many parts were moved."""
        if os.path.lexists(self._paths.compaction):
            check_folder(self._paths.compaction)
        left = [folder for folder in (self._old, self._new) if os.path.lexists(folder)]
        for folder in left:
            check_folder(folder)
        if self._old in left and not self._folder.exists():  # killed between the two renames
            self._old.rename(self._folder)
            sync_path(self._folder.parent)
            left.remove(self._old)
        if not left:
            return 0
        held = {key for part in self._parts() for key in part.holds}
        return sum(self._empty(place, held) for place in left)

    def _empty(self, place: Path, held: set[PartKey]) -> int:
        moved = 0
        entries = sorted(place.iterdir())
        attempts = [each for each in entries if _ATTEMPT.match(each.name) and stat.S_ISDIR(each.lstat().st_mode)]
        for attempt in attempts:
            moved += sum(self._bring_home(path, held) for path in sorted(attempt.iterdir()))
            failpoint("compact_emptied")
            attempt.rmdir()
        for entry in entries:
            if entry not in attempts:
                self._give_back(entry, self._folder / entry.name)
        failpoint("compact_emptied")
        place.rmdir()
        return moved

    def _bring_home(self, path: Path, held: set[PartKey]) -> bool:
        """Whether it is a part that the dataset did not hold; something else that lay in it is moved, too."""
        key = part_key(path)
        if key is not None:
            mine = [key] if key in held else Part.read(key, path).holds
            if not held.isdisjoint(mine):
                remove_own(path)
                failpoint("compact_removed")
                return False
            held.update(mine)
        self._give_back(path, self._folder / path.parent.name / path.name)
        return key is not None

    @staticmethod
    def _give_back(path: Path, target: Path) -> None:
        """Under its own name, or with a number behind it where another such stands there meanwhile."""
        make_synced_folder(target.parent)
        path.rename(free_name(target))
        sync_path(target.parent)
        failpoint("compact_moved")


def _has_columns(part: Path, schema: pa.Schema) -> bool:
    with opened_part(part) as file:
        return bool(file.schema_arrow.names == schema.names)


def _exchange(one: Path, other: Path) -> bool:
    """Gives each of two folders the other's name, in one step. False: the system, or the file system, cannot.

    :raises OSError: it failed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if hasattr(libc, "renameat2"):
        failed = libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _SWAP)
    elif hasattr(libc, "renamex_np"):
        failed = libc.renamex_np(*names, _SWAP)
    else:
        return False
    number = ctypes.get_errno()
    if failed and number not in _NO_SWAP:
        raise OSError(number, os.strerror(number), str(one), None, str(other))
    return not failed
