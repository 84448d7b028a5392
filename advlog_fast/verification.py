"""Whether a run's files hold what its accounts say: gaps, doubles and damage, by (attempt, rank, seq).

A gap is explained by a counter of the attempt's account (promise: accepted = written + dropped + pending, and some of
what was written expired or vanished), by rotation, or by a ring that is still to be drained; by nothing else.
"""

from __future__ import annotations

import os
from pathlib import Path

from ._accounts import LOST, Account, SinkAccount, read_accounts
from ._contents import Contents
from ._findings import Finding, Findings, tally
from ._paths import RunPaths, run_names
from ._seqs import Key, Seqs, shown
from .sinks.columns import STREAMS

__all__ = ["Finding", "tally", "verify"]


def verify(log_dir: str | os.PathLike[str], name: str | None = None) -> list[Finding]:
    """What is to be said of the runs in a directory, or of one of them; empty where every record is in its place.

    Reads only, and works beside a live run, whose latest records count as pending.

    :raises FileNotFoundError: there is no such directory.
    :raises OSError: a file cannot be read for another reason than what is in it.
    """
    folder = Path(os.path.abspath(log_dir))
    if not folder.is_dir():
        raise FileNotFoundError(f"log_dir: expected a directory, got {str(log_dir)!r}")
    names = [name] if name is not None else run_names(folder)
    return [finding for run in names for finding in _verify_run(RunPaths(folder, run))]


def _verify_run(paths: RunPaths) -> list[Finding]:
    findings = Findings(paths.name)
    live = set(paths.ring_notes_of_all_ranks())
    accounts: dict[Key, Account] = {}
    try:
        accounts = read_accounts(paths)
    except ValueError as error:
        findings.wrong("unreadable", "accounts", detail=str(error))
    contents = Contents(paths, live, findings)
    live.update(paths.ring_notes_of_all_ranks())  # what began meanwhile may be in the files already
    for path in sorted(paths.spools.glob("*.damaged")):
        findings.wrong("damaged", path.name, 1, detail="what follows the damage is in no part")
    for path in sorted(paths.set_aside.glob("*")):
        findings.wrong("set aside", path.name, 1, detail="it could not be used")
    known = sorted({*accounts, *live, *contents.keys()})
    for key in known:
        account = accounts.get(key)
        if account is not None and account.status != LOST:
            later = any(rank == key[1] and attempt > key[0] for attempt, rank in known)
            _Comparison(key, contents, findings).with_account(account, later)
        else:
            _Comparison(key, contents, findings).without_account(key in live)
    return findings.all


class _Comparison:
    """Of what the files hold of one attempt of one rank with what is known of it."""

    def __init__(self, key: Key, contents: Contents, findings: Findings) -> None:
        self._key = key
        self._findings = findings
        self._met = {where: seqs[key] for where, seqs in contents.seqs.items() if key in seqs}
        for where, met in self._met.items():
            if met.doubled:
                self._wrong("doubled", where, met.doubled, f"the first is seq {met.first_doubled}")

    def _wrong(self, kind: str, where: str, count: int, detail: str) -> None:
        self._findings.wrong(kind, where, count, self._key, detail)

    def _explained(self, kind: str, where: str, count: int, detail: str = "") -> None:
        if count:
            self._findings.explained(kind, where, count, self._key, detail)

    def with_account(self, account: Account, later: bool) -> None:
        """:param later: a later attempt may have rotated files of this one away."""
        self._explained(
            "lost in flight",
            "ring",
            account.lost_in_flight,
            "reserved and never published: calls that had not returned",
        )
        for reason, count in account.dropped_at_entry.items():
            self._explained("refused", "ring", count, reason)
        for stream in STREAMS:
            accepted = {sink.accepted for where, sink in account.sinks.items() if where in _sinks_of(stream)}
            if len(accepted) > 1:
                self._wrong("unbalanced", stream, 0, f"its sinks accepted {sorted(accepted)}")
        for where, sink in account.sinks.items():
            self._check_balance(where, sink)
        for stream in STREAMS:
            for where in _sinks_of(stream):
                met, told = self._met.get(where, Seqs()), account.sinks.get(where)
                if told is not None:
                    # A kill between a file's end and its count leaves it uncounted.
                    rotating = where.endswith("_jsonl") and (later or account.status == "killed")
                    self._compare_sink(where, met, told, rotating)
                elif met.present:
                    self._wrong("unbalanced", where, met.present, "the account knows no such sink")

    def _check_balance(self, where: str, sink: SinkAccount) -> None:
        gone = sink.expired + sink.vanished
        numbers = (sink.accepted, sink.written, sink.dropped, sink.expired, sink.vanished, sink.pending)
        if min(numbers) < 0 or (not sink.pending and gone > sink.written):
            self._wrong("unbalanced", where, 0, f"{sink}")
        elif sink.pending:
            detail = f"accepted {sink.accepted}, written {sink.written}, dropped {sink.dropped}"
            self._wrong("unbalanced", where, sink.pending, detail)

    def _compare_sink(self, where: str, met: Seqs, told: SinkAccount, rotating: bool) -> None:
        """:param rotating: rotation may have gone on after the account was written."""
        if met.last > told.accepted:
            detail = f"the account ends at {told.accepted}, the files at {met.last}"
            self._wrong("unbalanced", where, met.last - told.accepted, detail)
        missing = max(told.accepted, met.last) - met.present
        self._explained("dropped", where, told.dropped)
        self._explained("expired", where, told.expired)
        self._explained("vanished", where, told.vanished)
        unexplained = missing - told.dropped - told.expired - told.vanished
        if unexplained < 0:
            detail = f"{missing} are missing, the account tells of more"
            self._wrong("unbalanced", where, -unexplained, detail)
        elif rotating:
            head = met.first - 1 if met.ranges else told.accepted
            expired = min(unexplained, max(head - told.expired, 0))
            self._explained("expired", where, expired, "since the account was written")
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
