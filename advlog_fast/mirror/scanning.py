"""Takes a consistent view of a run's files while others write, rotate, seal and compact them.

It opens every file that it does not know yet before it reads the first, in the order that readers rely on: ledgers
before records, lines before spools, spools before parts. A file keeps its content while it is open, whatever becomes of
its name. No link below the log folder is followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..store.files import check_regular
from ..store.paths import RunPaths, run_file_of
from .manifest import Entry, Files

_STREAMS = ("metrics", "system")
_TRIES = 40
_PAUSE_S = 0.025
_NUMBERED = re.compile(r"(.+\.(?:log|jsonl))(?:\.([1-9][0-9]{0,8}))?\Z")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class MovedError(Exception):
    """The files were exchanged or cut while they were looked at: look again."""


@dataclass(frozen=True)
class Seen:
    """A file of a run."""

    path: str
    """Within the log folder."""
    status: os.stat_result
    fd: int | None
    """Open for reading; None if the file is known, and unchanged."""


@contextlib.contextmanager
def view_of(log_dir: Path, names: Iterable[str], run: str, known: Files) -> Iterator[tuple[list[Seen], list[str]]]:
    """Context manager: the files of a run as of one moment, and the paths of links and other things in their places.

    :param names: those of the files in the log folder.
    :param known: the files that the last manifest lists.
    :raises OSError: a file cannot be opened, or the files were moved each time that they were looked at.
    """
    bases = _bases(names, run)
    for remaining in reversed(range(_TRIES)):
        with contextlib.ExitStack() as stack:
            scan = _Scan(RunPaths(log_dir, run), known, stack)
            try:
                scan.look(bases, may_shrink=not remaining)
            except MovedError:
                time.sleep(_PAUSE_S)
                continue
            yield list(scan.seen.values()), scan.left_out
            return
    raise OSError(errno.EAGAIN, f"the files of {run} were moved each time that they were looked at", str(log_dir))


def _bases(names: Iterable[str], run: str) -> dict[str, int]:
    """Returns the files of the run that lie in the log folder, each with the greatest number of its rotated files."""
    bases: dict[str, int] = {}
    for name in names:
        of = run_file_of(name)
        if of is not None and of[0] == run:
            match = _NUMBERED.match(name)
            base, number = (match[1], int(match[2] or 0)) if match else (name, 0)
            bases[base] = max(bases.get(base, 0), number)
    return bases


class _Scan:
    def __init__(self, paths: RunPaths, known: Files, stack: contextlib.ExitStack) -> None:
        self.seen: dict[str, Seen] = {}
        self.left_out: list[str] = []
        self._paths = paths
        self._known = {entry.file: entry for entry in known.values()}
        self._sizes = {(path, entry.inode): entry.size for path, entry in known.items()}
        self._stack = stack
        self._top = os.open(paths.log_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, self._top)

    def look(self, bases: Mapping[str, int], *, may_shrink: bool) -> None:
        """Looks at every file.

        :param may_shrink: take a file that has become shorter. One that a recovery has cut soon grows again.
        :raises MovedError: a compaction has put another dataset into place, or a file has become shorter.
        """
        datasets = [self._paths.dataset(stream).name for stream in _STREAMS]
        before = [self._inode(name) for name in datasets]
        private = [self._paths.private.parent.name, self._paths.name]
        self._look_into(*private, "attempts")
        self._look_into(*private, "accounts")
        self._look_into(*private)
        for base, last in sorted(bases.items()):
            self._look_at_series(base, last)
        self._look_into(*private, "spool")
        for name in datasets:
            attempts = self._folder(name)
            if attempts is not None:
                for attempt in sorted(os.listdir(attempts)):
                    self._look_into(name, attempt)
        if before != [self._inode(name) for name in datasets]:
            raise MovedError
        away = [self._paths.compaction / f"{stream}-old" for stream in _STREAMS]
        if not may_shrink and any(b is None and os.path.lexists(old) for b, old in zip(before, away, strict=True)):
            # Where two names cannot be exchanged, a compaction moves the dataset away for a moment.
            raise MovedError
        for path, seen in list(self.seen.items()):
            if seen.fd is None:
                continue
            # Only now: a file that was rotated meanwhile is then complete.
            status = os.fstat(seen.fd)
            if status.st_size < self._sizes.get((path, status.st_ino), 0) and not may_shrink:
                raise MovedError
            self.seen[path] = Seen(path, status, seen.fd)

    def _inode(self, name: str) -> tuple[int, int] | None:
        try:
            status = os.stat(name, dir_fd=self._top, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def _folder(self, *names: str) -> int | None:
        """Opens a folder below the log folder; None if there is none, or a link or a file in its place."""
        folder = self._top
        for depth, name in enumerate(names):
            try:
                folder = os.open(name, _FOLDER, dir_fd=folder)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                self.left_out.append("/".join(names[: depth + 1]))
                return None
            self._stack.callback(os.close, folder)
        return folder

    def _look_into(self, *names: str) -> None:
        """Looks at each of the run's files in a folder."""
        place = "/".join(names)
        if names[0].endswith(".parquet") and not re.match(r"attempt[=-][0-9]{1,9}\Z", names[1]):
            return
        folder = self._folder(*names)
        for name in [] if folder is None else sorted(os.listdir(folder)):
            path = f"{place}/{name}"
            if folder is not None and run_file_of(path) is not None:
                seen = self._meet(folder, name, path)
                if seen is not None:
                    self.seen[path] = seen

    def _look_at_series(self, base: str, last: int) -> None:
        """Looks at a file in the log folder and its rotated ones, the latest first: one that is rotated meanwhile is
        met again under a later number, and stands where it was met last."""
        met: dict[tuple[int, int], Seen] = {}
        number = 0
        while True:
            name = f"{base}.{number}" if number else base
            seen = self._meet(self._top, name, name)
            if seen is not None:
                identity = seen.status.st_dev, seen.status.st_ino
                met.pop(identity, None)
                met[identity] = seen
            elif number >= last:
                break
            number += 1
        # Without gaps, and the latest under the plain name, by which readers find the others.
        for number, seen in enumerate(met.values()):
            path = f"{base}.{number}" if number else base
            self.seen[path] = Seen(path, seen.status, seen.fd)

    def _meet(self, folder: int, name: str, path: str) -> Seen | None:
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            check_regular(status, name)
            known = self._known.get((status.st_dev, status.st_ino))
            fd = None
            if known is None or not is_unchanged(status, known):
                fd = os.open(name, _FILE, dir_fd=folder)
                self._stack.callback(os.close, fd)
                status = os.fstat(fd)
                check_regular(status, name)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ELOOP):
                raise
            self.left_out.append(path)
            return None
        return Seen(path, status, fd)


def is_unchanged(status: os.stat_result, known: Entry) -> bool:
    """Returns whether the file has not been written since it was copied."""
    return status.st_size == known.size and max(status.st_mtime_ns, 0) == known.mtime_ns


def has_ended(paths: RunPaths) -> bool:
    """Returns whether every rank of a run has ended, and its files are complete: nothing more is written."""
    claims = paths.claims_of_all_ranks()
    if not claims:
        return not paths.private.is_dir()  # a copy of the files alone, or a run that begins
    newest = {rank: attempt for attempt, rank in sorted(claims)}
    last = {(attempt, rank) for rank, attempt in newest.items()}
    # The ring goes last, after what the ledger is followed by.
    return last <= paths.ledgers_of_all_ranks().keys() and last.isdisjoint(paths.ring_notes_of_all_ranks())
