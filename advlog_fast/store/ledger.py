"""Delivery ledgers: the record counts of each attempt of a rank, by which the run's files can be verified later."""

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
"""The status of a ledger without counts: the ring that held them was lost."""


@dataclass(frozen=True)
class SinkLedger:
    """Record counts of one sink: accepted = written + dropped + pending. Some written records expired or vanished with
    their files."""

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
    """Final delivery counts of one attempt of one rank."""

    status: str
    """How it ended: `completed`, `failed`, `interrupted`, `killed` or `lost`."""
    sinks: dict[str, SinkLedger]
    """The counts of each sink, by name."""
    dropped_at_entry: dict[str, int] = field(default_factory=dict)
    """Records that never entered the ring, by reason: `full`, `closed`, `forked`."""
    lost_in_flight: int = 0
    """Runs of ring slots that calls had reserved and not published when the process was killed."""

    @classmethod
    def of_health(cls, health: Health) -> Ledger:
        sinks = {
            s.name: SinkLedger(s.accepted, s.written, s.dropped, s.expired, s.vanished) for s in health.sinks.values()
        }
        return cls(health.status, sinks, dict(health.dropped_at_entry))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def write_ledger(paths: RunPaths, attempt: int, ledger: Ledger) -> None:
    """Replaces the ledger of this rank's attempt, atomically.

    :raises OSError: the ledger cannot be written.
    """
    make_folder(paths.ledgers)
    file = paths.ledger(attempt)
    with scratch_file(paths.ledgers, file.name, json.dumps(ledger.as_dict()).encode()) as scratch:
        failpoint("account_written")
        os.rename(scratch, file)


def read_ledgers(paths: RunPaths) -> dict[tuple[int, int], Ledger]:
    """Returns every ledger of the run, by attempt and rank.

    :raises OSError: a ledger cannot be read.
    :raises ValueError: a ledger is damaged; the message names it.
    """
    return {key: read_ledger(path) for key, path in paths.ledgers_of_all_ranks().items()}


def read_ledger(file: Path) -> Ledger:
    """Returns one ledger.

    :raises OSError: the file cannot be read.
    :raises ValueError: the file is damaged; the message names it.
    """
    text = read_file(file)
    try:
        values = json.loads(text)
        values["sinks"] = {sink: SinkLedger(**counts) for sink, counts in values["sinks"].items()}
        return Ledger(**values)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file}: expected a ledger, got {type(error).__name__}") from error
