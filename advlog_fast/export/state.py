"""Whether a run has ended."""

from __future__ import annotations

from ..reader.events import event_lines
from ..reader.processes import rank_summaries, read_processes, together, told_processes
from ..store.paths import RunPaths

_NOT_FINAL = ("running", "silent", "unknown")


def status_of(paths: RunPaths) -> str:
    """Returns the status of the run's newest attempt, of all of its ranks."""
    told = None if paths.private.is_dir() else told_processes(event_lines(paths))
    return together([process.status for process in read_processes(paths, told, newest_only=True)])


def is_final(status: str) -> bool:
    """Returns whether no more rows come of an attempt with that status, but for those of a recovery."""
    return status not in _NOT_FINAL


def dropped(paths: RunPaths) -> dict[int, int]:
    """Returns how many records each rank of the newest attempt could not take in, as its last summary says."""
    processes = read_processes(paths, newest_only=True)
    if not processes:
        return {}
    summaries = rank_summaries(paths, processes[-1].attempt, [process.rank for process in processes])
    counts = {each["rank"]: (each.get("accounting") or {}).get("dropped_at_entry") or {} for each in summaries}
    return {rank: sum(count for count in told.values() if type(count) is int) for rank, told in counts.items()}
