"""The files that a rotated log leaves behind: NAME.log.1 is the latest, NAME.log.2 the one before it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from .._failpoints import failpoint
from .files import is_own


def _numbered(path: Path) -> dict[int, str]:
    # Texts, no Paths: at a million records a second files rotate often enough for the GIL to matter.
    prefix = path.name + "."
    found: dict[int, str] = {}
    folder = os.fspath(path.parent)
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            if name.startswith(prefix):
                number = name[len(prefix) :]
                if number.isascii() and number.isdigit() and not number.startswith("0"):
                    found[int(number)] = f"{folder}/{name}"
    return found


def rotated_files(path: Path) -> list[Path]:
    """The rotated files of `path`, oldest first, without `path` itself."""
    return [Path(file) for _, file in sorted(_numbered(path).items(), reverse=True)]


def latest_first(path: Path) -> Iterator[Path]:
    """`path` and its rotated_files, each to be opened before the next is asked for. A shift meanwhile hides none of
    them: a file only moves to a later name, and is met there if it was not met before."""
    yield path
    number = last = 0
    while number < last or number < (last := max(_numbered(path), default=0)):
        number += 1
        yield Path(f"{path}.{number}")


def shift(path: Path) -> None:
    """Renames `path` to number 1, and each rotated file that stands in the way to the next; deletes
    nothing, and leaves out the numbers of files that are not ours.

    Interrupted at any point it leaves a gap and no file lost; the next shift closes the gap.

    :raises OSError: a file that is there could not be renamed. Nothing was overwritten.
    """
    standing = _numbered(path)
    others = {number for number, file in standing.items() if not is_own(file)}

    def after(number: int) -> int:
        number += 1
        while number in others:
            number += 1
        return number

    moving = [0]
    while after(moving[-1]) in standing:
        moving.append(after(moving[-1]))
    for number in reversed(moving):
        with contextlib.suppress(FileNotFoundError):
            os.rename(standing[number] if number else path, f"{path}.{after(number)}")
        failpoint("rotate_shifting")


def trim(path: Path, keep: int, may_remove: Callable[[Path], bool] | None = None) -> list[Path]:
    """Removes the oldest rotated_files, so that `keep` files stand with the current one; those it removed.

    `may_remove` is asked for each; a file that it refuses, or that cannot be removed, stands until the next
    time.
    """
    standing = {number: file for number, file in _numbered(path).items() if is_own(file)}
    removed: list[Path] = []
    for number in sorted(standing, reverse=True)[: max(len(standing) - max(keep - 1, 0), 0)]:
        file = Path(standing[number])
        if may_remove is not None and not may_remove(file):
            continue
        try:
            file.unlink()
        except OSError:
            continue
        removed.append(file)
    return removed
