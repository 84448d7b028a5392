"""Compares the records of one attempt of one rank in the files with its ledger."""

from __future__ import annotations

from ..parquet.columns import STREAMS
from ..store.ledger import Ledger, SinkLedger
from .differences import Differences
from .seqs import Key, Seqs, shown


class Comparison:
    """Compares one attempt of one rank.

    :param by_sink: the seqs in the files.
    :param differences: receives every difference.
    """

    def __init__(self, key: Key, by_sink: dict[str, Seqs], differences: Differences) -> None:
        self._key = key
        self._by_sink = by_sink
        self._differences = differences
        for where, seqs in by_sink.items():
            if seqs.doubled:
                self._wrong("doubled", where, seqs.doubled, f"the first is seq {seqs.first_doubled}")

    def _wrong(self, kind: str, where: str, count: int, detail: str) -> None:
        self._differences.wrong(kind, where, count, self._key, detail)

    def _explained(self, kind: str, where: str, count: int, detail: str = "") -> None:
        if count:
            self._differences.explained(kind, where, count, self._key, detail)

    def with_ledger(self, ledger: Ledger, later: bool) -> None:
        """Compares the files with the attempt's ledger.

        :param later: a later attempt may have rotated files of this one away.
        """
        self._explained(
            "lost in flight",
            "ring",
            ledger.lost_in_flight,
            "reserved and not published by calls that had not returned",
        )
        for reason, count in ledger.dropped_at_entry.items():
            self._explained("refused", "ring", count, reason)
        for stream in STREAMS:
            accepted = {sink.accepted for where, sink in ledger.sinks.items() if where in _sinks_of(stream)}
            if len(accepted) > 1:
                self._wrong("unbalanced", stream, 0, f"its sinks accepted {sorted(accepted)}")
        for where, sink in ledger.sinks.items():
            self._check_balance(where, sink)
        for stream in STREAMS:
            for where in _sinks_of(stream):
                seqs, counts = self._by_sink.get(where, Seqs()), ledger.sinks.get(where)
                if counts is not None:
                    # A kill may come between the removal of a file and its count; the last file never expires.
                    killed = ledger.status == "killed" and seqs.present > 0
                    rotating = where.endswith("_jsonl") and (later or killed)
                    self._compare_sink(where, seqs, counts, rotating)
                elif seqs.present:
                    self._wrong("unbalanced", where, seqs.present, "the ledger has no such sink")

    def _check_balance(self, where: str, sink: SinkLedger) -> None:
        removed = sink.expired + sink.vanished
        numbers = (sink.accepted, sink.written, sink.dropped, sink.expired, sink.vanished, sink.pending)
        if min(numbers) < 0 or (not sink.pending and removed > sink.written):
            self._wrong("unbalanced", where, 0, f"{sink}")
        elif sink.pending:
            detail = f"accepted {sink.accepted}, written {sink.written}, dropped {sink.dropped}"
            self._wrong("unbalanced", where, sink.pending, detail)

    def _compare_sink(self, where: str, seqs: Seqs, counts: SinkLedger, rotating: bool) -> None:
        """:param rotating: rotation may have removed files without a count in the ledger."""
        if seqs.last > counts.accepted:
            detail = f"the ledger ends at {counts.accepted}, the files at {seqs.last}"
            self._wrong("unbalanced", where, seqs.last - counts.accepted, detail)
        missing = max(counts.accepted, seqs.last) - seqs.present
        self._explained("dropped", where, counts.dropped)
        self._explained("expired", where, counts.expired)
        self._explained("vanished", where, counts.vanished)
        unexplained = missing - counts.dropped - counts.expired - counts.vanished
        if unexplained < 0:
            detail = f"{missing} are missing, fewer than the ledger says"
            self._wrong("unbalanced", where, -unexplained, detail)
        elif rotating:
            head = seqs.first - 1 if seqs.ranges else counts.accepted
            expired = min(unexplained, max(head - counts.expired, 0))
            self._explained("expired", where, expired, "since the ledger was written")
            unexplained -= expired
        if unexplained > 0:
            before = [(1, seqs.first - 1)] if seqs.first > 1 else []
            self._wrong("missing", where, unexplained, shown(before + seqs.gaps(counts.accepted)))

    def without_ledger(self, live: bool) -> None:
        """Looks for gaps in the files of an attempt without a ledger.

        :param live: a process logs the attempt, or it needs a recovery.
        """
        if live:
            ends = ", ".join(f"{where} up to {seqs.last}" for where, seqs in self._by_sink.items())
            detail = f"being logged, or not recovered yet; {ends or 'no records'}"
            self._differences.explained("pending", "ring", key=self._key, detail=detail)
        else:
            self._wrong("unaccounted", "ring", 0, "its ring was lost: its last records may be missing")
        for stream in STREAMS:
            sinks = {where: self._by_sink[where] for where in _sinks_of(stream) if where in self._by_sink}
            end = None if live else max((seqs.last for seqs in sinks.values()), default=0)
            for where, seqs in sinks.items():
                gaps = seqs.gaps(end)
                if where.endswith("_jsonl"):
                    self._explained("expired", where, seqs.first - 1)
                elif seqs.first > 1:
                    gaps = [(1, seqs.first - 1), *gaps]
                if gaps:
                    self._wrong("missing", where, sum(last - first + 1 for first, last in gaps), shown(gaps))


def _sinks_of(stream: str) -> tuple[str, str]:
    return f"{stream}_jsonl", f"{stream}_parquet"
