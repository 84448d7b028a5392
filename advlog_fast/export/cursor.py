"""The file that says how far a run was sent to a target."""

from __future__ import annotations

import contextlib
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
    """A JSON file in the run's private folder; a copy of a run without one has it beside: a private folder that has no
    claims would change what readers see.

    One process at a time has it.

    :param key: tells the targets apart.
    :raises RunBusyError: another process exports the run to this target.
    :raises OSError: the folder cannot be written, or is not ours.
    """

    def __init__(self, paths: RunPaths, key: str) -> None:
        private = paths.private
        folder = private if private.is_dir() else paths.log_dir / ".advlog-export" / paths.name
        self._path = folder / "export" / f"{key}.json"
        make_folder(self._path.parent)
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
