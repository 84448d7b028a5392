"""The note in a run's folder that says where a ring lies, for whoever has to recover it."""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .files import make_folder, read_file, write_whole
from .processes import is_this_boot

_FIELDS: dict[str, type | tuple[type, ...]] = {
    "path": (str, type(None)),
    "host": str,
    "boot_id": str,
    "run_id": str,
    "options": dict,
}


@dataclass(frozen=True)
class RingNote:
    """Where a ring lies, and what a recovery must know that the ring does not hold."""

    path: str | None
    """None: in memory that dies with the process."""
    host: str
    boot_id: str
    """Of the host, in hexadecimal digits."""
    run_id: str
    options: dict[str, Any]
    """The logger's."""

    @classmethod
    def read(cls, file: Path) -> RingNote:
        """:raises OSError: it could not be read.
        :raises ValueError: it is damaged.
        """
        told = json.loads(read_file(file))
        if not isinstance(told, dict) or not all(isinstance(told.get(name), kind) for name, kind in _FIELDS.items()):
            raise ValueError(f"{file}: expected the note of a ring, got {told!r}")
        return cls(**{name: told[name] for name in _FIELDS})

    def write(self, file: Path) -> None:
        """In one step.

        :raises OSError: it could not be written.
        """
        make_folder(file.parent)
        write_whole(file, json.dumps(asdict(self)).encode())

    @property
    def is_of_this_boot(self) -> bool:
        return is_this_boot(self.boot_id, self.host)

    @property
    def is_of_another_host(self) -> bool:
        """Whether the ring may lie in the memory of a machine that is not this one. A machine of the same name is taken
        for this one before it was booted again."""
        return not self.is_of_this_boot and self.host != socket.gethostname()
