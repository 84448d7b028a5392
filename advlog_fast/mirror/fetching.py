"""Makes a log folder again of what the manifests at a URL list, for the readers.

Objects lie in the user's cache folder, each downloaded once, and are put together in a folder of this process's own,
which goes with its reader. Everything in the store may be an enemy's: a manifest is checked before it is used, a file
gets no other path than a run's files have, and an object counts only with its size and its hash.
"""

from __future__ import annotations

import contextlib
import re
import time

from ..exceptions import RunNotFoundError
from ..store.paths import checked_name, run_file_of
from .cache import Cache, Listed, MissingError, View
from .manifest import MANIFEST_LIMIT, decoded, merged
from .store import RemoteError, Store

_TRIES = 20
_PAUSE_S = 0.1


def fetched(url: str, name: str | None = None) -> View:
    """Returns a log folder with the runs at a URL as its mirrors show them now.

    Objects that are in the cache folder (`~/.cache/advlog_fast`, or in `XDG_CACHE_HOME`) are not downloaded again. The
    folder goes with the object that is returned.

    :param name: one run; None for what a list of all runs reads.
    :raises ValueError: the URL is none that a mirror may have, or no run can have that name.
    :raises RunNotFoundError: there is no such run; the message lists those that there are.
    :raises RemoteError: the store cannot be read, or holds what no mirror writes; or the cache's disk lacks the room.
    """
    if name is not None:
        checked_name(name)
    store = Store(url)
    cache = Cache(store)
    for remaining in reversed(range(_TRIES)):
        runs = _listed(store)
        if name is None and not runs:
            raise RunNotFoundError(f"log_dir: expected a URL with runs, got {store.url!r}, which has none")
        if name is not None and name not in runs:
            listed = ", ".join([*sorted(runs)[:20], *(["..."] if len(runs) > 20 else [])])
            existing = f"its runs are {listed}" if runs else "it has no runs"
            raise RunNotFoundError(f"name: expected a run in {store.url!r}, got {name!r}; {existing}")
        wanted: Listed = {}
        for run in runs if name is None else [name]:
            wanted.update(_for_a_list(runs[run]) if name is None else _for_a_reader(runs[run]))
        with contextlib.suppress(MissingError):
            cache.download(wanted)
            view = cache.view(wanted)
            cache.clean({block[0] for files in runs.values() for _, each in files.values() for block in each.blocks})
            return view
        # A mirror has removed it, and has put a later manifest into place before.
        time.sleep(_PAUSE_S if remaining else 0)
    raise RemoteError(f"{store.url}: expected the objects that its manifests list, got manifests that list others")


def _listed(store: Store) -> dict[str, Listed]:
    manifests = {}
    for mirror in store.mirrors():
        data = store.manifest(mirror, MANIFEST_LIMIT + 1)
        if data is not None:
            manifests[mirror] = decoded(data, f"{store.url}: {mirror}")
    return merged(manifests)


def _for_a_reader(files: Listed) -> Listed:
    """All files but JSON lines of ranks whose every attempt has Parquet, which readers take instead."""
    attempts: dict[int, set[str]] = {}
    covered: dict[tuple[str, int], set[str]] = {}
    for path in files:
        of = run_file_of(path)
        rank = of[1] if of is not None and of[1] is not None else -1
        claim = re.search(r"/attempts/(\d+)-rank\d+\.claim\Z", path)
        part = re.search(r"_(metrics|system)\.parquet/attempt[=-](\d+)/|/spool/(metrics|system)-attempt(\d+)-", path)
        if claim:
            attempts.setdefault(rank, set()).add(claim[1])
        elif part:
            covered.setdefault((part[1] or part[3], rank), set()).add(part[2] or part[4])

    def is_read(path: str) -> bool:
        lines = re.search(r"_(metrics|system)(?:\.rank(\d+))?\.jsonl(?:\.\d+)?\Z", path)
        if lines is None:
            return True
        rank = int(lines[2] or 0)
        return rank not in attempts or not attempts[rank] <= covered.get((lines[1], rank), set())

    return {path: entry for path, entry in files.items() if is_read(path)}


def _for_a_list(files: Listed) -> Listed:
    """Neither text logs nor, of a run that has ended and was not resumed, records: its summaries tell all."""
    found = {path: entry for path, entry in files.items() if not re.search(r"\.log(?:\.\d+)?\Z", path)}
    claims = {match[1] for path in files if (match := re.search(r"/attempts/(\d+-rank\d+)\.claim\Z", path))}
    ledgers = {
        f"{match[1]}-{match[2]}" for path in files if (match := re.search(r"/attempt(\d+)-(rank\d+)\.json\Z", path))
    }
    if not claims or not claims <= ledgers or any(path.endswith("-origin.json") for path in files):
        return _for_a_reader(found)
    records = re.compile(r"\.parquet/|/spool/|_(?:metrics|system)(?:\.rank\d+)?\.jsonl")
    return {path: entry for path, entry in found.items() if not records.search(path)}
