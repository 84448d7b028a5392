"""The ledger of an attempt of a rank, kept beside the run so that its files can be verified later."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .._failpoints import failpoint
from ..snapshots import Health
from .files import make_folder, read_file, scratch_file
from .paths import RunPaths

LOST = "lost"
"""The status of an ledger that knows nothing: the ring that had the numbers was lost."""


@dataclass(frozen=True)
class SinkLedger:
    """Records of one destination: accepted = written + dropped + pending, and of those written, some expired
    or vanished with their files."""

    accepted: int
    written: int
    dropped: int
    expired: int
    vanished: int = 0

    @property
    def pending(self) -> int:
        return self.accepted - self.written - self.dropped


@dataclass(frozen=True)
class Ledger:
    """What became of everything that an attempt of a rank was given."""

    status: str
    """How it ended: `completed`, `failed`, `interrupted`, `killed` or `lost`."""
    sinks: dict[str, SinkLedger]
    """By name."""
    dropped_at_entry: dict[str, int] = field(default_factory=dict)
    """Records that never entered the ring, by reason: `full`, `closed`, `forked`."""
    lost_in_flight: int = 0
    """Runs of ring slots that were reserved and never published, by calls that had not returned."""

    @classmethod
    def of_health(cls, health: Health) -> Ledger:
        sinks = {
            s.name: SinkLedger(s.accepted, s.written, s.dropped, s.expired, s.vanished) for s in health.sinks.values()
        }
        return cls(health.status, sinks, dict(health.dropped_at_entry))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def write_ledger(paths: RunPaths, attempt: int, ledger: Ledger) -> None:
    """Replaces the ledger of this rank's attempt, in one step.

    :raises OSError: it could not be.
    """
    make_folder(paths.ledgers)
    file = paths.ledger(attempt)
    with scratch_file(paths.ledgers, file.name, json.dumps(ledger.as_dict()).encode()) as scratch:
        failpoint("account_written")
        os.rename(scratch, file)


def read_ledgers(paths: RunPaths) -> dict[tuple[int, int], Ledger]:
    """Every ledger of the run, by attempt and rank.

    :raises OSError: one could not be read.
    :raises ValueError: one is damaged; the message names it.
    """
    return {key: read_ledger(path) for key, path in paths.ledgers_of_all_ranks().items()}


def read_ledger(file: Path) -> Ledger:
    """One ledger.

    :raises OSError: it could not be read.
    :raises ValueError: it is damaged; the message names it.
    """
    text = read_file(file)
    try:
        told = json.loads(text)
        told["sinks"] = {sink: SinkLedger(**numbers) for sink, numbers in told["sinks"].items()}
        return Ledger(**told)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file}: expected an ledger, got {type(error).__name__}") from error
