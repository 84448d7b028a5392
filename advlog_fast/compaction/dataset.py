"""Builds a new dataset beside the old one, and puts it into place by exchanging the two names.

One rule repairs what a kill leaves, before and after a compaction: move each part in the compaction folder that the
dataset does not hold into the dataset, and remove the rest. It removes half of a new dataset, and the old dataset after
the exchange, but keeps a part that an unexpected rank sealed into the old dataset meanwhile.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from .._failpoints import failpoint
from ..parquet.part_reader import opened_part, part_metrics
from ..parquet.parts import Frozen, make_synced_folder, read_frozen, replace_frozen, schema_of, sync_path
from ..records import MAX_COLUMNS
from ..store.files import check_folder, free_name, remove_own, scratch_name
from ..store.paths import PartKey, RunPaths, is_hive, names_attempt, part_key
from .files import Part, grouped, write_merged

if TYPE_CHECKING:
    import pyarrow as pa

_AT_FDCWD = -100
_SWAP = 2
"""RENAME_EXCHANGE on Linux, and RENAME_SWAP on macOS."""
_NO_SWAP = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class Compacted:
    """A report on the compaction of one dataset."""

    name: str
    """The run's name."""
    stream: str
    """`metrics` or `system`."""
    changed: bool
    """False if the dataset was compact already."""
    rows: int
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    apart: int = 0
    """Attempts of ranks that still need a recovery, or are being logged again: their parts were not merged."""
    late: int = 0
    """Parts that such a rank sealed during the compaction: they are in the dataset, unmerged."""

    @property
    def complete(self) -> bool:
        """Whether the compaction left nothing out. If not, run it again after the ranks of `apart` and `late` end."""
        return not self.apart and not self.late

    def __str__(self) -> str:
        text = f"{self.name} {self.stream}: {self.rows} rows in {_files(self.files_after)}"
        if self.changed:
            unit, size = ("MB", 1e6) if self.bytes_before >= 1e6 else ("kB", 1e3)
            sizes = f"{self.bytes_after / size:.1f} {unit}, from {self.bytes_before / size:.1f} {unit}"
            text += f", from {_files(self.files_before)}; {sizes}"
        else:
            text += ", compact already"
        if self.apart:
            text += f"; attempts not recovered yet, and not merged: {self.apart}"
        if self.late:
            text += f"; parts sealed meanwhile: {self.late}; run the compaction again"
        return text


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
        """The new dataset until the exchange, the old one after it."""
        self._old = paths.compaction / f"{stream}-old"
        """The old dataset, if the system cannot exchange two names."""

    def compact(self) -> Compacted | None:
        """Rewrites the dataset unless it is compact already. Returns None if it does not exist.

        :raises OSError: a part is damaged, or the disk failed; the dataset is unchanged.
        """
        if self._folder.is_symlink():
            raise OSError(f"{self._folder}: expected a folder, which can be exchanged for another, got a symbolic link")
        for folder in self._folder.glob("attempt*"):
            if names_attempt(folder.name):
                check_folder(folder)
        self._repair()
        parts = self._parts()
        if not parts:
            return None
        apart = self._apart(parts)
        files = list(grouped(parts, apart))
        # A rank that is apart may be sealing a part now, in the layout that it has read.
        hive = (bool(apart) or self._may_seal()) and any(is_hive(part.path.parent.name) for part in parts)
        frozen = Frozen(self._metrics(parts), hive)
        schema = schema_of(self._stream, frozen)
        bytes_before = sum(part.path.stat().st_size for part in parts)
        changed = len(files) < len(parts) or not all(_has_columns(part.path, schema) for part in parts)
        if changed:
            try:
                self._build(files, schema, hive=hive)
                self._swap()
            except BaseException:
                self._repair()
                raise
        # After the exchange: most readers ignore columns of a part that earlier parts lack.
        self._freeze(frozen)
        late = self._repair()
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
        """Returns the attempts and ranks that may still seal a part, or seal an existing one again, by its number."""
        waiting = set(self._paths.ring_notes_of_all_ranks())
        waiting |= {key[:2] for key in self._paths.spools_of_all_ranks(self._stream)}
        present = {part.key[:2] for part in parts}
        return {(attempt, rank) for attempt, rank in present if (attempt, rank) in waiting or rank not in self._locked}

    def _may_seal(self) -> bool:
        """Returns whether a rank without a part yet may seal one."""
        return bool(self._paths.ring_notes_of_all_ranks() or self._paths.spools_of_all_ranks(self._stream))

    def _metrics(self, parts: list[Part]) -> tuple[str, ...]:
        """Returns the metrics that get a column, without the built-in ones: the frozen ones, then the others of the
        parts, up to the most columns that a run has."""
        frozen = self._frozen().columns
        names = dict.fromkeys(frozen)
        for part in parts:
            names.update(dict.fromkeys(part_metrics(part.path)))
        return tuple(islice(names, max(MAX_COLUMNS, len(frozen))))

    def _frozen(self) -> Frozen:
        try:
            return read_frozen(self._paths.schema(self._stream))
        except OSError:  # missing or damaged: the parts have the names
            return Frozen((), hive=True)

    def _freeze(self, frozen: Frozen) -> None:
        if self._frozen() != frozen:
            replace_frozen(self._paths, self._stream, frozen)
            failpoint("compact_frozen")

    def _build(self, files: list[list[Part]], schema: pa.Schema, *, hive: bool) -> None:
        make_synced_folder(self._new)
        shutil.copymode(self._folder, self._new)
        failpoint("compact_begun")
        for parts in files:
            target = self._new / self._name(parts[0].key, hive=hive)
            make_synced_folder(target.parent)
            shutil.copymode(parts[0].path.parent, target.parent)
            write_merged(parts, target, schema)
            failpoint("compact_written")
        for folder in self._new.iterdir():
            sync_path(folder)
        failpoint("compact_built")

    def _name(self, key: PartKey, *, hive: bool) -> Path:
        """The path of a part within its dataset."""
        attempt, rank, number = key
        paths = replace(self._paths, rank=rank)
        return paths.part(self._stream, attempt, number, hive=hive).relative_to(self._folder)

    def _swap(self) -> None:
        if not _exchange(self._new, self._folder):
            # A kill between the two renames leaves the run without its dataset until the next compaction.
            self._folder.rename(self._old)
            failpoint("compact_away")
            self._new.rename(self._folder)
        failpoint("compact_swapped")
        for folder in (self._paths.compaction, self._paths.log_dir):
            sync_path(folder)

    def _repair(self) -> int:
        """Moves parts that the dataset does not hold into it, and removes the rest; returns how many it moved."""
        if os.path.lexists(self._paths.compaction):
            check_folder(self._paths.compaction)
        leftovers = [folder for folder in (self._old, self._new) if os.path.lexists(folder)]
        for folder in leftovers:
            check_folder(folder)
        if self._old in leftovers and not self._folder.exists():  # killed between the two renames
            self._old.rename(self._folder)
            sync_path(self._folder.parent)
            leftovers.remove(self._old)
        if not leftovers:
            return 0
        held = {key for part in self._parts() for key in part.holds}
        return sum(self._empty(folder, held) for folder in leftovers)

    def _empty(self, folder: Path, held: set[PartKey]) -> int:
        moved = 0
        entries = sorted(folder.iterdir())
        attempts = [each for each in entries if names_attempt(each.name) and stat.S_ISDIR(each.lstat().st_mode)]
        for attempt in attempts:
            moved += sum(self._move_or_remove(path, held) for path in sorted(attempt.iterdir()))
            failpoint("compact_emptied")
            attempt.rmdir()
        for entry in entries:
            if entry not in attempts:
                self._move(entry, self._folder / entry.name)
        failpoint("compact_emptied")
        folder.rmdir()
        return moved

    def _move_or_remove(self, path: Path, held: set[PartKey]) -> bool:
        """Removes a part that the dataset holds, and moves any other file into the dataset. Returns whether it moved a
        part."""
        key = part_key(path)
        if key is not None:
            mine = [key] if key in held else Part.read(key, path).holds
            if not held.isdisjoint(mine):
                remove_own(path)
                failpoint("compact_removed")
                return False
            held.update(mine)
            self._add(Part.read(key, path))
            return True
        self._move(path, self._folder / path.parent.name / path.name)
        return False

    def _add(self, part: Part) -> None:
        """Moves a part into the dataset, whose layout may have changed since the part was written."""
        there = self._paths.parts_of_all_ranks(self._stream)
        hive = is_hive(part.path.parent.name)
        others = [path for path in there.values() if is_hive(path.parent.name) != hive]
        target = self._folder / self._name(part.key, hive=hive != bool(others))
        if others:
            with opened_part(others[0]) as file:
                schema = file.schema_arrow.remove_metadata()
            written = scratch_name(self._paths.temporary, part.path.name)
            make_synced_folder(written.parent)
            try:
                write_merged([part], written, schema)
                self._move(written, target)
            finally:
                written.unlink(missing_ok=True)
            remove_own(part.path)
        else:
            self._move(part.path, target)

    @staticmethod
    def _move(path: Path, target: Path) -> None:
        """Moves a file to `target`, or appends a number if that name is taken."""
        make_synced_folder(target.parent)
        path.rename(free_name(target))
        sync_path(target.parent)
        failpoint("compact_moved")


def _has_columns(part: Path, schema: pa.Schema) -> bool:
    with opened_part(part) as file:
        return bool(file.schema_arrow.names == schema.names)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges the names of two folders, atomically. Returns False if the system or the file system cannot.

    :raises OSError: the exchange failed.
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
