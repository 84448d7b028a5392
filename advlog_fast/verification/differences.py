"""The differences of a verification."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from .seqs import Key


@dataclass(frozen=True)
class Difference:
    """A difference between a run's files and those of a complete, undisturbed run."""

    kind: str
    """Not explained: "missing", "doubled", "torn", "unparsable", "unreadable", "damaged", "set aside", "unbalanced"
    (the ledger contradicts itself or the files), "unaccounted" (an attempt that left no ledger and no ring).
    Explained: "expired", "dropped", "vanished", "pending", "lost in flight", "refused" (never entered the ring)."""
    explained: bool
    name: str
    """The run's name."""
    where: str
    """The sink, such as `metrics_jsonl`, or the file."""
    count: int = 0
    """The number of records, lines or files, depending on the kind."""
    attempt: int | None = None
    rank: int | None = None
    detail: str = ""

    def __str__(self) -> str:
        judgement = "explained" if self.explained else "WRONG"
        whose = "" if self.attempt is None else f" attempt {self.attempt} rank {self.rank}"
        count = f" {self.count}" if self.count else ""
        detail = f" ({self.detail})" if self.detail else ""
        return f"{judgement}: {self.name}{whose} {self.where}:{count} {self.kind}{detail}"


class Differences:
    """Collects the differences of one run, in order.

    :param name: the run's name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.all: list[Difference] = []

    def wrong(self, kind: str, where: str, count: int = 0, key: Key | None = None, detail: str = "") -> None:
        """Adds a difference that nothing explains."""
        self._add(kind, False, where, count, key, detail)

    def explained(self, kind: str, where: str, count: int = 0, key: Key | None = None, detail: str = "") -> None:
        """Adds a difference that a counter, a live process or a ring explains."""
        self._add(kind, True, where, count, key, detail)

    def _add(self, kind: str, explained: bool, where: str, count: int, key: Key | None, detail: str) -> None:
        attempt, rank = key if key is not None else (None, None)
        self.all.append(Difference(kind, explained, self.name, where, count, attempt, rank, detail))


def tally(differences: Iterable[Difference]) -> str:
    """Counts the differences by kind, each of which is a line, for the last line of a report."""
    differences = list(differences)
    if not differences:
        return "every record is in its place, once"
    wrong = Counter(difference.kind for difference in differences if not difference.explained)
    explained = Counter(difference.kind for difference in differences if difference.explained)
    parts = [f"{count} {kind}" for kind, count in sorted(wrong.items())] or ["nothing unexplained"]
    parts += [f"{count} {kind} (explained)" for kind, count in sorted(explained.items())]
    return f"lines above: {'; '.join(parts)}"
