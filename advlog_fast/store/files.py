"""Checks of files before the package writes, cuts, moves, removes or reads them.

A log folder may be writable by others, and may hold the user's own files under any name. So the package writes, cuts,
moves or removes a file only after checking that it is ours: no link is followed, the file is regular, this process's
user owns it, and a file that is written in place has no second name. A file that a start reads must be regular and of
bounded size: reading a pipe would hang the start.
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
"""The most bytes that :func:`read_file` reads. Claims, notes, ledgers and summaries are shorter."""

_SAFE = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_FIRST_LINE = re.compile(rb'(?:\{"timestamp":")?\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z[" ]')
"""The start of every log file: a timestamp, alone or as the first member of a JSON object."""

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class NotOursError(OSError):
    """A file, link or folder that this package did not make is in the place of one of its own."""


def check_own(
    status: os.stat_result, path: str | os.PathLike[str], *, sole: bool = False, strictly: bool = False
) -> None:
    """Checks that `path` is a regular file of this process's user. Root may also use files of the folder's owner, so
    that root can continue a user's run.

    :param status: what `lstat` or `fstat` returned for `path`.
    :param sole: require a single name, before a write or a cut: a second name may be a file of the user's. Renaming
        and removing need no such check, and a backup by hard links gives every file a second name.
    :param strictly: allow root only its own files: another user could cut a file while it is mapped.
    :raises NotOursError: the check failed.
    """
    check_regular(status, path, "a regular file or nothing")
    if sole and status.st_nlink > 1:
        names = f"expected a file with one name, got one with {status.st_nlink} (hard links)"
        raise NotOursError(errno.EMLINK, names, os.fspath(path))
    folder = os.path.dirname(os.path.abspath(path))
    root_may = os.geteuid() == 0 and not strictly and status.st_uid == os.stat(folder).st_uid
    if not root_may and not _is_owner(status.st_uid, folder):
        owner = f"expected a file of user {os.geteuid()}, got one of user {status.st_uid}"
        raise NotOursError(errno.EPERM, owner, os.fspath(path))


def _is_owner(uid: int, folder: str) -> bool:
    """Returns whether `uid` owns the files that this process makes in the folder. It need not be the effective user:
    some file systems have one owner for all files, and NFS servers map root to nobody."""
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
    """Returns whether `path` is a regular file of this process's user."""
    try:
        check_own(os.lstat(path), path)
    except OSError:
        return False
    return True


def open_own(
    path: str | os.PathLike[str], flags: int, mode: int = 0o666, *, sole: bool = False, strictly: bool = False
) -> int:
    """Opens a file that is ours or, with O_CREAT, new, and returns its descriptor. Never follows a link, and never
    blocks on a pipe.

    :param flags: as for `os.open`.
    :param sole: as for :func:`check_own`.
    :param strictly: as for :func:`check_own`.
    :raises NotOursError: the file is not ours, and is unchanged.
    :raises OSError: the file cannot be opened. FileNotFoundError: it does not exist.
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
    """Creates a file and returns its descriptor.

    :raises OSError: the file cannot be created. FileExistsError: the name is taken.
    """
    return os.open(path, flags | os.O_CREAT | os.O_EXCL | _SAFE, mode)


def open_file(path: Path, *, follow: bool = False) -> FileIO:
    """Opens a regular file for unbuffered reading.

    :param follow: follow links, for a path that the user asked to read.
    :raises NotOursError: `path` is a link or no regular file.
    :raises OSError: the file cannot be opened.
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


def check_regular(status: os.stat_result, path: str | os.PathLike[str], wanted: str = "a regular file") -> None:
    """Checks that `path` is a regular file: reading a pipe would wait for its writer.

    :param status: what `lstat`, `stat` or `fstat` returned for `path`.
    :raises NotOursError: it is not.
    """
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise NotOursError(errno.EINVAL, f"expected {wanted}, got {kind}", os.fspath(path))


def read_file(path: Path, limit: int = READ_LIMIT) -> bytes:
    """Returns the content of a regular file.

    :raises NotOursError: `path` is a link or no regular file, or the file is longer than `limit` bytes.
    :raises OSError: the file cannot be read.
    """
    with BufferedReader(open_file(path)) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise NotOursError(errno.EFBIG, f"expected at most {limit} bytes, got more", str(path))
    return data


def read_lines(path: Path, longest: int = 1 << 20) -> Iterator[bytes]:
    """Yields the lines of a regular file. Stops at a line longer than `longest` bytes, which is not ours.

    :raises NotOursError: `path` is a link or no regular file.
    :raises OSError: the file cannot be read.
    """
    with BufferedReader(open_file(path)) as file:
        while (line := file.readline(longest + 1)) and len(line) <= longest:
            yield line


def scratch_name(folder: Path, name: str) -> Path:
    """Returns an unguessable path in the folder, for a file that is written there and then renamed to `name`."""
    return folder / f"{name}.{os.urandom(8).hex()}.tmp"


SCRATCH = r"\.[0-9a-f]{16}\.tmp"
"""A pattern of the suffix of such a path."""


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


@contextlib.contextmanager
def scratch_file(folder: Path, name: str, data: bytes, *, sync: bool = False) -> Iterator[Path]:
    """Context manager: makes a file with that content, which the body may rename or link; removes it at the end.

    :raises OSError: the file cannot be written.
    """
    path = scratch_name(folder, name)
    try:
        fd = open_new(path)
        try:
            _write_all(fd, data)
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        yield path
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


def write_whole(path: Path, data: bytes, *, folder: Path | None = None, sync: bool = False) -> None:
    """Replaces `path` by a file with that content, atomically. Replaces a link itself, not its target.

    :param folder: where the scratch file is written, on the same file system.
    :raises OSError: the file cannot be written; `path` is unchanged.
    """
    with scratch_file(folder or path.parent, path.name, data, sync=sync) as scratch:
        os.rename(scratch, path)


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Makes a folder and the missing ones above it, or checks that the existing one is ours.

    :raises OSError: the folder cannot be made.
    :raises NotOursError: `folder` is a link, no folder, or another user's. Root may use folders of others.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, mode)
    check_folder(folder)


def check_folder(folder: Path) -> None:
    """Checks that `folder` is a folder of ours, and no link to one.

    :raises NotOursError: it is not.
    :raises OSError: the folder does not exist or cannot be examined.
    """
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "a file")
        raise NotOursError(errno.ENOTDIR, f"expected a folder or nothing, got {kind}", str(folder))
    if os.geteuid() != 0 and not _is_owner(status.st_uid, str(folder)):
        owner = f"expected a folder of user {os.geteuid()}, got one of user {status.st_uid}"
        raise NotOursError(errno.EPERM, owner, str(folder))


def remove_own(path: str | os.PathLike[str]) -> bool:
    """Removes a file if it is ours, and returns whether the path is free.

    :raises OSError: the file cannot be removed.
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
    """Returns whether this package may have written a log file: it is ours, and empty or begins with a timestamp."""
    try:
        fd = open_own(path, os.O_RDONLY)
        try:
            head = os.read(fd, 64)
        finally:
            os.close(fd)
    except OSError:
        return False
    return not head or _FIRST_LINE.match(head) is not None


def free_name(path: Path) -> Path:
    """Returns `path`, or `path` with the first free number appended if the name is taken."""
    number = 0
    free = path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}.{number}")
    return free


def quarantine_file(file: Path, folder: Path) -> Path:
    """Moves a file of ours into a folder of ours, under a free name, and returns its new path.

    :raises OSError: the file cannot be moved.
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
    """Creates an empty file under a free name and returns its path."""
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
        while chunk := source.read(1 << 20):
            _write_all(copy.fileno(), chunk)


def cache_folder(*names: str) -> Path:
    """Makes a folder in the user's cache, which nobody else can read, and returns it.

    :raises OSError: it cannot be made.
    """
    home = os.environ.get("XDG_CACHE_HOME", "")
    try:
        folder = (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "advlog_fast"
        for path in (folder, *(folder.joinpath(*names[: count + 1]) for count in range(len(names)))):
            make_folder(path, 0o700)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        raise OSError(f"the cache cannot be made: {error}; XDG_CACHE_HOME names another place") from None
    return folder.joinpath(*names)
