"""Claims on a run: its id, its attempts, and the lock of each rank. No collective call, no lock across ranks.

A process writes each claim to a scratch file and links it to the claimed name. Only one process can do so, and readers
never see a partial claim.
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
from datetime import datetime
from pathlib import Path
from typing import Any, TypeGuard

from .._failpoints import failpoint
from ..exceptions import RunBusyError
from .files import (
    NotOursError,
    begins_as_ours,
    check_folder,
    check_own,
    make_folder,
    read_file,
    scratch_file,
    write_whole,
)
from .ledger import LOST, read_ledger
from .locks import COMPACTING, DEAD_OWNER_S, RECOVERING, FileLock, LockedError, has_ended
from .paths import RunPaths
from .processes import machine_id, process_start, started_s
from .ranks import RankIdentity, RunIdentity

_RECOVERY_S = 60.0
_PAUSE_S = 0.05
_HINT = (
    "; a second start of the same script needs another experiment_name, and another rank of the run rank=, or a "
    "launcher that sets it"
)
_CUT_SHORT = ("killed", LOST)
_TAKEN = "expected a file that this package wrote or nothing, got another file: choose another experiment_name"
_SUMMARY = b'{\n  "total_metrics"'
_STEPS = {"first_epoch": None}
"""Runs of earlier versions have no such key, and count steps from epoch 1."""
_RUN_ID = re.compile(r"[0-9a-f]{32}\Z")
_ATTEMPT = re.compile(r"(?:attempt[=-])?([0-9]{1,9})(?:\.json)?\Z")
_ORIGIN = re.compile(r"([0-9]{1,9})-(?:rank([0-9]{5,})-)?origin\.json\Z")


def check_free(paths: RunPaths) -> None:
    """Checks, before the first attempt of a run, that no file of the user's has the name of one of the run's files.
    Otherwise the run would rotate that file as an earlier attempt's, and one day remove it.

    :raises NotOursError: such a file exists.
    """
    for stream in ("metrics", "system"):
        if os.path.lexists(paths.dataset(stream)):
            check_folder(paths.dataset(stream))
    if os.path.lexists(paths.private):
        return
    for file in (paths.main_log, paths.errors_log, paths.events_jsonl, *paths.rotated_series):
        if os.path.lexists(file) and not begins_as_ours(file):
            check_own(os.lstat(file), file)
            raise NotOursError(errno.EEXIST, _TAKEN, str(file))
    if os.path.lexists(paths.summary) and not read_file(paths.summary).startswith(_SUMMARY):
        raise NotOursError(errno.EEXIST, _TAKEN, str(paths.summary))


def make_private(paths: RunPaths) -> None:
    """Makes the run's private folder and the ones above it.

    :raises OSError: the folder cannot be made.
    :raises NotOursError: the path is no folder, a link, or another user's folder.
    """
    paths.log_dir.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        paths.private.parent.mkdir()
    if paths.private.parent.is_symlink():  # any owner is fine: other users may have runs in this log folder
        check_folder(paths.private.parent)
    make_folder(paths.private)


def lock_rank(paths: RunPaths, doing: str = "", is_wanted: Callable[[], bool] = lambda: True) -> FileLock:
    """Locks one rank of a run for this process. Waits up to a minute for another process's recovery or compaction.

    :param doing: text about this process, for the error message of a process that finds the lock held.
    :param is_wanted: called while waiting; False ends the wait.
    :raises RunBusyError: another live process holds the lock.
    """
    if FileLock.held_here(paths.lock):
        raise RunBusyError(f"rank {paths.rank} of {paths.name!r} in {paths.log_dir} is being logged by this process")
    deadline = time.monotonic() + _RECOVERY_S
    tries = 0
    while True:
        try:
            return FileLock(paths.lock, doing, dead_owner_s=DEAD_OWNER_S if tries == 0 else 0.0)
        except LockedError as owner:
            tries += 1
            is_brief = str(owner).endswith((RECOVERING, COMPACTING))
            # Two tries: a process that has just taken the lock may not have written its name into the file yet.
            if time.monotonic() > deadline or (tries > 1 and not is_brief) or not is_wanted():
                subject = f"rank {paths.rank} of {paths.name!r} in {paths.log_dir}"
                use = "held" if is_brief else "being logged"
                hint = "" if is_brief else _HINT
                by = "a child of a process that has ended" if has_ended(str(owner)) else "another live process"
                raise RunBusyError(f"{subject} is {use} by {by}: {owner}{hint}") from None
        time.sleep(_PAUSE_S)


def claim_attempt(paths: RunPaths, ranks: RankIdentity) -> RunIdentity:
    """Claims this process's place in the run: in the attempt of its launch if there is one, else in a new attempt.

    :raises OSError: the run's folder cannot be written, or the file that holds the run's id is damaged.
    """
    for folder in (paths.attempts, paths.temporary):
        make_folder(folder)
    file = paths.private / "run.json"
    run = _claim(paths, file, {"run_id": uuid.uuid4().hex, "created_ns": time.time_ns(), **_STEPS})
    if run is None or not _is_run_id(run.get("run_id")):
        # A new id would silently turn the folder into another run's.
        remedy = f'write {{"run_id": "..."}} there, with the id in {paths.summary.name}, or remove it for a new id'
        raise OSError(errno.EINVAL, f"expected the run's id, got a damaged file; {remedy}", str(file))
    attempt = max(known_attempts(paths), default=0)
    if attempt == 0 or not _joins(paths, attempt, ranks):
        attempt += 1
        while not _claims_attempt(paths, attempt, ranks):
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


def restore_claims(paths: RunPaths, run: RunIdentity, first_epoch: int | None = None) -> None:
    """Makes the run's private folder and this attempt's claims again after somebody removed them.

    :param first_epoch: of the run, if it is known.

    :raises OSError: the folder or a claim cannot be written.
    """
    make_private(paths)
    for folder in (paths.attempts, paths.temporary):
        make_folder(folder)
    _claim(paths, paths.private / "run.json", {"run_id": run.run_id, "created_ns": time.time_ns(), **_STEPS})
    if first_epoch is not None:
        claim_first_epoch(paths, first_epoch)
    mine = _described(run)
    _claim(paths, paths.attempts / f"{run.attempt}.json", {"launch": None, **mine})
    _claim(paths, paths.claim(run.attempt), mine)


def read_first_epoch(paths: RunPaths) -> int | None:
    """Returns the number of the run's first epoch; None where no record has needed it yet. A run of an earlier version
    has counted from 1.

    :raises OSError: it cannot be read.
    """
    try:
        claim = _read(paths.private / "first_epoch.json") or {}
    except FileNotFoundError:
        claim = {}
    if claim.get("first_epoch") in (0, 1):
        return int(claim["first_epoch"])
    try:
        run = _read(paths.private / "run.json") or {}
    except FileNotFoundError:
        return None
    return None if "first_epoch" in run else 1


def claim_first_epoch(paths: RunPaths, first: int) -> int | None:
    """Notes the number of the run's first epoch unless it is noted, and returns the one that is.

    :raises OSError: it cannot be noted.
    """
    known = read_first_epoch(paths)
    if known is None:
        _claim(paths, paths.private / "first_epoch.json", {"first_epoch": first})
        known = read_first_epoch(paths)
    return known


def read_run_id(paths: RunPaths) -> str | None:
    """Returns the run's id; None if the file is missing or damaged."""
    try:
        run = _read(paths.private / "run.json")
    except OSError:
        return None
    run_id = run.get("run_id") if run is not None else None
    return run_id if _is_run_id(run_id) else None


def _is_run_id(value: object) -> bool:
    return isinstance(value, str) and _RUN_ID.match(value) is not None


def read_claim(file: Path) -> dict[str, Any]:
    """Returns a process's claim on its rank: `host`, `pid`, `process_start`, `machine` (where the pid means one
    process), `world_size`, `local_rank`, `claimed_ns`. Empty if the claim is damaged or missing.

    :raises OSError: the claim cannot be read.
    """
    try:
        return _read(file) or {}
    except FileNotFoundError:
        return {}


def write_origin(paths: RunPaths, attempt: int, origin: dict[str, Any]) -> None:
    """Notes the state that this rank's attempt resumes from, in place of one noted before.

    :raises OSError: it cannot be written.
    """
    data = json.dumps(origin).encode()
    write_whole(paths.origin(attempt), data, folder=paths.temporary, sync=True)


Origins = dict[int, dict[int, dict[str, Any]]]
"""The state that each resumed attempt was resumed from: by attempt, and by the rank that loaded it."""


def read_origins(paths: RunPaths) -> Origins:
    """Returns the states that the attempts of the run were resumed from.

    Earlier versions noted one for all ranks: it stands as rank 0's.
    """
    found: Origins = {}
    for path in sorted(paths.attempts.glob("*-origin.json")):
        match = _ORIGIN.match(path.name)
        origin = _read(path) if match else None
        if match and is_origin(origin):
            found.setdefault(int(match[1]), {})[int(match[2] or 0)] = origin
    return found


def origin_of(origins: Origins, attempt: int) -> dict[str, Any]:
    """Returns the state that an attempt was resumed from: that of its first rank; empty if it was not."""
    by_rank = origins.get(attempt)
    return by_rank[min(by_rank)] if by_rank else {}


def is_origin(origin: Any) -> TypeGuard[dict[str, Any]]:
    """Returns whether it is a state as a logger gives it: anybody may have written the file."""
    if not isinstance(origin, dict):
        return False
    if type(origin.get("run_id")) is not str or type(origin.get("attempt")) is not int:
        return False
    if type(origin.get("duration_s")) not in (int, float, type(None)):
        return False
    numbers = (origin.get(name) for name in ("step", "rank", "seq", "max_step"))
    sound = all(number is None or (type(number) is int and abs(number) < 1 << 63) for number in numbers)
    return sound and is_time(origin.get("timestamp"))


def is_time(text: Any) -> bool:
    """Returns whether it is a time as a state has it, which ends with Z."""
    try:
        datetime.fromisoformat(text.removesuffix("Z") + "+00:00")
    except (AttributeError, TypeError, ValueError):
        return False
    return True


def known_attempts(paths: RunPaths) -> list[int]:
    """Returns the attempts that have claims or parts: a user may have removed the claims, or copied only the parts."""
    names = [entry.name for entry in paths.attempts.iterdir()]
    names += [entry.name for stream in ("metrics", "system") for entry in paths.dataset(stream).glob("attempt*")]
    matches = map(_ATTEMPT.match, names)
    return [int(match[1]) for match in matches if match]


def _joins(paths: RunPaths, attempt: int, ranks: RankIdentity) -> bool:
    """Claims this process's rank in the attempt if its own launch began it, and returns whether that succeeded."""
    if ranks.launch_key is None:
        return False
    try:
        claim = _read(paths.attempts / f"{attempt}.json")
    except FileNotFoundError:  # only the attempt's parts exist
        return False
    # A damaged claim may be any launch's: it counts as another's.
    if claim is None or claim.get("launch") != ranks.launch_key or _is_over(paths, attempt, claim, ranks):
        return False
    return _takes_rank(paths, attempt, ranks)


def _is_over(paths: RunPaths, attempt: int, claim: dict[str, Any], ranks: RankIdentity) -> bool:
    """Returns whether the attempt belongs to an earlier launch or restart of the same name: the process that began it
    ended before this one started. False if that process ran on another machine, where nothing can be checked."""
    if claim.get("machine") != machine_id():
        return False
    if claim.get("restart") != ranks.restart:
        return True
    if process_start(int(claim.get("pid", 0))) == claim.get("process_start"):
        return False
    if int(claim.get("claimed_ns", 0)) / 1e9 > started_s():
        return False  # it began beside this process, however soon it died
    ledger = RunPaths(paths.log_dir, paths.name, int(claim.get("rank", 0))).ledger(attempt)
    try:
        # A quick rank may end while its launch is still starting another.
        return read_ledger(ledger).status in _CUT_SHORT or ledger.stat().st_mtime < started_s()
    except (OSError, ValueError):
        return True


def _claims_attempt(paths: RunPaths, attempt: int, ranks: RankIdentity) -> bool:
    """Begins the attempt, or joins it if another rank of this launch has just begun it. Returns False if another launch
    has the attempt."""
    mine = {"launch": ranks.launch_key, "restart": ranks.restart, **_described(ranks)}
    claimed = _claim(paths, paths.attempts / f"{attempt}.json", mine)
    if claimed == mine:
        return _takes_rank(paths, attempt, ranks)
    return _joins(paths, attempt, ranks)


def _takes_rank(paths: RunPaths, attempt: int, ranks: RankIdentity) -> bool:
    mine = _described(ranks)
    return _claim(paths, paths.claim(attempt), mine) == mine


def _described(process: RankIdentity | RunIdentity) -> dict[str, Any]:
    """Returns the part of a claim that describes the process."""
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
    """Writes a claim unless it exists, and returns the existing claim: `content`, or another process's; None if it is
    damaged."""
    if not os.path.lexists(target):
        # fsynced: a power loss must not leave an empty claim.
        with scratch_file(paths.temporary, target.name, json.dumps(content).encode(), sync=True) as scratch:
            failpoint("claim_written")
            with contextlib.suppress(FileExistsError):
                os.link(scratch, target, follow_symlinks=False)  # newer Pythons follow by default
                failpoint("claim_linked")
    return _read(target)


def _read(claim: Path) -> dict[str, Any] | None:
    """Returns the content of a claim; None if it is no JSON object, as after a power loss, or no regular file.

    :raises OSError: the claim cannot be read.
    """
    try:
        content = json.loads(read_file(claim))
    except (ValueError, RecursionError, NotOursError):
        return None
    return content if isinstance(content, dict) else None
