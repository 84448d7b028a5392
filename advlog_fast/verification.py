"""Whether a run's files hold what its accounts say: gaps, doubles and damage, by (attempt, rank, seq).

Every output is read once, as a stream; of its records only the ranges of their numbers are kept, which are few where
nothing is wrong. A gap is explained by a counter of the attempt's account (promise: accepted = written + dropped +
pending, and some of what was written expired), by rotation, or by a ring that is still to be drained; by nothing else.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ._accounts import LOST, Account, SinkAccount, read_accounts
from ._generations import generations
from ._paths import RunPaths, run_names
from .sinks.columns import STREAMS, scan_spool

_NOTE = re.compile(r"attempt(\d+)-rank(\d+)\.json\Z")
_RANK = re.compile(r"\.rank(\d{5})\.")
_TEXT_LINE = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z (?:DEBUG|INFO|WARNING|ERROR|CRITICAL) .*\n\Z")
_SHOWN = 3

Key = tuple[int, int]
"""Attempt and rank."""


@dataclass(frozen=True)
class Finding:
    """Something about a run's files that is not as a complete, undisturbed run leaves them."""

    kind: str
    """Not explained: "missing", "doubled", "torn", "unparsable", "unreadable", "damaged", "set aside", "unbalanced"
    (the account contradicts itself or the files), "unaccounted" (an attempt that left no account and no ring).
    Explained: "expired", "dropped", "vanished", "pending", "lost in flight", "refused" (never entered the ring)."""
    explained: bool
    name: str
    """Of the run."""
    where: str
    """The sink, such as `metrics_jsonl`, or the file."""
    count: int = 0
    """Records, lines or files, as the kind has it."""
    attempt: int | None = None
    rank: int | None = None
    detail: str = ""

    def __str__(self) -> str:
        whose = "" if self.attempt is None else f" attempt {self.attempt} rank {self.rank}"
        count = f" {self.count}" if self.count else ""
        detail = f" ({self.detail})" if self.detail else ""
        return (
            f"{'explained' if self.explained else 'WRONG'}: {self.name}{whose} {self.where}:{count} {self.kind}{detail}"
        )


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
    return [finding for run in names for finding in _Verification(RunPaths(folder, run)).run()]


# -- ranges of numbers -----------------------------------------------------------------------------------------------


@dataclass
class _Seqs:
    """Which numbers were met, as ranges in order that do not touch."""

    ranges: list[tuple[int, int]] = field(default_factory=list)
    doubled: int = 0
    first_doubled: int = 0

    def add(self, first: int, last: int) -> None:
        ranges = self.ranges
        if not ranges or first > ranges[-1][1] + 1:
            ranges.append((first, last))
        elif first == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], last)
        else:
            self._merge(first, last)

    def _merge(self, first: int, last: int) -> None:
        """Numbers before the last range's end: of a file read out of turn, or met before."""
        apart, low, high = [], first, last
        for start, end in self.ranges:
            if end + 1 < first or last + 1 < start:
                apart.append((start, end))
                continue
            twice = min(end, last) - max(start, first) + 1
            if twice > 0:
                self.doubled += twice
                self.first_doubled = self.first_doubled or max(start, first)
            low, high = min(low, start), max(high, end)
        self.ranges = sorted([*apart, (low, high)])

    @property
    def present(self) -> int:
        return sum(end - start + 1 for start, end in self.ranges)

    @property
    def first(self) -> int:
        return self.ranges[0][0] if self.ranges else 0

    @property
    def last(self) -> int:
        return self.ranges[-1][1] if self.ranges else 0

    def gaps(self, end: int | None = None) -> list[tuple[int, int]]:
        """The ranges between those met, and up to `end`."""
        inner = [(a[1] + 1, b[0] - 1) for a, b in zip(self.ranges, self.ranges[1:], strict=False)]
        return inner + ([(self.last + 1, end)] if end is not None and end > self.last else [])


class _Runs:
    """Gathers single numbers into ranges before they are added."""

    def __init__(self, into: defaultdict[Key, _Seqs]) -> None:
        self._into = into
        self._key: Key = (0, 0)
        self._first, self._last = 0, -1

    def add(self, key: Key, seq: int) -> None:
        if seq == self._last + 1 and key == self._key:
            self._last = seq
            return
        self.flush()
        self._key, self._first, self._last = key, seq, seq

    def flush(self) -> None:
        if self._last >= self._first:
            self._into[self._key].add(self._first, self._last)
        self._first, self._last = 0, -1


def _shown(ranges: list[tuple[int, int]]) -> str:
    words = [f"{a}" if a == b else f"{a}-{b}" for a, b in ranges[:_SHOWN]]
    more = f" and {len(ranges) - _SHOWN} more ranges" if len(ranges) > _SHOWN else ""
    return f"seq {', '.join(words)}{more}" if words else ""


# -- one run -----------------------------------------------------------------------------------------------------------


class _Verification:
    def __init__(self, paths: RunPaths) -> None:
        self.paths = paths
        self.found: list[Finding] = []
        self.noted = _noted(paths)
        """Attempts that are being logged, or wait for their recovery: their last records are in a ring."""
        self.accounts: dict[Key, Account] = {}
        self.seqs: dict[str, defaultdict[Key, _Seqs]] = {}
        """By sink."""

    def run(self) -> list[Finding]:
        try:
            self.accounts = read_accounts(self.paths)
        except ValueError as error:
            self._say("unreadable", False, "accounts", detail=str(error))
        for stream in STREAMS:
            self.seqs[f"{stream}_jsonl"] = self._read_jsonl(stream)
            self.seqs[f"{stream}_parquet"] = self._read_parquet(stream)
        self._read_text()
        self._look_at_what_was_kept()
        for key in sorted({*self.accounts, *self.noted, *(key for seqs in self.seqs.values() for key in seqs)}):
            if key in self.accounts and self.accounts[key].status != LOST:
                self._compare(key, self.accounts[key])
            else:
                self._compare_without_account(key)
        return self.found

    def _say(
        self, kind: str, explained: bool, where: str, count: int = 0, key: Key | None = None, detail: str = ""
    ) -> None:
        attempt, rank = key if key is not None else (None, None)
        self.found.append(Finding(kind, explained, self.paths.name, where, count, attempt, rank, detail))

    # -- reading -----------------------------------------------------------------------------------------------------

    def _read_jsonl(self, stream: str) -> defaultdict[Key, _Seqs]:
        seqs: defaultdict[Key, _Seqs] = defaultdict(_Seqs)
        for rank, path in self._series(f"{stream}", ".jsonl"):
            for file, lines in _files(path):
                runs = _Runs(seqs)
                self._read_lines(file, lines, rank, lambda line, runs=runs: runs.add(*_numbers(line)))  # type: ignore[misc]
                runs.flush()
        return seqs

    def _read_lines(self, file: Path, lines: IO[bytes], rank: int, take: Callable[[bytes], object]) -> None:
        """:param take: raises ValueError for a line that is none of its kind."""
        bad = 0
        first = ""
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                # The last: being written, or to be cut by a recovery.
                pending = any(r == rank for _, r in self.noted)
                self._say("pending" if pending else "torn", pending, file.name, 1, detail=f"line {number}")
                return
            try:
                take(line)
            except ValueError as error:
                bad += 1
                first = first or f"first in line {number}: {error}"
        if bad:
            self._say("unparsable", False, file.name, bad, detail=first)

    def _read_parquet(self, stream: str) -> defaultdict[Key, _Seqs]:
        seqs: defaultdict[Key, _Seqs] = defaultdict(_Seqs)
        # Spools first: one that is sealed meanwhile is then found twice, and not missed.
        spools = {}
        for part_key, path in sorted(self.paths.spools_of_all_ranks(stream).items()):
            try:
                with path.open("rb", buffering=0) as file:
                    spools[part_key] = scan_spool(file)
            except FileNotFoundError:
                continue
        parts = self.paths.parts_of_all_ranks(stream)
        for part_key, path in sorted(parts.items()):
            self._read_part(part_key[:2], path, seqs)
        for part_key, info in spools.items():
            if part_key in parts:
                continue
            key, name = part_key[:2], f"{stream} spool {part_key[2]}"
            if info.damaged:
                self._say("damaged", False, name, key=key, detail=f"after {info.records} whole records")
            elif info.total_bytes > info.whole_bytes and key not in self.noted:
                self._say("torn", False, name, 1, key, f"after {info.records} whole records")
            if info.records:
                seqs[key].add(info.first_seq, info.first_seq + info.records - 1)
        return seqs

    def _read_part(self, key: Key, path: Path, seqs: defaultdict[Key, _Seqs]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        runs = _Runs(seqs)
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as part:
                # All columns, so that all checksums are looked at.
                for batch in part.iter_batches(batch_size=65_536):
                    ranks = batch.column("rank").unique().to_pylist()
                    if ranks not in ([], [key[1]]):
                        self._say("unreadable", False, path.name, key=key, detail=f"it holds records of ranks {ranks}")
                    _add_column(batch.column("seq"), key, seqs[key], runs)
        except (OSError, pa.ArrowException, KeyError) as error:
            self._say("unreadable", False, f"{path.parent.name}/{path.name}", 1, key, str(error))
        runs.flush()

    def _read_text(self) -> None:
        """Lines without a number: only whether each is whole."""
        for rank, path in self._series("training", ".log"):
            for file, lines in _files(path):
                self._read_lines(file, lines, rank, _check_text)
        for rank, path in self._series("events", ".jsonl"):
            for file, lines in _files(path):
                self._read_lines(file, lines, rank, _json)

    def _series(self, what: str, suffix: str) -> Iterator[tuple[int, Path]]:
        """The current files of a rotated series, of each rank; one may be away between two renames."""
        stem = f"{self.paths.name}_{what}"
        ranks = {0}
        for path in self.paths.log_dir.glob(f"{stem}.rank*{suffix}*"):
            match = _RANK.search(path.name)
            if match:
                ranks.add(int(match[1]))
        for rank in sorted(ranks):
            yield rank, self.paths.log_dir / (f"{stem}.rank{rank:05d}{suffix}" if rank else f"{stem}{suffix}")

    def _look_at_what_was_kept(self) -> None:
        for path in sorted(self.paths.spools.glob("*.damaged")):
            self._say("damaged", False, path.name, 1, detail="what follows the damage is in no part")
        for path in sorted((self.paths.private / "set-aside").glob("*")):
            self._say("set aside", False, path.name, 1, detail="a ring that could not be used")

    # -- comparing ---------------------------------------------------------------------------------------------------

    def _compare(self, key: Key, account: Account) -> None:
        if account.lost_in_flight:
            detail = "calls that the end of the process cut short"
            self._say("lost in flight", True, "ring", account.lost_in_flight, key, detail)
        for reason, count in account.dropped_at_entry.items():
            if count:
                self._say("refused", True, "ring", count, key, reason)
        for stream in STREAMS:
            accepted = {sink.accepted for where, sink in account.sinks.items() if where in _sinks_of(stream)}
            if len(accepted) > 1:
                self._say("unbalanced", False, stream, key=key, detail=f"its sinks accepted {sorted(accepted)}")
        for where, sink in account.sinks.items():
            if min(sink.accepted, sink.written, sink.dropped, sink.expired, sink.vanished, sink.pending) < 0:
                self._say("unbalanced", False, where, key=key, detail=f"{sink}")
            elif sink.pending:
                detail = f"accepted {sink.accepted}, written {sink.written}, dropped {sink.dropped}"
                self._say("unbalanced", False, where, sink.pending, key, detail)
            elif sink.expired + sink.vanished > sink.written:
                self._say("unbalanced", False, where, key=key, detail=f"{sink}")
        for where, seqs in self.seqs.items():
            met = seqs.get(key, _Seqs())
            told = account.sinks.get(where)
            self._tell_doubled(key, where, met)
            if told is not None:
                self._compare_sink(key, where, met, told, account.status)
            elif met.present:
                self._say("unbalanced", False, where, met.present, key, "the account knows no such sink")

    def _compare_sink(self, key: Key, where: str, met: _Seqs, told: SinkAccount, status: str) -> None:
        if met.last > told.accepted:
            detail = f"the account ends at {told.accepted}, the files at {met.last}"
            self._say("unbalanced", False, where, met.last - told.accepted, key, detail)
        missing = max(told.accepted, met.last) - met.present
        for kind, count in (("dropped", told.dropped), ("expired", told.expired), ("vanished", told.vanished)):
            if count:
                self._say(kind, True, where, count, key)
        unexplained = missing - told.dropped - told.expired - told.vanished
        if unexplained < 0:
            detail = f"{missing} are missing, the account tells of more"
            self._say("unbalanced", False, where, -unexplained, key, detail)
        elif unexplained and self._may_have_expired(key, where, status):
            head = met.first - 1 if met.ranges else told.accepted
            later = min(unexplained, max(head - told.expired, 0))
            if later:
                self._say("expired", True, where, later, key, "since the account was written")
            unexplained -= later
        if unexplained > 0:
            head_range = [(1, met.first - 1)] if met.first > 1 else []
            detail = _shown(head_range + met.gaps(told.accepted))
            self._say("missing", False, where, unexplained, key, detail)

    def _may_have_expired(self, key: Key, where: str, status: str) -> bool:
        """Whether rotation may have gone on since: by a later attempt, or by a kill between a file and its count."""
        known = {*self.accounts, *self.noted, *(other for seqs in self.seqs.values() for other in seqs)}
        later = any(rank == key[1] and attempt > key[0] for attempt, rank in known)
        return where.endswith("_jsonl") and (later or status == "killed")

    def _compare_without_account(self, key: Key) -> None:
        live = key in self.noted
        if live:
            lasts = ", ".join(f"{where} up to {seqs[key].last}" for where, seqs in self.seqs.items() if key in seqs)
            self._say(
                "pending", True, "ring", key=key, detail=f"being logged, or to be recovered; {lasts or 'no records'}"
            )
        else:
            self._say(
                "unaccounted", False, "ring", key=key, detail="its ring was lost: its last records may be missing"
            )
        for stream in STREAMS:
            met = {where: self.seqs[where][key] for where in _sinks_of(stream) if key in self.seqs[where]}
            end = max((seqs.last for seqs in met.values()), default=0)
            for where, seqs in met.items():
                self._tell_doubled(key, where, seqs)
                gaps = seqs.gaps(None if live else end)
                if seqs.first > 1 and where.endswith("_jsonl"):
                    self._say("expired", True, where, seqs.first - 1, key)
                elif seqs.first > 1:
                    gaps = [(1, seqs.first - 1), *gaps]
                if gaps:
                    count = sum(last - first + 1 for first, last in gaps)
                    self._say("missing", False, where, count, key, _shown(gaps))

    def _tell_doubled(self, key: Key, where: str, met: _Seqs) -> None:
        if met.doubled:
            self._say("doubled", False, where, met.doubled, key, f"the first is seq {met.first_doubled}")


def _sinks_of(stream: str) -> tuple[str, str]:
    return f"{stream}_jsonl", f"{stream}_parquet"


def _noted(paths: RunPaths) -> set[Key]:
    names = os.listdir(paths.rings) if paths.rings.is_dir() else []
    return {(int(match[1]), int(match[2])) for match in map(_NOTE.match, names) if match}


def _files(path: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """A series' files, newest first, each once: one that is rotated meanwhile is known by its inode."""
    seen: set[tuple[int, int]] = set()
    fresh = True
    while fresh:
        fresh = False
        for file in (path, *reversed(generations(path))):
            try:
                lines = file.open("rb")
            except FileNotFoundError:
                continue
            with lines:
                found = os.fstat(lines.fileno())
                if (found.st_dev, found.st_ino) in seen:
                    continue
                seen.add((found.st_dev, found.st_ino))
                fresh = True
                yield file, lines


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _json(line: bytes) -> dict[str, Any]:
    """:raises ValueError: the line is no strict JSON object."""
    row = json.loads(line.decode(), parse_constant=_refuse)
    if not isinstance(row, dict):
        raise ValueError("expected a JSON object")  # noqa: TRY004 - what is wrong is the line
    return row


def _numbers(line: bytes) -> tuple[Key, int]:
    """:raises ValueError: the line is no record."""
    row = _json(line)
    attempt, rank, seq = row.get("attempt"), row.get("rank"), row.get("seq")
    if not isinstance(attempt, int) or not isinstance(rank, int) or not isinstance(seq, int):
        raise ValueError("expected attempt, rank and seq")  # noqa: TRY004 - likewise
    return (attempt, rank), seq


def _check_text(line: bytes) -> None:
    """:raises ValueError: the line does not begin as the lines of a text log do."""
    if not _TEXT_LINE.match(line):
        raise ValueError("expected a timestamp and a level")


def _add_column(column: Any, key: Key, seqs: _Seqs, runs: _Runs) -> None:
    """A column of numbers: as one range where it is one, else number by number."""
    import pyarrow.compute as pc

    if not len(column):
        return
    first, last = column[0].as_py(), column[-1].as_py()
    if last - first == len(column) - 1 and (
        len(column) == 1 or pc.all(pc.greater(column.slice(1), column.slice(0, len(column) - 1))).as_py()
    ):
        seqs.add(first, last)
        return
    for seq in column.to_pylist():
        runs.add(key, seq)


def tally(findings: list[Finding]) -> str:
    """The findings' kinds, counted: the line that a report ends with."""
    wrong = Counter(finding.kind for finding in findings if not finding.explained)
    explained = Counter(finding.kind for finding in findings if finding.explained)
    if not findings:
        return "every record is in its place, once"
    told = [f"{count} {kind}" for kind, count in sorted(wrong.items())] or ["nothing unexplained"]
    told += [f"{count} {kind} (explained)" for kind, count in sorted(explained.items())]
    return "; ".join(told)
