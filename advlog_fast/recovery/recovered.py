"""What a recovery tells of one attempt of one rank."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Recovered:
    """What a recovery found of one attempt of one rank, and did about it (or would do, in a dry run)."""

    name: str
    attempt: int
    rank: int
    outcome: str = "recovered"
    """One of "recovered"; "alive": its process lives, nothing was touched; "lost": its ring is gone, or on another
    machine; "set aside": its ring cannot be used and was moved to where `detail` says; "incomplete": the disk failed,
    to be run again."""
    detail: str = ""
    records: dict[str, int] = field(default_factory=dict)
    """Records replayed from the ring, by sink."""
    cut_bytes: dict[str, int] = field(default_factory=dict)
    """Torn ends cut off, by sink."""
    lost_in_flight: int = 0
    """Runs of ring slots that were reserved and never published, by calls that had not returned."""
    parts: int = 0
    """Parquet parts sealed."""
    logs: bool = False
    """Its process lives, and is another one that may still log."""

    def end(self, outcome: str, detail: str) -> Recovered:
        """The same, with this outcome."""
        self.outcome = outcome
        self.add(detail)
        return self

    def add(self, detail: str) -> None:
        """Says one more thing."""
        self.detail = f"{self.detail}; {detail}" if self.detail else detail

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "logs"}

    def __str__(self) -> str:
        did = [self.detail] if self.detail else []
        did += [f"{count} records to {sink}" for sink, count in self.records.items() if count]
        did += [f"{size} torn bytes cut off {sink}" for sink, size in self.cut_bytes.items() if size]
        did += [f"{self.lost_in_flight} lost in flight"] if self.lost_in_flight else []
        did += [f"{self.parts} parts sealed"] if self.parts else []
        told = "; ".join(did) or "nothing to do"
        attempt = f" attempt {self.attempt}" if self.attempt else ""
        return f"{self.name}{attempt} rank {self.rank}: {self.outcome}; {told}"
