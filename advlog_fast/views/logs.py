"""Lines of a run's text logs, the last first."""

from __future__ import annotations

from typing import Any

from ..exceptions import expected
from ..store.files import open_file
from ..store.paths import RunPaths

FILES = ("main", "training", "errors")
_MOST_BYTES = 4 << 20
"""From the end of a file, that are looked through."""
_MOST_LINES = 500
_MOST_CHARACTERS = 4000


def log_lines(paths: RunPaths, file: str, search: str = "", rank: int = 0) -> dict[str, Any]:
    """Returns the lines of a log that have a text in them, the last first: `lines`, and whether there is `more` of the
    file than was looked through. Links are not followed.

    :param file: "main", "training" or "errors".
    :param search: in any case; empty for every line.
    :raises ValueError: there is no such log.
    :raises OSError: it cannot be read.
    """
    if file not in FILES:
        raise ValueError(expected("file", " or ".join(map(repr, FILES)), file))
    if not 0 <= rank < 10**5:
        raise ValueError(expected("rank", "a number of a rank", rank))
    path = getattr(RunPaths(paths.log_dir, paths.name, rank), f"{file}_log")
    try:
        with open_file(path) as opened:
            size = opened.seek(0, 2)
            opened.seek(max(size - _MOST_BYTES, 0))
            data = opened.read(_MOST_BYTES)
    except FileNotFoundError:
        return {"lines": [], "more": False}
    lines = data.decode("utf-8", "replace").splitlines()
    if size > _MOST_BYTES:
        lines = lines[1:]
    wanted = search.lower()
    found = [line[:_MOST_CHARACTERS] for line in reversed(lines) if wanted in line.lower()]
    return {"lines": found[:_MOST_LINES], "more": size > _MOST_BYTES or len(found) > _MOST_LINES}
