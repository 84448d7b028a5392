"""The position of an attempt, for a checkpoint, and the position from which another attempt resumes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..exceptions import expected
from ..snapshots import Totals
from ..store.attempts import claim_origin
from ..store.paths import RunPaths
from ..store.ranks import RunIdentity
from .text import time_text

_KINDS: dict[str, type | tuple[type, ...]] = {
    "run_id": str,
    "attempt": int,
    "step": (int, type(None)),
    "epoch": (int, type(None)),
    "batch": (int, type(None)),
    "timestamp": str,
}


def state_of(run: RunIdentity, totals: Totals) -> dict[str, Any]:
    """Returns where the attempt stands: nothing but numbers and strings, for any kind of checkpoint."""
    return {
        "run_id": run.run_id,
        "attempt": run.attempt,
        "step": totals.last_step,
        "epoch": totals.last_epoch,
        "batch": totals.last_batch,
        "timestamp": time_text(time.time_ns()),
    }


def checked_state(state: object) -> dict[str, Any] | None:
    """Returns what `state_of` gave; None for None, and for the empty state of a logger that was
    off.

    :raises TypeError: it is no mapping.
    :raises ValueError: it is none that a logger gave.
    """
    if state is None:
        return None
    if not isinstance(state, Mapping):
        raise TypeError(expected("state_dict", "what state_dict() gave", state))
    if not state:
        return None
    for name, kind in _KINDS.items():
        if name not in state or not isinstance(state[name], kind):
            raise ValueError(expected(f"state_dict[{name!r}]", "what state_dict() gave", state.get(name)))
    return {name: state[name] for name in _KINDS}


def keep_origin(paths: RunPaths, run: RunIdentity, origin: dict[str, Any]) -> str:
    """Notes for readers where the attempt resumes from; returns the obstacle, empty if there was none."""
    if (origin["run_id"], origin["attempt"]) == (run.run_id, run.attempt):
        return ""  # back within the attempt: its rows are one series
    try:
        if claim_origin(paths, run.attempt, origin):
            return ""
    except OSError as error:
        return f"readers will not know what the attempt was resumed from: {error.filename}: {error.strerror}"
    return "another rank was resumed from another state first: readers take that one"
