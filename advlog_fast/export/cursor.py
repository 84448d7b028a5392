"""The file that says how far a run was sent to a target."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ..exceptions import RunBusyError
from ..store.files import check_own, make_folder, read_file, write_whole
from ..store.locks import FileLock, LockedError
from ..store.paths import RunPaths

VERSION = 1
_LONGEST = 1 << 30


class CursorFile:
    """A JSON file in the run's private folder, or, where that is missing or another user's, below the user's own folder
    of states: a private folder that has no claims would change what readers see of a copy.

    One process at a time has it.

    :param key: tells the targets apart.
    :raises RunBusyError: another process exports the run to this target.
    :raises OSError: no such folder can be written.
    """

    def __init__(self, paths: RunPaths, key: str) -> None:
        self._path = _folder(paths) / f"{key}.json"
        try:
            self._lock = FileLock(self._path.with_suffix(".lock"), ", which exports to this target", dead_owner_s=2.0)
        except LockedError as error:
            raise RunBusyError(f"{paths.name} is exported to this target by {error}") from None

    @property
    def path(self) -> Path:
        return self._path

    def load(self) -> dict[str, Any] | None:
        """Returns what was saved last; None if that is nothing, or no file of this version.

        :raises NotOursError: a link, no regular file, or another user's file has its name.
        """
        with contextlib.suppress(FileNotFoundError, ValueError):
            check_own(os.lstat(self._path), self._path)
            found = json.loads(read_file(self._path, _LONGEST))
            if isinstance(found, dict) and found.get("version") == VERSION:
                return found
        return None

    def save(self, state: dict[str, Any]) -> None:
        """Replaces the file, atomically.

        :raises OSError: it cannot be written.
        """
        write_whole(self._path, json.dumps({"version": VERSION, **state}).encode())

    def close(self) -> None:
        self._lock.release()


def _folder(paths: RunPaths) -> Path:
    if paths.private.is_dir():
        folder = paths.private / "export"
        with contextlib.suppress(OSError):
            make_folder(folder)
            if os.access(folder, os.W_OK):
                return folder
    states = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    run = f"{paths.log_dir.resolve()}\n{paths.name}".encode(errors="surrogateescape")
    folder = states / "advlog" / "export" / hashlib.blake2s(run, digest_size=8).hexdigest()
    make_folder(folder, 0o700)
    return folder
