"""What the files hold of one attempt of one rank, compared with what is known of it."""

from __future__ import annotations

from ..parquet.columns import STREAMS
from ..store.ledger import Ledger, SinkLedger
from .findings import Findings
from .seqs import Key, Seqs, shown


class Comparison:
    """:param met: what the files hold, by sink.
    :param findings: told what does not agree.
    """

    def __init__(self, key: Key, met: dict[str, Seqs], findings: Findings) -> None:
        self._key = key
        self._met = met
        self._findings = findings
        for where, seqs in met.items():
            if seqs.doubled:
                self._wrong("doubled", where, seqs.doubled, f"the first is seq {seqs.first_doubled}")

    def _wrong(self, kind: str, where: str, count: int, detail: str) -> None:
        self._findings.wrong(kind, where, count, self._key, detail)

    def _explained(self, kind: str, where: str, count: int, detail: str = "") -> None:
        if count:
            self._findings.explained(kind, where, count, self._key, detail)

    def with_ledger(self, ledger: Ledger, later: bool) -> None:
        """:param later: a later attempt may have rotated files of this one away."""
        self._explained(
            "lost in flight",
            "ring",
            ledger.lost_in_flight,
            "reserved and never published: calls that had not returned",
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
                met, told = self._met.get(where, Seqs()), ledger.sinks.get(where)
                if told is not None:
                    # A kill between a file's end and its count leaves it uncounted; the last file never expires.
                    killed = ledger.status == "killed" and met.present > 0
                    rotating = where.endswith("_jsonl") and (later or killed)
                    self._compare_sink(where, met, told, rotating)
                elif met.present:
                    self._wrong("unbalanced", where, met.present, "the ledger knows no such sink")

    def _check_balance(self, where: str, sink: SinkLedger) -> None:
        gone = sink.expired + sink.vanished
        numbers = (sink.accepted, sink.written, sink.dropped, sink.expired, sink.vanished, sink.pending)
        if min(numbers) < 0 or (not sink.pending and gone > sink.written):
            self._wrong("unbalanced", where, 0, f"{sink}")
        elif sink.pending:
            detail = f"accepted {sink.accepted}, written {sink.written}, dropped {sink.dropped}"
            self._wrong("unbalanced", where, sink.pending, detail)

    def _compare_sink(self, where: str, met: Seqs, told: SinkLedger, rotating: bool) -> None:
        """:param rotating: rotation may have gone on after the ledger was written."""
        if met.last > told.accepted:
            detail = f"the ledger ends at {told.accepted}, the files at {met.last}"
            self._wrong("unbalanced", where, met.last - told.accepted, detail)
        missing = max(told.accepted, met.last) - met.present
        self._explained("dropped", where, told.dropped)
        self._explained("expired", where, told.expired)
        self._explained("vanished", where, told.vanished)
        unexplained = missing - told.dropped - told.expired - told.vanished
        if unexplained < 0:
            detail = f"{missing} are missing, the ledger tells of more"
            self._wrong("unbalanced", where, -unexplained, detail)
        elif rotating:
            head = met.first - 1 if met.ranges else told.accepted
            expired = min(unexplained, max(head - told.expired, 0))
            self._explained("expired", where, expired, "since the ledger was written")
            unexplained -= expired
        if unexplained > 0:
            before = [(1, met.first - 1)] if met.first > 1 else []
            self._wrong("missing", where, unexplained, shown(before + met.gaps(told.accepted)))

    def without_account(self, live: bool) -> None:
        """:param live: it is being logged, or waits for its recovery."""
        if live:
            lasts = ", ".join(f"{where} up to {met.last}" for where, met in self._met.items())
            detail = f"being logged, or to be recovered; {lasts or 'no records'}"
            self._findings.explained("pending", "ring", key=self._key, detail=detail)
        else:
            self._wrong("unaccounted", "ring", 0, "its ring was lost: its last records may be missing")
        for stream in STREAMS:
            sinks = {where: self._met[where] for where in _sinks_of(stream) if where in self._met}
            end = None if live else max((met.last for met in sinks.values()), default=0)
            for where, met in sinks.items():
                gaps = met.gaps(end)
                if where.endswith("_jsonl"):
                    self._explained("expired", where, met.first - 1)
                elif met.first > 1:
                    gaps = [(1, met.first - 1), *gaps]
                if gaps:
                    self._wrong("missing", where, sum(last - first + 1 for first, last in gaps), shown(gaps))


def _sinks_of(stream: str) -> tuple[str, str]:
    return f"{stream}_jsonl", f"{stream}_parquet"
