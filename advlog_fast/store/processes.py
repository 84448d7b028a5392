"""Which boot of a machine, and which process in it: what tells whether the maker of a ring lives."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path


def boot_id() -> bytes:
    """16 bytes that name this boot of this machine; zeros where it cannot be told."""
    try:
        return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)


_UNKNOWN = bytes(16).hex()


def is_this_boot(boot: str, host: str) -> bool:
    """Whether hexadecimal digits of a `boot_id` and a host's name are of this boot of this machine. Where /proc is
    hidden, as in some containers, no boot can be told from another: the host's name decides alone."""
    return boot == boot_id().hex() and (boot != _UNKNOWN or host == socket.gethostname())


def machine_id() -> str:
    """Where a pid means one process: this boot of this machine and, on it, this container."""
    namespace = 0
    with contextlib.suppress(OSError):
        namespace = os.stat("/proc/self/ns/pid").st_ino
    boot = boot_id().hex()
    return f"{boot if boot != _UNKNOWN else socket.gethostname()}-{namespace}"


def process_start(pid: int) -> int:
    """When a process started, in clock ticks after the boot; with its pid this names one process. 0: it is dead, or it
    cannot be told."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    except (OSError, ValueError, IndexError):
        return 0


def started_s() -> float:
    """When this process started, in seconds since 1970; 0 where it cannot be told."""
    ticks = process_start(os.getpid())
    try:
        uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    return time.time() - uptime_s + ticks / os.sysconf("SC_CLK_TCK") if ticks else 0.0
