"""The identity of a boot and of a process, by which a recovery finds out whether the maker of a ring is alive."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path


def boot_id() -> bytes:
    """Returns 16 bytes that identify this boot of this machine; zeros if the system does not expose them."""
    try:
        return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)


_UNKNOWN = bytes(16).hex()


def is_this_boot(boot: str, host: str) -> bool:
    """Returns whether a hexadecimal `boot_id` and a host name are those of this boot of this machine. If /proc is
    hidden, as in some containers, boots cannot be distinguished, and the host name decides alone."""
    return boot == boot_id().hex() and (boot != _UNKNOWN or host == socket.gethostname())


def machine_id() -> str:
    """Returns the scope in which a pid identifies one process: this boot of this machine and this container."""
    namespace = 0
    with contextlib.suppress(OSError):
        namespace = os.stat("/proc/self/ns/pid").st_ino
    boot = boot_id().hex()
    return f"{boot if boot != _UNKNOWN else socket.gethostname()}-{namespace}"


def process_start(pid: int) -> int:
    """Returns when a process started, in clock ticks after the boot; with its pid this identifies one process. 0 if it
    is dead or the time is not known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    except (OSError, ValueError, IndexError):
        return 0


def started_s() -> float:
    """Returns when this process started, in seconds since 1970; 0 if that is not known."""
    ticks = process_start(os.getpid())
    try:
        uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    return time.time() - uptime_s + ticks / os.sysconf("SC_CLK_TCK") if ticks else 0.0
