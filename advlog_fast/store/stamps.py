"""Tells whether the files of runs have changed."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from .paths import PRIVATE, RUN_FILE, run_names


def run_stamps(log_dir: Path) -> dict[str, tuple[tuple[str, int, int], ...]]:
    """Returns, by name, what changes as a run's files in a log folder do: their names, times and sizes, and the time of
    its private folder. It looks at each entry of the folder once."""
    found: dict[str, list[tuple[str, int, int]]] = {name: [] for name in run_names(log_dir)}
    try:
        for entry in sorted(os.scandir(log_dir), key=lambda each: each.name):
            match = re.match(RUN_FILE, entry.name)
            if match and match["name"] in found:
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    found[match["name"]].append((entry.name, status.st_mtime_ns, status.st_size))
        for name, files in found.items():
            with contextlib.suppress(OSError):
                files.append((PRIVATE, os.lstat(log_dir / PRIVATE / name).st_mtime_ns, 0))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {name: tuple(files) for name, files in found.items()}
