"""The report of a recovery on one attempt of one rank."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Recovered:
    """What a recovery found for one attempt of one rank, and what it did (or would do, in a dry run)."""

    name: str
    attempt: int
    rank: int
    outcome: str = "recovered"
    """One of "recovered"; "alive": the process is alive, nothing was touched; "lost": the ring is gone, or on another
    machine; "set aside": the ring cannot be used and was moved, `detail` says where; "incomplete": the disk failed, run
    the recovery again."""
    detail: str = ""
    records: dict[str, int] = field(default_factory=dict)
    """Records replayed from the ring, by sink."""
    cut_bytes: dict[str, int] = field(default_factory=dict)
    """Bytes of torn records cut off the files, by sink."""
    lost_in_flight: int = 0
    """Runs of ring slots that calls had reserved and not published when the process was killed."""
    parts: int = 0
    """The number of sealed Parquet parts."""
    logs: bool = False
    """Another live process may still log this attempt."""

    def end(self, outcome: str, detail: str) -> Recovered:
        """Sets the outcome, adds to the detail, and returns the report."""
        self.outcome = outcome
        self.add(detail)
        return self

    def add(self, detail: str) -> None:
        """Appends to the detail."""
        self.detail = f"{self.detail}; {detail}" if self.detail else detail

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "logs"}

    def __str__(self) -> str:
        parts = [self.detail] if self.detail else []
        parts += [f"{count} records to {sink}" for sink, count in self.records.items() if count]
        parts += [f"{size} torn bytes cut off {sink}" for sink, size in self.cut_bytes.items() if size]
        parts += [f"{self.lost_in_flight} lost in flight"] if self.lost_in_flight else []
        parts += [f"{self.parts} parts sealed"] if self.parts else []
        text = "; ".join(parts) or "nothing to do"
        attempt = f" attempt {self.attempt}" if self.attempt else ""
        return f"{self.name}{attempt} rank {self.rank}: {self.outcome}; {text}"
