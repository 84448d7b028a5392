"""Who may write a run: its id, its attempts, and the lock of each rank. No collective call, no lock across ranks.

Every claim is a file that appears whole and at once: written under a name of its own, then linked to the name that is
claimed, which only one process can do.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._failpoints import failpoint
from ..exceptions import RunBusyError
from .ledger import LOST, read_ledger
from .files import (
    NotOursError,
    begins_as_ours,
    check_folder,
    check_own,
    make_folder,
    read_file,
    scratch_file,
)
from .locks import COMPACTING, RECOVERING, FileLock, LockedError
from .paths import RunPaths
from .processes import machine_id, process_start, started_s
from .ranks import RankIdentity, RunIdentity

_RECOVERY_S = 60.0
_PAUSE_S = 0.05
_CUT_SHORT = ("killed", LOST)
_TAKEN = "expected a file that this package wrote or nothing, got another: choose another experiment_name"
_SUMMARY = b'{\n  "total_metrics"'
_RUN_ID = re.compile(r"[0-9a-f]{32}\Z")
_ATTEMPT = re.compile(r"(?:attempt=)?([0-9]{1,9})(?:\.json)?\Z")
_ORIGIN = re.compile(r"([0-9]{1,9})-origin\.json\Z")


def check_free(paths: RunPaths) -> None:
    """Checks, where the run has never been here, that no file of the user's has a name of its files: it would be taken
    for an earlier attempt's, rotated and one day removed.

    :raises NotOursError: one has.
    """
    for stream in ("metrics", "system"):
        if os.path.lexists(paths.dataset(stream)):
            check_folder(paths.dataset(stream))
    if os.path.lexists(paths.private):
        return
    lines = (paths.main_log, paths.training_log, paths.errors_log, paths.events_jsonl)
    for file in (*lines, paths.metrics_jsonl, paths.system_jsonl):
        if os.path.lexists(file) and not begins_as_ours(file):
            check_own(os.lstat(file), file)
            raise NotOursError(errno.EEXIST, _TAKEN, str(file))
    if os.path.lexists(paths.summary) and not read_file(paths.summary).startswith(_SUMMARY):
        raise NotOursError(errno.EEXIST, _TAKEN, str(paths.summary))


def make_private(paths: RunPaths) -> None:
    """Makes the run's folder, and those above it.

    :raises OSError: it could not be made.
    :raises NotOursError: something else than a folder of this user lies there.
    """
    paths.log_dir.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        paths.private.parent.mkdir()
    if paths.private.parent.is_symlink():  # of any user: others may have runs in this log folder
        check_folder(paths.private.parent)
    make_folder(paths.private)


def lock_rank(paths: RunPaths, doing: str = "", is_wanted: Callable[[], bool] = lambda: True) -> FileLock:
    """This process's claim on one rank of a run. A recovery or a compaction that another process is at is waited for, a
    minute at most.

    :param doing: said of this process to whoever finds the lock held.
    :param is_wanted: asked while another process is waited for.
    :raises RunBusyError: another live process holds it.
    """
    if FileLock.held_here(paths.lock):
        raise RunBusyError(f"rank {paths.rank} of {paths.name!r} in {paths.log_dir} is being logged by this process")
    deadline = time.monotonic() + _RECOVERY_S
    looks = 0
    while True:
        try:
            return FileLock(paths.lock, doing)
        except LockedError as owner:
            looks += 1
            ends = str(owner).endswith((RECOVERING, COMPACTING))
            # Twice: whoever has just taken it may not have said yet who it is.
            if time.monotonic() > deadline or (looks > 1 and not ends) or not is_wanted():
                what = f"rank {paths.rank} of {paths.name!r} in {paths.log_dir}"
                held = "held" if ends else "being logged"
                other = "" if ends else "; another rank of the run gives rank=, or has a launcher that says it"
                raise RunBusyError(f"{what} is {held} by another live process: {owner}{other}") from None
        time.sleep(_PAUSE_S)


def claim_attempt(paths: RunPaths, ranks: RankIdentity) -> RunIdentity:
    """This process's place in the run: the attempt of its launch if it has one, else a new attempt.

    :raises OSError: the run's folder cannot be written, or the file that holds the run's id is damaged.
    """
    for folder in (paths.attempts, paths.temporary):
        make_folder(folder)
    file = paths.private / "run.json"
    run = _claim(paths, file, {"run_id": uuid.uuid4().hex, "created_ns": time.time_ns()})
    if run is None or not _is_run_id(run.get("run_id")):
        # Made anew, it would silently be another run's id.
        remedy = f'write {{"run_id": "..."}} there, with the id in {paths.summary.name}, or remove it for a new id'
        raise OSError(errno.EINVAL, f"expected the run's id, got a damaged file; {remedy}", str(file))
    attempt = max(_attempts(paths), default=0)
    if attempt == 0 or not _joins(paths, attempt, ranks):
        attempt += 1
        while not _begins(paths, attempt, ranks):
            attempt += 1
    return RunIdentity(
        run_id=run["run_id"],
        name=paths.name,
        attempt=attempt,
        rank=ranks.rank,
        world_size=ranks.world_size,
        host=ranks.host,
        pid=ranks.pid,
        local_rank=ranks.local_rank,
    )


def restore_claims(paths: RunPaths, run: RunIdentity) -> None:
    """Makes the run's folder again, where somebody removed it, as this attempt's claims had left it.

    :raises OSError: it could not be made.
    """
    make_private(paths)
    for folder in (paths.attempts, paths.temporary):
        make_folder(folder)
    _claim(paths, paths.private / "run.json", {"run_id": run.run_id, "created_ns": time.time_ns()})
    mine = _described(run)
    _claim(paths, paths.attempts / f"{run.attempt}.json", {"launch": None, **mine})
    _claim(paths, paths.claim(run.attempt), mine)


def read_run_id(paths: RunPaths) -> str | None:
    """The run's id; None where it is not there, or damaged."""
    try:
        run = _read(paths.private / "run.json")
    except OSError:
        return None
    run_id = run.get("run_id") if run is not None else None
    return run_id if _is_run_id(run_id) else None


def _is_run_id(value: object) -> bool:
    return isinstance(value, str) and _RUN_ID.match(value) is not None


def read_claim(file: Path) -> dict[str, Any]:
    """What a process of the run said of itself when it claimed its place: `host`, `pid`, `process_start`, `machine`
    (where the pid means one process), `world_size`, `local_rank`, `claimed_ns`. Empty for a claim that is damaged, or
    gone.

    :raises OSError: it could not be read.
    """
    try:
        return _read(file) or {}
    except FileNotFoundError:
        return {}


def claim_origin(paths: RunPaths, attempt: int, origin: dict[str, Any]) -> bool:
    """Notes from where the attempt goes on; False where another of its ranks has noted another place.

    :raises OSError: it could not be written.
    """
    noted = _claim(paths, paths.attempts / f"{attempt}-origin.json", origin)
    # Ranks that each keep a state of their own took it at one step, and some milliseconds apart.
    return noted is not None and {**noted, "timestamp": None} == {**origin, "timestamp": None}


def read_origins(paths: RunPaths) -> dict[int, dict[str, Any]]:
    """From where each attempt of the run goes on that does: the state that it was resumed from."""
    found = {path: _ORIGIN.match(path.name) for path in paths.attempts.glob("*-origin.json")}
    origins = {int(match[1]): _read(path) for path, match in found.items() if match}
    return {attempt: origin for attempt, origin in origins.items() if origin}


def _attempts(paths: RunPaths) -> list[int]:
    """The attempts that are claimed, and those whose parts stand: the claims may have been removed, or left behind."""
    names = [entry.name for entry in paths.attempts.iterdir()]
    names += [entry.name for stream in ("metrics", "system") for entry in paths.dataset(stream).glob("attempt=*")]
    found = map(_ATTEMPT.match, names)
    return [int(match[1]) for match in found if match]


def _joins(paths: RunPaths, attempt: int, ranks: RankIdentity) -> bool:
    """Whether the attempt is this process's own launch, and its rank is not taken in it."""
    if ranks.launch_key is None:
        return False
    try:
        begun = _read(paths.attempts / f"{attempt}.json")
    except FileNotFoundError:  # the claims were removed, or left behind: only its parts stand
        return False
    # A damaged claim may be any launch's: it counts as another's.
    if begun is None or begun.get("launch") != ranks.launch_key or _is_over(paths, attempt, begun, ranks):
        return False
    return _takes_rank(paths, attempt, ranks)


def _is_over(paths: RunPaths, attempt: int, begun: dict[str, Any], ranks: RankIdentity) -> bool:
    """Whether the attempt is one before this launch, or before its restart, that only has the same name: what began it
    is gone, and was so before this process started. Of another machine's process that cannot be told."""
    if begun.get("machine") != machine_id():
        return False
    if begun.get("restart") != ranks.restart:
        return True
    if process_start(int(begun.get("pid", 0))) == begun.get("process_start"):
        return False
    ledger = RunPaths(paths.log_dir, paths.name, int(begun.get("rank", 0))).ledger(attempt)
    try:
        # A rank that is quick may have ended while another of its launch was still being started.
        return read_ledger(ledger).status in _CUT_SHORT or ledger.stat().st_mtime < started_s()
    except (OSError, ValueError):
        return True


def _begins(paths: RunPaths, attempt: int, ranks: RankIdentity) -> bool:
    """Whether the attempt became this process's: begun by it, or by another rank of its launch just now."""
    mine = {"launch": ranks.launch_key, "restart": ranks.restart, **_described(ranks)}
    claimed = _claim(paths, paths.attempts / f"{attempt}.json", mine)
    if claimed == mine:
        return _takes_rank(paths, attempt, ranks)
    return _joins(paths, attempt, ranks)


def _takes_rank(paths: RunPaths, attempt: int, ranks: RankIdentity) -> bool:
    mine = _described(ranks)
    return _claim(paths, paths.claim(attempt), mine) == mine


def _described(process: RankIdentity | RunIdentity) -> dict[str, Any]:
    """What a claim says of the process that makes it."""
    return {
        "rank": process.rank,
        "world_size": process.world_size,
        "local_rank": process.local_rank,
        "host": process.host,
        "pid": process.pid,
        "process_start": process_start(process.pid),
        "machine": machine_id(),
        "claimed_ns": time.time_ns(),
    }


def _claim(paths: RunPaths, target: Path, content: dict[str, Any]) -> dict[str, Any] | None:
    """What the claim says: `content`, or what another process had claimed before; None where it is damaged."""
    if not os.path.lexists(target):
        # fsynced: a loss of power must not leave the name without what it says.
        with scratch_file(paths.temporary, target.name, json.dumps(content).encode(), sync=True) as scratch:
            failpoint("claim_written")
            with contextlib.suppress(FileExistsError):
                os.link(scratch, target, follow_symlinks=False)  # newer Pythons follow by default
                failpoint("claim_linked")
    return _read(target)


def _read(claim: Path) -> dict[str, Any] | None:
    """What a claim says; None where it is empty or no JSON object, as a loss of power may leave it, or no file of ours.

    :raises OSError: it cannot be read.
    """
    try:
        found = json.loads(read_file(claim))
    except (ValueError, RecursionError, NotOursError):
        return None
    return found if isinstance(found, dict) else None
