"""The name of a mirror: one for each folder and host, the same at every start."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
from pathlib import Path

from ..store.files import check_folder, read_file, scratch_file
from ..store.paths import PRIVATE, safe_name

_ID = re.compile(rb"[0-9a-f]{32}\Z")


def mirror_name(log_dir: Path) -> str:
    """Returns the name of the mirror of a folder on this host.

    Hosts that share a folder differ by their names, and hosts of one name, as clones have, by a random number that lies
    in the folder. So no two mirrors write one manifest.
    """
    host = socket.gethostname()
    place = b"\0".join((os.fsencode(host), os.fsencode(os.path.realpath(log_dir)), _number(log_dir / PRIVATE)))
    return f"{safe_name(host)[:40].rstrip('.')}-{hashlib.sha256(place).hexdigest()[:16]}"


def _number(private: Path) -> bytes:
    """Returns the folder's number, which it makes; nothing where it cannot: in a copy without its private folder, or in
    one that another user writes."""
    file = private / "mirror.id"
    with contextlib.suppress(OSError):
        if not file.exists():
            check_folder(private)
            with (
                scratch_file(private, file.name, os.urandom(16).hex().encode(), sync=True) as scratch,
                contextlib.suppress(FileExistsError),
            ):
                os.link(scratch, file, follow_symlinks=False)
        number = read_file(file)
        return number if _ID.match(number) else b""
    return b""
