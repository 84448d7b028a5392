"""The checks of files that are opened for writing, cut, moved or removed, and of those that a start reads.

A log folder may be writable by others, and may hold files of the user's under any name. So whatever is written, cut,
moved or removed is first shown to be ours: no link is followed, it is a regular file, its owner is this process's user,
and what is written in place has no other name. What a start reads is regular too, and no longer than expected: a pipe
would hang it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from io import BufferedReader, FileIO
from pathlib import Path

READ_LIMIT = 16 << 20
"""Bytes of what is read whole: claims, notes, ledgers, summaries. A longer file is not one of them."""

_SAFE = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_MADE = re.compile(rb'(?:\{"timestamp":")?\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z[" ]')
"""What every file of lines begins with: a timestamp, alone or as the first member of an object."""

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class NotOursError(OSError):
    """Something that this package did not make lies where a file of its own belongs."""


def check_own(
    found: os.stat_result, path: str | os.PathLike[str], *, sole: bool = False, strictly: bool = False
) -> None:
    """Checks that what was found at `path`, by `lstat` or `fstat`, is a file of this process's user. Root has those of
    the folder's owner as well: what a user has begun may go on as root.

    :param sole: under no other name, too, for what is to be written or cut: the other may be a file of the user's. A
        backup by hard links gives each file another name, which hinders no renaming and no removal.
    :param strictly: root, too, has its own alone: another's could be cut while it is mapped.
    :raises NotOursError: it is not.
    """
    check_regular(found, path, "a regular file or nothing")
    if sole and found.st_nlink > 1:
        names = f"expected a file with one name, got one with {found.st_nlink} (hard links)"
        raise NotOursError(errno.EMLINK, names, os.fspath(path))
    folder = os.path.dirname(os.path.abspath(path))
    root_may = os.geteuid() == 0 and not strictly and found.st_uid == os.stat(folder).st_uid
    if not root_may and not _is_owner(found.st_uid, folder):
        owner = f"expected a file of user {os.geteuid()}, got one of user {found.st_uid}"
        raise NotOursError(errno.EPERM, owner, os.fspath(path))


def _is_owner(uid: int, folder: str) -> bool:
    """Whether `uid` is what a file that this process makes in the folder belongs to: some file systems have one owner
    for all, and root is nobody on many servers."""
    if uid == os.geteuid():
        return True
    probe = os.path.join(folder, f".advlog-{os.urandom(8).hex()}.tmp")
    try:
        fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE, 0o600)
    except OSError:
        return False
    try:
        return os.fstat(fd).st_uid == uid
    finally:
        os.close(fd)
        os.unlink(probe)


def is_own(path: str | os.PathLike[str]) -> bool:
    """Whether a file of this process's user lies there."""
    try:
        check_own(os.lstat(path), path)
    except OSError:
        return False
    return True


def open_own(
    path: str | os.PathLike[str], flags: int, mode: int = 0o666, *, sole: bool = False, strictly: bool = False
) -> int:
    """Opens a file, which is ours or, with O_CREAT, new.

    :param flags: as `os.open` takes them; no link is followed, and a pipe hangs nobody.
    :param sole: as :func:`check_own` has it.
    :param strictly: likewise.
    :raises NotOursError: it is not ours; nothing was done to it.
    :raises OSError: it could not be opened. FileNotFoundError: there is none.
    """
    try:
        fd = os.open(path, flags | _SAFE, mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotOursError(errno.ELOOP, "expected a file, got a symbolic link", os.fspath(path)) from None
        raise
    try:
        check_own(os.fstat(fd), path, sole=sole, strictly=strictly)
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_new(path: str | os.PathLike[str], flags: int = os.O_WRONLY, mode: int = 0o666) -> int:
    """Makes a file that was not there.

    :raises OSError: it could not be made. FileExistsError: something is there.
    """
    return os.open(path, flags | os.O_CREAT | os.O_EXCL | _SAFE, mode)


def open_file(path: Path, *, follow: bool = False) -> FileIO:
    """A regular file, opened for reading, unbuffered.

    :param follow: links are followed, for what a user asks to read.
    :raises NotOursError: a link or something else that is no regular file lies there.
    :raises OSError: it cannot be opened.
    """
    flags = os.O_CLOEXEC | os.O_NONBLOCK if follow else _SAFE
    return FileIO(path, "rb", opener=lambda name, _: _open_regular(name, flags))


def _open_regular(path: str, flags: int) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotOursError(errno.EINVAL, "expected a regular file, got a symbolic link", str(path)) from None
        raise
    try:
        check_regular(os.fstat(fd), path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_regular(found: os.stat_result, path: str | os.PathLike[str], wanted: str = "a regular file") -> None:
    """Checks that what was found at `path`, by `lstat`, `stat` or `fstat`, is a regular file.

    :raises NotOursError: it is not: to read a pipe would wait for its writer.
    """
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise NotOursError(errno.EINVAL, f"expected {wanted}, got {kind}", os.fspath(path))


def read_file(path: Path, limit: int = READ_LIMIT) -> bytes:
    """What a regular file holds.

    :raises NotOursError: as :func:`open_file` does; or the file is longer than `limit` bytes.
    :raises OSError: it cannot be read.
    """
    with BufferedReader(open_file(path)) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise NotOursError(errno.EFBIG, f"expected at most {limit} bytes", str(path))
    return data


def read_lines(path: Path, longest: int = 1 << 20) -> Iterator[bytes]:
    """The lines of a regular file, up to one that is longer than `longest` bytes: that is no line of ours.

    :raises NotOursError: a link or something else that is no regular file lies there.
    :raises OSError: it cannot be read.
    """
    with BufferedReader(open_file(path)) as file:
        while (line := file.readline(longest + 1)) and len(line) <= longest:
            yield line


def scratch_name(folder: Path, name: str) -> Path:
    """A name in the folder that nobody can guess, for a file that takes the place of `name` when it is whole."""
    return folder / f"{name}.{os.urandom(8).hex()}.tmp"


SCRATCH = r"\.[0-9a-f]{16}\.tmp"
"""What such a name ends with, as a pattern."""


@contextlib.contextmanager
def scratch_file(folder: Path, name: str, data: bytes, *, sync: bool = False) -> Iterator[Path]:
    """A new file with that content, for the length of a `with` block, which may rename or link it.

    :raises OSError: it could not be written.
    """
    path = scratch_name(folder, name)
    try:
        fd = open_new(path)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        yield path
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


def write_whole(path: Path, data: bytes, *, folder: Path | None = None, sync: bool = False) -> None:
    """Puts a file with that content in the place of `path`, in one step; a link that stood there goes, and what it led
    to stays.

    :param folder: where it is written first, on the same file system.
    :raises OSError: it could not be; what stood there stands.
    """
    with scratch_file(folder or path.parent, path.name, data, sync=sync) as scratch:
        os.rename(scratch, path)


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Makes a folder of ours, and what is missing above it, or sees that it is one.

    :raises OSError: it could not be made.
    :raises NotOursError: a link, something else, or another user's folder lies there. Root may use those of others.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, mode)
    check_folder(folder)


def check_folder(folder: Path) -> None:
    """Checks that it is a folder of ours, and no link to one.

    :raises NotOursError: it is not.
    :raises OSError: it is not there, or cannot be told.
    """
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "a file")
        raise NotOursError(errno.ENOTDIR, f"expected a folder or nothing, got {kind}", str(folder))
    if os.geteuid() != 0 and not _is_owner(found.st_uid, str(folder)):
        owner = f"expected a folder of user {os.geteuid()}, got one of user {found.st_uid}"
        raise NotOursError(errno.EPERM, owner, str(folder))


def remove_own(path: str | os.PathLike[str]) -> bool:
    """Removes a file of ours; whether it is gone. What is not ours stays.

    :raises OSError: it could not be removed.
    """
    try:
        check_own(os.lstat(path), path)
        os.unlink(path)
    except FileNotFoundError:
        pass
    except NotOursError:
        return False
    return True


def begins_as_ours(path: Path) -> bool:
    """Whether a file of lines can be one that this package wrote: it is ours, and empty or begins with a timestamp."""
    try:
        fd = open_own(path, os.O_RDONLY)
        try:
            head = os.read(fd, 64)
        finally:
            os.close(fd)
    except OSError:
        return False
    return not head or _MADE.match(head) is not None


def free_name(path: Path) -> Path:
    """`path`, or with a number behind it where something has that name."""
    number = 0
    free = path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}.{number}")
    return free


def quarantine_file(file: Path, folder: Path) -> Path:
    """Moves a file of ours into a folder of ours, under a name that is free; where it lies then.

    :raises OSError: it could not be moved.
    """
    make_folder(folder)
    check_own(os.lstat(file), file)
    target = _reserved_name(folder, file.name)
    try:
        os.rename(file, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            os.unlink(target)
            raise
        try:
            _copy(file, target)
        except OSError:
            os.unlink(target)
            raise
        os.unlink(file)
    return target


def _reserved_name(folder: Path, name: str) -> Path:
    """An empty file of a name that was free."""
    number = 1
    while True:
        target = folder / f"{name}.{number}"
        try:
            os.close(open_new(target, mode=0o600))
        except FileExistsError:
            number += 1
        else:
            return target


def _copy(file: Path, target: Path) -> None:
    with FileIO(open_own(file, os.O_RDONLY)) as source, FileIO(open_own(target, os.O_WRONLY), "wb") as copy:
        while piece := source.read(1 << 20):
            view = memoryview(piece)
            while view:
                view = view[copy.write(view) :]
