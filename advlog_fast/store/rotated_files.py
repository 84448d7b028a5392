"""Rotated files of a log: NAME.log.1 is the latest, NAME.log.2 the one before it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from .._failpoints import failpoint
from .files import is_own


def _rotated(path: Path, number: int) -> str:
    """The one place that says what a rotated file is called."""
    return f"{path}.{number}"


def _numbered(path: Path) -> dict[int, str]:
    # Strings, not Paths: at a million records a second, files rotate often enough for the GIL to matter.
    prefix = path.name + "."
    numbered: dict[int, str] = {}
    folder = os.fspath(path.parent)
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            if name.startswith(prefix):
                number = name[len(prefix) :]
                if number.isascii() and number.isdigit() and not number.startswith("0"):
                    numbered[int(number)] = f"{folder}/{name}"
    return numbered


def rotated_files(path: Path) -> list[Path]:
    """Returns the rotated files of `path`, oldest first, without `path` itself."""
    return [Path(file) for _, file in sorted(_numbered(path).items(), reverse=True)]


def latest_first(path: Path) -> Iterator[Path]:
    """Yields `path` and its rotated files. Open each before you ask for the next. A concurrent shift hides no file: it
    only moves files to later names, which come up here in their turn."""
    yield path
    number = last = 0
    while number < last or number < (last := max(_numbered(path), default=0)):
        number += 1
        yield Path(_rotated(path, number))


def shift(path: Path) -> None:
    """Renames `path` to number 1, and each rotated file in the way to the next number. Deletes nothing, and skips the
    numbers of files that are not ours.

    An interruption leaves a gap and loses no file; the next shift closes the gap.

    :raises OSError: a file cannot be renamed. Nothing was overwritten.
    """
    files = _numbered(path)
    others = {number for number, file in files.items() if not is_own(file)}

    def after(number: int) -> int:
        number += 1
        while number in others:
            number += 1
        return number

    moving = [0]
    while after(moving[-1]) in files:
        moving.append(after(moving[-1]))
    for number in reversed(moving):
        with contextlib.suppress(FileNotFoundError):
            os.rename(files[number] if number else path, _rotated(path, after(number)))
        failpoint("rotate_shifting")


def trim(path: Path, keep: int, may_remove: Callable[[Path], bool] | None = None) -> list[Path]:
    """Removes the oldest rotated files until `keep` files remain, with the current one, and returns the removed ones.

    :param may_remove: called for each file; a file that it refuses, or that cannot be removed, stays until the next
        call.
    """
    files = {number: file for number, file in _numbered(path).items() if is_own(file)}
    removed: list[Path] = []
    for number in sorted(files, reverse=True)[: max(len(files) - max(keep - 1, 0), 0)]:
        file = Path(files[number])
        if may_remove is not None and not may_remove(file):
            continue
        try:
            file.unlink()
        except OSError:
            continue
        removed.append(file)
    return removed
