"""Follows a run and sends its rows to a target: thinned, accepted, and then noted in the cursor."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._failpoints import failpoint
from ..exceptions import expected
from ..reader import Followed, follow, read_run
from ..reader.story import settings_of
from ..store.paths import RunPaths, check_run, local_path
from .cursor import CursorFile
from .progress import Progress
from .records import Places, Series, metric_columns
from .sender import Sender
from .state import dropped, is_final, status_of
from .targets import DEFAULT_POINTS, Destination, ExportError, Run, Target, missing
from .thinning import LEAST_POINTS
from .validations import Validations

_ACCEPT_S = 0.2
_WAIT_S = 0.7
"""How long a follower waits before what it gave is accepted: with the two seconds that a row may take in mind."""
_LONGEST_WAIT_S = 2.0
_PAUSES = 5
"""How many times as long as a cursor takes it is until the next one, at least."""
_MAY_GO_ON = ("killed", "lost")
_RESTART_S = 10.0
"""How long a run that was killed is given to be started again."""


@dataclass
class Exported:
    """What an export has done."""

    rows: int = 0
    """Rows read, of all ranks."""
    values: int = 0
    """Values sent."""
    gaps: list[tuple[int, int, int, int]] = field(default_factory=list)
    """Attempt, rank, first and last seq of rows that were no longer there."""
    status: str = "unknown"
    """How the run had ended, or that it has not: as in :attr:`Run.processes`."""
    stopped: bool = False
    """Whether it was asked to stop before the run ended."""


def export(
    log_dir: str | os.PathLike[str],
    name: str,
    destination: Destination,
    *,
    follow_run: bool = False,
    points: int | str | None = None,
    ranks: str = "merged",
    stop: Callable[[], bool] = lambda: False,
    accept_s: float = _ACCEPT_S,
) -> Exported:
    """Send the rows of a run to a target, from where the last export to it ended.

    The trainer pays nothing for it: it reads files, and may run on another machine. It may be killed at any point; the
    next one goes on, without a row missing or doubled.

    :param follow_run: go on until the run has ended.
    :param points: about how many points of a metric to send, or "all"; None for the target's usual number.
    :param ranks: "merged": one run of the target, with the metrics of rank 0 under their own names and those of rank k
        below `rank<k>/`; "each": one a rank.
    :param stop: asked between two batches; true ends the export as a killed one would, but with all accepted.
    :param accept_s: the shortest time between two cursors.
    :raises RunNotFoundError: there is no such run.
    :raises RunBusyError: another process exports the run to this target.
    :raises ExportError: the target's package is missing, or what is in its place is not the target's.
    :raises ValueError: an argument is none of these.
    """
    directory = local_path("log_dir", log_dir)
    check_run(directory, name)
    most = _points(points, destination.kind)
    if ranks not in ("merged", "each"):
        raise ValueError(expected("ranks", "'merged' or 'each'", ranks))
    paths = RunPaths(directory, name)
    run = read_run(directory, name)
    told = Run(name, run.run_id or _made_id(directory, name), _config(run), lambda: dropped(paths))
    target = destination.connect(told)  # first: a missing package leaves nothing behind
    file = CursorFile(paths, destination.key(ranks))
    try:
        exporter = _Exporter(paths, target, file, Progress(most, told.run_id), merged=ranks == "merged")
        exporter.accept_s = accept_s
        with _told(destination.kind, target):
            return exporter.run(stop, follow_run=follow_run)
    finally:
        file.close()


@contextlib.contextmanager
def _told(kind: str, target: Target) -> Iterator[None]:
    """Context manager: what fails in the target's package is an ExportError."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing(kind, error.name) from error
    except Exception as error:
        if isinstance(error, target.errors()):
            raise ExportError(f"{kind}: {error}") from error
        raise


def _points(points: int | str | None, kind: str) -> int | None:
    if points is None:
        return DEFAULT_POINTS[kind]
    if points == "all":
        return None
    if type(points) is not int or points < LEAST_POINTS:
        raise ValueError(expected("points", f"a number from {LEAST_POINTS} on, or 'all'", points))
    return points


def _made_id(directory: Path, name: str) -> str:
    return hashlib.blake2s(
        f"{directory.resolve()}\n{name}".encode(errors="surrogateescape"), digest_size=16
    ).hexdigest()


def _config(run: Any) -> Mapping[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        config = run.summary.get("config")
        if isinstance(config, dict):
            return settings_of(config)
    return {}


class _Exporter:
    def __init__(self, paths: RunPaths, target: Target, file: CursorFile, progress: Progress, *, merged: bool) -> None:
        self.accept_s = _ACCEPT_S
        self._paths = paths
        self._target = target
        self._file = file
        self._progress = progress
        self._merged = merged
        self._done = Exported()
        self._is_dirty = False
        self._accepted_at = 0.0
        self._sender = Sender(paths, target, progress, merged=merged)
        self._validations = Validations(paths)

    def run(self, stop: Callable[[], bool], *, follow_run: bool) -> Exported:
        status = self._start(follow_run=follow_run)
        try:
            if self._progress.has_other_points:
                self._is_dirty |= self._sender.close_buckets()
                self._progress.has_other_points = False
            if follow_run:
                status = self._follow(stop)
            else:
                self._to_the_end(stop, 0.0)
            self._done.status = status
            if is_final(status) and not self._done.stopped:
                self._send_validations(lambda *_: math.inf)
            if not self._done.stopped:
                self._is_dirty |= self._sender.close_buckets()
                self._progress.is_closed = True
            self._accept()
            if is_final(status) and not self._done.stopped:
                self._target.ended(status)
        finally:
            self._target.close()
        self._done.values = self._sender.values
        failpoint("export_closed")
        # A target that could not say so before has accepted all when it is closed.
        self._save()
        return self._done

    # -- the start -----------------------------------------------------------------------------------------------

    def _start(self, *, follow_run: bool) -> str:
        """Go on from the cursor, and plan the thinning; nothing is sent before the plan is noted."""
        saved = self._file.load()
        if saved is None or not self._go_on(saved):
            self._progress.forget()
            self._validations.load([])
            self._target.resume(None)
        status = status_of(self._paths)
        if self._progress.is_closed:
            self._plan(is_all=is_final(status) and not follow_run)
            self._progress.is_closed = False
        self._save()
        failpoint("export_planned")
        return status

    def _go_on(self, saved: Mapping[str, Any]) -> bool:
        """Go on from what was saved, and return whether that can be."""
        if not self._progress.load(saved):
            return False
        try:
            self._validations.load(saved["validations"])
            follow(self._paths.log_dir, self._paths.name, self._progress.cursor)  # which checks the cursor
            return self._target.resume(saved["memory"])
        except (AttributeError, KeyError, TypeError, ValueError):  # somebody has edited it
            return False

    def _plan(self, *, is_all: bool) -> None:
        """Count what is there, for the widths of the buckets, and find which rows later attempts supersede."""
        thins = self._progress.points is not None and not self._target.takes_columns
        if not thins and not self._progress.has_resumed(self._paths):
            return
        counts: Counter[tuple[Series, int, str]] = Counter()
        for item in self._items():
            if item.cut is not None:
                self._sender.cut(*item.cut)
            if item.rows is not None and thins:
                places = Places.of(item.rows)
                series = self._sender.series_of(places.attempt, places.rank)
                for metric in metric_columns(item.rows):
                    values = item.rows.column(metric)
                    counts[series, places.rank, metric] += len(values) - values.null_count
        for (series, rank, metric), count in counts.items():
            if count:
                self._progress.thinning(series, rank, metric).plan(count, is_all=is_all)

    # -- the rows ------------------------------------------------------------------------------------------------

    def _follow(self, stop: Callable[[], bool]) -> str:
        wait_s, came_at = _WAIT_S, time.monotonic()
        while True:
            before, status = self._done.rows, status_of(self._paths)
            self._to_the_end(stop, 0.0 if is_final(status) else wait_s)
            self._accept()
            now = time.monotonic()
            if self._done.stopped or stop():
                self._done.stopped = True
                return status
            if self._done.rows != before:
                wait_s, came_at = _WAIT_S, now
            elif self._progress.is_another_run(self._paths):
                return status
            elif is_final(status):
                if status not in _MAY_GO_ON or now - came_at > _RESTART_S:
                    return status
                time.sleep(_WAIT_S)
            else:
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def _to_the_end(self, stop: Callable[[], bool], wait_s: float) -> None:
        """Send what there is, until nothing has come for a while."""
        with contextlib.closing(self._items(wait_s)) as items:
            for item in items:
                self._take(item)
                if stop():
                    self._done.stopped = True
                    return
                if time.monotonic() - self._accepted_at >= self.accept_s:
                    self._accept()
                if wait_s > _WAIT_S:
                    return  # the run was idle: rows come again, and must not wait for so long to be accepted

    def _items(self, wait_s: float = 0.0) -> Generator[Followed, None, None]:
        yield from follow(self._paths.log_dir, self._paths.name, self._progress.cursor, wait_s=wait_s)

    def _take(self, item: Followed) -> None:
        if item.gap is not None:
            self._done.gaps.append(item.gap)
        if item.cut is not None:
            self._sender.cut(*item.cut)
        if item.rows is not None:
            self._done.rows += item.rows.num_rows
            self._sender.rows(item.rows)
        self._progress.cursor = item.cursor
        self._is_dirty = True

    def _send_validations(self, last: Callable[[int, int], float]) -> None:
        if self._target.takes_columns:
            return
        for record in self._validations.new(last, merged=self._merged):
            self._sender.validation(record)
            self._is_dirty = True

    # -- the cursor ----------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        began = self._accepted_at = time.monotonic()
        self._send_validations(self._progress.last)
        if not self._is_dirty:
            return
        failpoint("export_sent")
        if self._target.accept():
            failpoint("export_accepted")
            self._save()
            failpoint("export_saved")
            self._is_dirty = False
        # With tens of thousands of metrics the cursor is long.
        self._accepted_at += _PAUSES * (time.monotonic() - began)

    def _save(self) -> None:
        validations = self._validations.state()
        self._file.save({**self._progress.state(), "validations": validations, "memory": self._target.memory()})
