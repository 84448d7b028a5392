"""The note in a run's folder that says where a ring is, for a recovery."""

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
    """The location of a ring, and what a recovery needs beside the ring."""

    path: str | None
    """None for memory that goes with the process."""
    host: str
    boot_id: str
    """The host's boot id, in hexadecimal digits."""
    run_id: str
    options: dict[str, Any]
    """The logger's options."""

    @classmethod
    def read(cls, file: Path) -> RingNote:
        """Reads a note.

        :raises OSError: the note cannot be read.
        :raises ValueError: the note is damaged.
        """
        note = json.loads(read_file(file))
        if not isinstance(note, dict) or not all(isinstance(note.get(name), kind) for name, kind in _FIELDS.items()):
            raise ValueError(f"{file}: expected the note of a ring, got {note!r}")
        return cls(**{name: note[name] for name in _FIELDS})

    def write(self, file: Path) -> None:
        """Writes the note, atomically.

        :raises OSError: the note cannot be written.
        """
        make_folder(file.parent)
        write_whole(file, json.dumps(asdict(self)).encode())

    @property
    def is_of_this_boot(self) -> bool:
        return is_this_boot(self.boot_id, self.host)

    @property
    def is_of_another_host(self) -> bool:
        """Whether the ring may be in another machine's memory. A machine of the same name counts as this one before a
        reboot."""
        return not self.is_of_this_boot and self.host != socket.gethostname()
