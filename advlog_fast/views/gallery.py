"""The runs that a server shows: found by name, opened when they are looked at, listed without reading them again."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..exceptions import RunNotFoundError
from ..reader import Run, read_run
from ..reader.lineage import Attempts
from ..reader.listing import listed
from ..reader.story import settings_of
from ..store.files import read_file
from ..store.paths import RunPaths, folders_with_runs
from ..store.stamps import run_stamps

_OPEN = 16
"""Runs that are kept open."""
_STAMPS_S = 0.5
"""How long a look at a folder's entries holds."""
_FOLDERS_S = 5.0
Stamps = dict[str, tuple[tuple[str, int, int], ...]]


@dataclass
class _Listed:
    stamp: object
    row: dict[str, Any]


class Gallery:
    """Runs below some folders. A run's key is the number of its folder and its name; nothing that somebody asks for is
    ever joined to a path. Any thread may ask.

    :param log_dirs: folders with runs, or above such ones.
    """

    def __init__(self, log_dirs: Sequence[Path]) -> None:
        self._log_dirs = list(log_dirs)
        self._lock = threading.Lock()
        self._folders: list[Path] = []
        self._looked_at = -math.inf
        self._stamps: dict[int, tuple[float, Stamps]] = {}
        self._rows: dict[tuple[int, str], _Listed] = {}
        self._runs: OrderedDict[tuple[int, str, str], tuple[object, Run]] = OrderedDict()

    def folders(self) -> list[Path]:
        """The folders with runs; each keeps its number."""
        with self._lock:
            if time.monotonic() - self._looked_at > _FOLDERS_S:
                for log_dir in self._log_dirs:
                    new = [folder for folder in folders_with_runs(log_dir) if folder not in self._folders]
                    self._folders += new
                self._looked_at = time.monotonic()
            return list(self._folders)

    def paths(self, folder: int, name: str) -> RunPaths:
        """Where the files of a run are.

        :raises RunNotFoundError: there is no such run.
        """
        if name not in self._stamps_of(folder):
            raise RunNotFoundError(f"run: expected one that there is, got {name!r}")
        return RunPaths(self.folders()[folder], name)

    def stamp(self, folder: int, name: str) -> tuple[object, ...]:
        """Returns what changes whenever the files of a run do.

        :raises RunNotFoundError: there is no such run.
        """
        paths = self.paths(folder, name)
        found: list[object] = [self._stamps_of(folder)[name]]
        for path in [paths.metrics_parquet, *sorted(paths.spools_of_all_ranks("metrics").values())]:
            with contextlib.suppress(OSError):
                status = path.lstat()
                found.append((path.name, status.st_mtime_ns, status.st_size))
        return tuple(found)

    def run(self, folder: int, name: str, attempts: Attempts = "chain") -> Run:
        """Returns a run as its files are now.

        :raises RunNotFoundError: there is no such run.
        """
        stamp, key = self.stamp(folder, name), (folder, name, attempts)
        with self._lock:
            kept = self._runs.get(key)
            if kept is not None and kept[0] == stamp:
                self._runs.move_to_end(key)
                return kept[1]
        opened = read_run(self.folders()[folder], name, attempts=attempts)
        with self._lock:
            self._runs[key] = stamp, opened
            while len(self._runs) > _OPEN:
                self._runs.popitem(last=False)
        return opened

    def rows(self) -> list[dict[str, Any]]:
        """The rows of `list_runs`, of all folders, with the number of their `folder` and its path, `directory`, and the
        `config`. Those whose files have not changed are not read again."""
        found = []
        for number, directory in enumerate(self.folders()):
            stamps = self._stamps_of(number)
            new = [name for name, stamp in stamps.items() if self._is_new(number, name, stamp)]
            for row in listed(directory, new).to_pylist() if new else []:
                config = _config_of(RunPaths(directory, row["name"]))
                told = {**row, "folder": number, "directory": str(directory), "config": config}
                self._rows[number, row["name"]] = _Listed(stamps[row["name"]], told)
            found += [self._rows[number, name].row for name in stamps if (number, name) in self._rows]
        return sorted(found, key=lambda row: str(row["started"] or ""), reverse=True)

    def _is_new(self, folder: int, name: str, stamp: object) -> bool:
        kept = self._rows.get((folder, name))
        return kept is None or kept.stamp != stamp or kept.row["status"] == "running"

    def _stamps_of(self, folder: int) -> Stamps:
        """:raises RunNotFoundError: there is no such folder."""
        folders = self.folders()
        if not 0 <= folder < len(folders):
            raise RunNotFoundError(f"folder: expected one of {len(folders)}, got {folder}")
        with self._lock:
            at, found = self._stamps.get(folder, (-math.inf, {}))
            if time.monotonic() - at > _STAMPS_S:
                found = run_stamps(folders[folder])
                self._stamps[folder] = time.monotonic(), found
            return found


def _config_of(paths: RunPaths) -> dict[str, Any]:
    try:
        told = json.loads(read_file(paths.summary)).get("config")
        return settings_of(told) if isinstance(told, dict) else {}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
