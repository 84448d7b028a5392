"""The position of an attempt, for a checkpoint, and the position from which another attempt resumes."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..checks import INT64_MAX
from ..exceptions import expected
from ..snapshots import Totals
from ..store.attempts import is_time, known_attempts, read_origins, write_origin
from ..store.paths import RunPaths
from ..store.ranks import RunIdentity
from .text import time_text

_NUMBER = (int, type(None))
_KINDS: dict[str, type | tuple[type, ...]] = {
    "run_id": str,
    "attempt": int,
    "step": _NUMBER,
    "epoch": _NUMBER,
    "batch": _NUMBER,
    "timestamp": str,
}
_LATER_KINDS = dict.fromkeys(("rank", "seq", "max_step", "total_batches", "first_epoch"), _NUMBER)
"""States of earlier versions lack these, and `best`, a text, and `duration_s`."""


def checked_state(state: object) -> dict[str, Any] | None:
    """Returns what `Resumption.state` gave; None for None, and for the empty state of a logger that was off. What an
    earlier version did not note is None.

    :raises TypeError: it is no mapping.
    :raises ValueError: it is none that a logger gave.
    """
    if state is None:
        return None
    if not isinstance(state, Mapping):
        raise TypeError(expected("state_dict", "what state_dict() gave", state))
    if not state:
        return None
    kinds = {**_KINDS, **_LATER_KINDS, "best": (str, type(None)), "duration_s": (int, float, type(None))}
    known = {**dict.fromkeys(kinds.keys() - _KINDS.keys()), **state}
    for name, kind in kinds.items():
        if name not in known or not isinstance(known[name], kind) or not _is_sound(name, known[name]):
            raise ValueError(expected(f"state_dict[{name!r}]", "what state_dict() gave", known.get(name)))
    return {name: known[name] for name in kinds}


def _is_sound(name: str, value: Any) -> bool:
    """Returns whether a logger could have given it."""
    if name == "timestamp":
        return is_time(value)
    if name == "best":
        return value is None or carried_best(value) is not None
    if name == "duration_s":
        return value is None or (type(value) is not bool and 0 <= value < math.inf)
    if name == "first_epoch":
        return value in (None, 0, 1) and type(value) is not bool
    return not isinstance(value, bool) and (not isinstance(value, int) or -INT64_MAX <= value <= INT64_MAX)


def carry_best(best: Mapping[str, Any] | None) -> str | None:
    """Returns the best validation as a state carries it, as text: some kinds of checkpoints take no nested mappings."""
    return None if best is None else json.dumps({name: best[name] for name in ("epoch", "step", "metrics", "is_best")})


def carried_best(text: object) -> dict[str, Any] | None:
    """Returns the `epoch`, `step`, `metrics` and `is_best` that :func:`carry_best` was given; None if it is nothing
    that it gives."""
    try:
        found = json.loads(text) if isinstance(text, str) else {}
        metrics, is_best = found["metrics"], found["is_best"]
        places = {name: found[name] for name in ("epoch", "step")}
        sound = all(type(value) is float for value in metrics.values()) and type(is_best) is bool
        sound = sound and all(place is None or type(place) is int for place in places.values())
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        return None
    return {**places, "metrics": metrics, "is_best": is_best} if sound else None


class Resumption:
    """Where one rank's attempt stands, and which state it was resumed from.

    :param totals: returns the counts, which cover every call that returned before.
    :param seq: returns the seq of the last record accepted.
    :param first_epoch: returns the number of the first epoch.
    :param training: returns the best validation, None before there is one, and how long the training has taken.
    """

    def __init__(
        self,
        paths: RunPaths,
        run: RunIdentity,
        totals: Callable[[], Totals],
        seq: Callable[[], int],
        first_epoch: Callable[[], int | None],
        training: Callable[[], tuple[Mapping[str, Any] | None, float]],
    ) -> None:
        self._paths = paths
        self._run = run
        self._totals = totals
        self._seq = seq
        self._first_epoch = first_epoch
        self._training = training
        self._origin: dict[str, Any] | None = None

    def state(self) -> dict[str, Any]:
        """Returns where the attempt stands: nothing but numbers and strings, for any kind of checkpoint."""
        totals = self._totals()
        best, duration_s = self._training()
        return {
            "run_id": self._run.run_id,
            "attempt": self._run.attempt,
            "rank": self._run.rank,
            "seq": self._seq(),
            "step": totals.last_step,
            "max_step": totals.max_step,
            "epoch": totals.last_epoch,
            "batch": totals.last_batch,
            "total_batches": totals.last_total_batches,
            "first_epoch": self._first_epoch(),
            "best": carry_best(best),
            "duration_s": round(duration_s, 6),
            "timestamp": time_text(time.time_ns()),
        }

    def resume(self, origin: dict[str, Any]) -> tuple[bool, list[tuple[int, str]]]:
        """Notes for readers where the attempt resumes from. Never raises for a fault of the disk.

        The last state before the attempt's first record counts: a program may load one checkpoint for its weights, and
        then another to go on from.

        :returns: whether readers take this state, and what there is to say of it: levels and texts.
        """
        run, run_id, attempt = self._run, origin["run_id"], origin["attempt"]
        if (run_id, attempt) == (run.run_id, run.attempt):
            return False, []  # back within the attempt: its rows are one series
        if self._origin is not None and self._seq():
            return False, [(logging.WARNING, "resumed again after its first record: readers keep the first state")]
        try:
            write_origin(self._paths, run.attempt, origin)
        except OSError as error:
            trouble = f"readers will not know what the attempt was resumed from: {error.filename}: {error.strerror}"
            return False, [(logging.WARNING, trouble)]
        self._origin = origin
        try:
            return True, self._remarks(origin)
        except OSError:
            return True, []

    def _remarks(self, origin: dict[str, Any]) -> list[tuple[int, str]]:
        run, run_id, attempt = self._run, origin["run_id"], origin["attempt"]
        said = []
        if run_id != run.run_id:
            said.append((logging.INFO, f"resumed from another run, {run_id}: readers show this run alone"))
        elif attempt not in known_attempts(self._paths):
            said.append((logging.WARNING, f"resumed from attempt {attempt}, of which nothing is in this folder"))
        if run_id == run.run_id and None in (origin["rank"], origin["seq"]):
            text = "the state of an earlier version names no record: readers cut the attempt before by step and time"
            said.append((logging.INFO, text))
        for rank, other in read_origins(self._paths).get(run.attempt, {}).items():
            if _place(other) != _place(origin):
                text = f"rank {rank} was resumed from another state, {_told(other)}; this rank from {_told(origin)}"
                said.append((logging.WARNING, text))
                break
        return said


def _place(origin: Mapping[str, Any]) -> tuple[Any, ...]:
    # Ranks that each save their own state do so at one step, but some milliseconds apart.
    return tuple(origin.get(name) for name in ("run_id", "attempt", "step"))


def _told(origin: Mapping[str, Any]) -> str:
    return f"attempt {origin.get('attempt')}, step {origin.get('step')} of run {origin.get('run_id')}"
