"""Rows as the history of a W&B run, online or offline, as W&B's own settings say."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .records import Record, Series, is_suffix
from .targets import Run, Target, require
from .wandb_files import rows_in

STEP, ATTEMPT, RANK, SEQ = (f"advlog/{name}" for name in ("step", "attempt", "rank", "seq"))
"""What each row has beside its values: the axis, and which record it is of."""
_IDENTITY = (ATTEMPT, RANK, SEQ)
_SETTLED_S = 0.5
_WRITTEN_S = 60.0
"""How long to wait for W&B's own process: until a killed one has stopped writing; until it has written."""

Key = tuple[int, int, int, str]


def connect(place: str, run: Run) -> WandbRuns:
    """Return the target of a project, with the entity before a slash or without; see `Destination.connect`.

    :raises ExportError: wandb is not installed.
    """
    require("wandb", "wandb")
    return WandbRuns(place, run)


@dataclass
class _Open:
    """A series that was opened."""

    run: Any
    next_step: int
    """W&B's own step of the next row: the rows are counted."""
    already: set[Key] = field(default_factory=set)
    """The values that W&B has beyond the cursor."""
    rows: int = 0
    """How many this process has sent."""


class WandbRuns(Target):
    """A W&B run for each series, with an id made of the run's own.

    What W&B was given is safe only once it has ended the run, so a cursor is saved at the end alone. After a kill all
    is sent again from the cursor before, but for what W&B has: it is asked, or the files of its offline runs are read.
    """

    def __init__(self, project: str, run: Run) -> None:
        self._entity, _, self._project = project.rpartition("/")
        self._run = run
        self._folder = os.path.abspath(os.environ.get("WANDB_DIR") or ".")
        self._steps: dict[str, int] = {}
        """The next step of each series when it was last closed."""
        self._open: dict[str, _Open] = {}
        self._status = "completed"

    def resume(self, memory: Mapping[str, Any] | None) -> bool:
        if memory is not None:
            self._folder = memory["folder"]
            self._steps = {suffix: int(step) for suffix, step in memory["steps"].items() if is_suffix(suffix)}
        return True

    def send(self, series: Series, records: Iterable[Record]) -> None:
        opened = self._open.get(series.suffix) or self._opened(series.suffix)
        for place, values in records:
            key = (place.attempt, place.rank, place.seq)
            shown = {_name(name): value for name, value in values}
            if opened.already:
                shown = {name: value for name, value in shown.items() if (*key, name) not in opened.already}
                if not shown:
                    continue
            of = {STEP: place.step, **dict(zip(_IDENTITY, key, strict=True)), "_timestamp": place.time_us / 1e6}
            opened.run.log({**shown, **of}, step=opened.next_step)
            opened.next_step += 1
            opened.rows += 1

    def _opened(self, suffix: str) -> _Open:
        import wandb

        run_id = "-".join(filter(None, [self._run.run_id, suffix]))
        since = self._steps.get(suffix, 0)
        files = self._files(run_id)
        _wait_until_settled(files)
        os.makedirs(self._folder, exist_ok=True)
        run = wandb.init(
            project=self._project,
            entity=self._entity or None,
            id=run_id,
            resume="allow",
            reinit="create_new",
            name="-".join(filter(None, [self._run.name, suffix])),
            group=self._run.name if suffix else None,
            config=dict(self._run.config),
            dir=self._folder,
            settings=wandb.Settings(
                console="off", disable_git=True, save_code=False, silent=True, x_disable_meta=True, x_disable_stats=True
            ),
        )
        run.define_metric(STEP, hidden=True)
        run.define_metric("*", step_metric=STEP)
        rows = [row for path in files for row in rows_in(path)]
        if not run.offline and run.starting_step > since:
            rows += _rows_online(run, since)
        next_step = max([since, run.starting_step, *(step + 1 for step, _ in rows)])
        found = self._open[suffix] = _Open(run, next_step, {key for _, row in rows for key in _keys(row)})
        return found

    def _files(self, run_id: str) -> list[Path]:
        """The files of the offline runs of that id."""
        return sorted(Path(self._folder, "wandb").glob(f"offline-run-*-{run_id}/run-{run_id}.wandb"))

    def accept(self) -> bool:
        return not self._open  # W&B's process holds back what it was given

    def memory(self) -> dict[str, Any]:
        return {"folder": self._folder, "steps": self._steps}

    def errors(self) -> tuple[type[Exception], ...]:
        import wandb

        return (wandb.Error,)

    def ended(self, status: str) -> None:
        self._status = status

    def close(self) -> None:
        for suffix, opened in list(self._open.items()):
            opened.run.finish(exit_code=int(self._status != "completed"))
            if opened.run.offline:
                self._wait_until_written(opened)
            self._steps[suffix] = opened.next_step
            del self._open[suffix]

    def _wait_until_written(self, opened: _Open) -> None:
        """Its process writes the file after `finish` has returned.

        :raises TimeoutError: it has not.
        """
        deadline, pause_s = time.monotonic() + _WRITTEN_S, 0.02
        path = Path(opened.run.settings.sync_file)
        while opened.rows and max((step for step, _ in rows_in(path)), default=-1) < opened.next_step - 1:
            if time.monotonic() > deadline:
                raise TimeoutError(f"W&B has not written its files within {_WRITTEN_S:.0f} s; export again")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)


def _name(name: str) -> str:
    """The name of a metric in W&B, which has names of its own that begin with `_`."""
    return f"metric/{name}" if name.startswith(("_", "advlog/", "metric/")) else name


def _keys(row: Mapping[str, Any]) -> Iterator[Key]:
    identity = [row.get(name) for name in _IDENTITY]
    if all(isinstance(number, (int, float)) for number in identity):
        attempt, rank, seq = (int(number) for number in identity)  # type: ignore[arg-type]
        for name in row:
            if not name.startswith(("_", "advlog/")):
                yield attempt, rank, seq, name


def _rows_online(run: Any, since: int) -> list[tuple[int, dict[str, Any]]]:
    """What W&B has beyond a step."""
    import wandb

    stored = wandb.Api().run(f"{run.entity}/{run.project}/{run.id}")
    return [(int(row["_step"]), row) for row in stored.scan_history(min_step=since)]


def _wait_until_settled(files: list[Path]) -> None:
    """Wait until the process of a killed export has stopped writing."""
    sizes = None
    while files and (now := [path.stat().st_size for path in files]) != sizes:
        sizes = now
        if any(time.time() - path.stat().st_mtime < _SETTLED_S for path in files):
            time.sleep(_SETTLED_S)
