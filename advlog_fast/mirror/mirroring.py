"""Mirrors a folder: one pass, or one after another until its runs have ended."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from ..exceptions import RunBusyError
from ..store.files import cache_folder
from ..store.locks import FileLock, LockedError
from ..store.paths import RunPaths, check_run, checked_name, local_path, run_names
from .scanning import has_ended
from .store import Store
from .uploading import Uploader

_LOOK_S = 0.1
_TRIES = 5
"""Of a pass that nothing follows: it ends the mirror."""
_LONGEST_PAUSE_S = 60.0


def mirror(
    log_dir: str | os.PathLike[str],
    url: str,
    names: Iterable[str] = (),
    *,
    follow: bool = False,
    interval_s: float = 10.0,
    is_stopped: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = lambda _: None,
    on_pass: Callable[[int], None] = lambda _: None,
) -> bool:
    """Copies the runs of a folder to a URL, where `read_run` and `list_runs` read them. Returns whether all was copied.

    A pass reads what has changed and uploads it in blocks of 1 MiB (parts: 64 MiB), the last block of a file that has
    grown again, then a manifest. Where nothing has changed it looks at each file's size and time. Without the network
    it tries again: five times, or with `follow` until it is back.

    :param names: some of the runs; none for all.
    :param follow: make a pass every `interval_s`, until every run has ended and is copied, or `is_stopped`; then the
        last.
    :param interval_s: the age of the newest records in the store at most, as long as a pass takes less.
    :param is_stopped: asked ten times a second.
    :param tell: called with each problem, once.
    :param on_pass: called after each pass with the bytes uploaded so far.
    :raises RunNotFoundError: there is no such folder, or no such run in it; with `follow` it is waited for.
    :raises RunBusyError: another process mirrors the folder to the URL.
    :raises ValueError: the URL is none that a mirror may have, or a name is none of a run.
    :raises RemoteError: a package is missing.
    """
    runs = [checked_name(name) for name in names]
    folder = Path(os.path.abspath(local_path("log_dir", log_dir)))
    store = Store(url)
    if not follow:
        check_run(folder, None)
        for name in runs:
            check_run(folder, name)
    uploader = Uploader(folder, store, runs)
    key = hashlib.sha256(os.fsencode(f"{socket.gethostname()}\0{store.url}\0{os.path.realpath(folder)}")).hexdigest()
    try:
        lock = FileLock(cache_folder("mirrors") / f"{key[:32]}.lock", ", which mirrors it")
    except LockedError as owner:
        raise RunBusyError(f"{folder} is being mirrored to {store.url} by another process: {owner}") from None
    try:
        return _Mirroring(uploader, folder, runs, tell, on_pass).run(interval_s if follow else None, is_stopped)
    finally:
        lock.release()


class _Mirroring:
    def __init__(
        self,
        uploader: Uploader,
        folder: Path,
        runs: list[str],
        tell: Callable[[str], None],
        on_pass: Callable[[int], None],
    ) -> None:
        self._uploader = uploader
        self._folder = folder
        self._runs = runs
        self._tell = tell
        self._on_pass = on_pass
        self._told: set[str] = set()
        self._is_away = False

    def run(self, interval_s: float | None, is_stopped: Callable[[], bool]) -> bool:
        failures = 0
        while True:
            # Before the pass: what ends while it runs is in the next.
            is_last = is_stopped() or interval_s is None or self._have_ended()
            began = time.monotonic()
            problems = self._pass()
            if problems is not None:
                failures = 0
                if is_last:
                    return not problems
                # So that the next manifest is there when the interval is over.
                took = time.monotonic() - began
                pause_s = max((interval_s or 0.0) - 2 * took, min(took, interval_s or 0.0))
            else:
                failures += 1
                if failures >= _TRIES and (interval_s is None or is_stopped()):
                    return False
                pause_s = min(2.0 ** (failures - 1), _LONGEST_PAUSE_S)
            _wait(began + pause_s if problems is not None else time.monotonic() + pause_s, is_stopped)

    def _pass(self) -> list[str] | None:
        """Makes a pass and returns what could not be copied; None if it failed as a whole."""
        try:
            problems = self._uploader.copy()
        except OSError as error:
            if not self._is_away:
                self._tell(f"{error}; it is tried again")
            self._is_away = True
            return None
        self._is_away = False
        for problem in problems:
            if problem not in self._told:
                self._tell(problem)
        self._told = set(problems)
        self._on_pass(self._uploader.uploaded)
        return problems

    def _have_ended(self) -> bool:
        there = run_names(self._folder)
        runs = self._runs or there
        return bool(runs) and all(run in there and has_ended(RunPaths(self._folder, run)) for run in runs)


def _wait(until: float, is_stopped: Callable[[], bool]) -> None:
    was_stopped = is_stopped()
    while time.monotonic() < until and is_stopped() == was_stopped:
        time.sleep(_LOOK_S)
