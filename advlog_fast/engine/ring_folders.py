"""Finds folders for a ring's file: folders that only this user can touch, on file systems that keep the blocks they
have allocated."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from ..store.files import NotOursError, check_folder, make_folder

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - our folder in it is checked to be ours alone
MADE_FOR_ONE_RING = re.compile(r"advlog-\d+-[0-9a-f]{16}\Z")
"""The name of a folder that goes with its ring."""


def shared_folders(say: Callable[[str], object]) -> Iterator[Path]:
    """Folders in shared memory that nobody but this user can touch; each is made where it is missing.

    :param say: called with a sentence when a usual folder cannot be used.
    """
    uid = os.geteuid()
    usual = SHARED_MEMORY / f"advlog-{uid}"
    for folder in (usual, Path(f"/run/user/{uid}/advlog")):
        if not folder.parent.is_dir():
            continue
        try:
            make_private_folder(folder)
        except OSError as error:
            if folder == usual:
                say(f"{folder} cannot be used: {error.strerror}")
        else:
            yield folder
    # Somebody else has the usual name: a new one, which the ring's note tells.
    folder = SHARED_MEMORY / f"advlog-{uid}-{os.urandom(8).hex()}"
    if SHARED_MEMORY.is_dir():
        try:
            make_private_folder(folder)
        except OSError as error:
            say(f"{folder} cannot be made: {error.strerror}")
        else:
            yield folder
            with contextlib.suppress(OSError):
                os.rmdir(folder)  # it was of no use either


def private_in(folder: Path) -> Path:
    """Returns the folder if only this user can write it, else a private folder of this user in it.

    :raises OSError: it could not be made, or is another's.
    """
    status = os.stat(folder)
    if status.st_uid in (os.geteuid(), 0) and not status.st_mode & 0o022:
        return folder
    mine = folder / f"advlog-{os.geteuid()}"
    make_private_folder(mine)
    return mine


def make_private_folder(folder: Path) -> None:
    """Makes a folder that only this user can enter, or checks that an existing one is such a folder.

    :raises OSError: it could not be made.
    :raises NotOursError: another user's lies there, or others may enter it, or it is no folder.
    """
    make_folder(folder, 0o700)
    check_private_folder(folder)


def check_private_folder(folder: Path) -> None:
    """Checks that it is a folder, no link to one, that nobody but this user can enter.

    :raises NotOursError: it is not.
    :raises OSError: it is not there, or cannot be told.
    """
    check_folder(folder)
    status = os.lstat(folder)
    if status.st_uid != os.geteuid():
        raise NotOursError(errno.EPERM, f"it belongs to user {status.st_uid}", str(folder))
    if status.st_mode & 0o077:
        raise NotOursError(errno.EPERM, "others may enter it", str(folder))


def file_system(path: Path) -> str:
    """The type of the file system that `path` lies on, or will; empty where it cannot be told."""
    while not path.exists() and path != path.parent:
        path = path.parent
    best, kind = Path("/"), ""
    with contextlib.suppress(OSError):
        path = path.resolve()
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                fields = line.split()
                place = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4]))
                # By its place, not by its device: the volumes of btrfs have devices of their own.
                if (place == path or place in path.parents) and len(place.parts) >= len(best.parts):
                    best, kind = place, fields[fields.index("-") + 1]
    return kind
