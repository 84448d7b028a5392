"""Which boot of a machine, and which process in it: what tells whether the maker of a ring lives."""

from __future__ import annotations

from pathlib import Path


def boot_id() -> bytes:
    """16 bytes that name this boot of this machine; zeros where it cannot be told."""
    try:
        return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)


def process_start(pid: int) -> int:
    """When a process started, in clock ticks after the boot; with its pid this names one process. 0: it is dead, or it
    cannot be told."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    except (OSError, ValueError, IndexError):
        return 0
