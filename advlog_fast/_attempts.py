"""Who may write a run: its id, its attempts, and the lock of each rank. No collective call, no lock across ranks.

Every claim is a file that appears whole and at once: written under a name of its own, then linked to the name that is
claimed, which only one process can do.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

from ._paths import RunPaths
from .exceptions import RunBusyError
from .ranks import RankIdentity, RunIdentity


class RankLock:
    """This process's claim on one rank of a run, held until `release` or the end of the process, however it ends.

    A POSIX record lock: not inherited by a fork, freed by a SIGKILL. The kernel would free it too if this process
    closed any other descriptor of the file, so nothing else here ever opens it.

    :raises RunBusyError: another live process holds it.
    """

    def __init__(self, paths: RunPaths) -> None:
        self._pid = os.getpid()
        self._fd = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            owner = os.pread(self._fd, 200, 0).decode("utf-8", "replace").strip() or "an unknown process"
            os.close(self._fd)
            what = f"rank {paths.rank} of {paths.name!r} in {paths.log_dir}"
            raise RunBusyError(f"{what} is being logged by another live process: {owner}") from None
        except OSError:
            return  # a file system without locks: the claim of the attempt still keeps the files apart
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"pid {self._pid} on {os.uname().nodename}\n".encode(), 0)

    def release(self) -> None:
        if self._fd >= 0 and os.getpid() == self._pid:
            os.close(self._fd)
        self._fd = -1


def claim_attempt(paths: RunPaths, ranks: RankIdentity) -> RunIdentity:
    """This process's place in the run: the attempt of its launch if it has one, else a new attempt.

    :raises OSError: the run's folder cannot be written.
    """
    paths.attempts.mkdir(parents=True, exist_ok=True)
    paths.temporary.mkdir(exist_ok=True)
    run = _claim(paths, paths.private / "run.json", {"run_id": uuid.uuid4().hex, "created_ns": time.time_ns()})
    attempt = max(_attempts(paths), default=0)
    if attempt == 0 or not _joins(paths, attempt, ranks):
        attempt += 1
        while not _begins(paths, attempt, ranks):
            attempt += 1
    return RunIdentity(
        run_id=str(run["run_id"]),
        name=paths.name,
        attempt=attempt,
        rank=ranks.rank,
        world_size=ranks.world_size,
        host=ranks.host,
        pid=ranks.pid,
    )


def _attempts(paths: RunPaths) -> list[int]:
    """Those begun so far; the claims of their ranks lie beside them."""
    files = paths.attempts.iterdir()
    return [int(file.stem) for file in files if file.suffix == ".json" and file.stem.isdecimal()]


def _joins(paths: RunPaths, attempt: int, ranks: RankIdentity) -> bool:
    """Whether the attempt is this process's own launch, and its rank is not taken in it."""
    if ranks.launch_key is None:
        return False
    claimed = json.loads((paths.attempts / f"{attempt}.json").read_text())
    return claimed["launch"] == ranks.launch_key and _takes_rank(paths, attempt, ranks)


def _begins(paths: RunPaths, attempt: int, ranks: RankIdentity) -> bool:
    """Whether the attempt became this process's: begun by it, or by another rank of its launch just now."""
    mine = {"launch": ranks.launch_key, "host": ranks.host, "pid": ranks.pid, "claimed_ns": time.time_ns()}
    claimed = _claim(paths, paths.attempts / f"{attempt}.json", mine)
    if claimed == mine:
        return _takes_rank(paths, attempt, ranks)
    return _joins(paths, attempt, ranks)


def _takes_rank(paths: RunPaths, attempt: int, ranks: RankIdentity) -> bool:
    mine = {"host": ranks.host, "pid": ranks.pid, "claimed_ns": time.time_ns()}
    return _claim(paths, paths.attempts / f"{attempt}-rank{ranks.rank:05d}.claim", mine) == mine


def _claim(paths: RunPaths, target: Path, content: dict[str, Any]) -> dict[str, Any]:
    """What the claim says: `content`, or what another process had claimed before."""
    if not target.exists():
        temporary = paths.temporary / f"claim-{uuid.uuid4().hex}"
        temporary.write_text(json.dumps(content))
        try:
            os.link(temporary, target)
        except FileExistsError:
            pass
        finally:
            os.unlink(temporary)
    found = json.loads(target.read_text())
    assert isinstance(found, dict)
    return found
