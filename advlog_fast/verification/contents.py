"""Reads a run's outputs, each once, as a stream. Keeps only the ranges of the records' seqs."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

from ..parquet.columns import STREAMS, SpoolInfo, scan_spool
from ..store.files import NotOursError, check_regular, open_file
from ..store.paths import PartKey, RunPaths
from ..store.rotated_files import rotated_files
from .differences import Differences
from .seqs import Key, SeqRuns, Seqs

_RANK = re.compile(r"\.rank(\d{5})\.")
_TEXT_LINE = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z (?:DEBUG|INFO|WARNING|ERROR|CRITICAL) .*\n\Z")

SinkSeqs = defaultdict[Key, Seqs]
"""The seqs in one sink's files, by attempt and rank."""


class Contents:
    """Reads the outputs of a run, for all of its ranks and attempts.

    :param live: attempts whose last records are in a ring; their files may end in a torn record.
    :param differences: receives what cannot be read.
    """

    def __init__(self, paths: RunPaths, live: set[Key], differences: Differences) -> None:
        self._paths = paths
        self._live = live
        self._differences = differences
        self._seqs: dict[str, SinkSeqs] = {}
        for stream in STREAMS:
            self._seqs[f"{stream}_jsonl"] = self._read_jsonl(stream)
            self._seqs[f"{stream}_parquet"] = self._read_parquet(stream)
        # Lines without a seq: each is only checked for its form.
        self._read_series("training", ".log", _check_text)
        self._read_series("events", ".jsonl", _json)

    def keys(self) -> set[Key]:
        """Returns every attempt and rank with a record."""
        return {key for seqs in self._seqs.values() for key in seqs}

    def by_sink(self, key: Key) -> dict[str, Seqs]:
        """Returns the seqs of one attempt of one rank in each sink's files; leaves out sinks without records."""
        return {sink: seqs[key] for sink, seqs in self._seqs.items() if key in seqs}

    def _read_jsonl(self, stream: str) -> SinkSeqs:
        seqs: SinkSeqs = defaultdict(Seqs)
        runs = SeqRuns(seqs)
        self._read_series(stream, ".jsonl", lambda line: runs.add(*_numbers(line)))
        runs.flush()
        return seqs

    def _read_series(self, what: str, suffix: str, take: Callable[[bytes], object]) -> None:
        """Reads every line of a rotated series, for all ranks.

        :param take: called with each line; raises ValueError for an invalid one.
        """
        stem = f"{self._paths.name}_{what}"
        # Rotated files count too: a rank's current file may be missing between two renames.
        names = (path.name for path in self._paths.log_dir.glob(f"{stem}.rank*{suffix}*"))
        ranks = {0} | {int(match[1]) for match in map(_RANK.search, names) if match}
        for rank in sorted(ranks):
            whose = f".rank{rank:05d}" if rank else ""
            for file, lines in _files(self._paths.log_dir / f"{stem}{whose}{suffix}"):
                self._read_lines(file, lines, rank, take)

    def _read_lines(self, file: Path, lines: IO[bytes], rank: int, take: Callable[[bytes], object]) -> None:
        bad = 0
        first = ""
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                # The last line: a process is writing it, or a recovery will cut it off.
                live = any(r == rank for _, r in self._live)
                report = self._differences.explained if live else self._differences.wrong
                report("pending" if live else "torn", file.name, 1, detail=f"line {number}")
                break
            try:
                take(line)
            except ValueError as error:
                bad += 1
                first = first or f"first in line {number}: {error}"
        if bad:
            self._differences.wrong("unparsable", file.name, bad, detail=first)

    def _read_parquet(self, stream: str) -> SinkSeqs:
        seqs: SinkSeqs = defaultdict(Seqs)
        # Spools first: if one is sealed meanwhile, it is seen twice instead of not at all.
        spools = self._scan_spools(stream)
        parts = self._paths.parts_of_all_ranks(stream)
        for part_key, path in sorted(parts.items()):
            self._read_part(part_key[:2], path, seqs)
        for part_key, info in spools.items():
            if part_key not in parts:
                self._take_spool(stream, part_key, info, seqs)
        return seqs

    def _scan_spools(self, stream: str) -> dict[PartKey, SpoolInfo]:
        spools = {}
        for part_key, path in sorted(self._paths.spools_of_all_ranks(stream).items()):
            try:
                with open_file(path) as file:
                    spools[part_key] = scan_spool(file)
            except FileNotFoundError:
                continue
        return spools

    def _take_spool(self, stream: str, part_key: PartKey, info: SpoolInfo, seqs: SinkSeqs) -> None:
        key, name = part_key[:2], f"{stream} spool {part_key[2]}"
        if info.damaged:
            self._differences.wrong("damaged", name, key=key, detail=f"after {info.records} whole records")
        elif info.total_bytes > info.whole_bytes and key not in self._live:
            self._differences.wrong("torn", name, 1, key, f"after {info.records} whole records")
        if info.records:
            seqs[key].add(info.first_seq, info.first_seq + info.records - 1)

    def _read_part(self, key: Key, path: Path, seqs: SinkSeqs) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            check_regular(path.stat(), path)
            with pq.ParquetFile(path, page_checksum_verification=True) as part:
                # Reads all columns, so that pyarrow verifies all checksums.
                for batch in part.iter_batches(batch_size=65_536):
                    ranks = batch.column("rank").unique().to_pylist()
                    if ranks not in ([], [key[1]]):
                        detail = f"it holds records of ranks {ranks}"
                        self._differences.wrong("unreadable", path.name, key=key, detail=detail)
                    _add_column(batch.column("seq"), key, seqs)
        except (OSError, pa.ArrowException, KeyError) as error:
            self._differences.wrong("unreadable", f"{path.parent.name}/{path.name}", 1, key, str(error))


def _files(path: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """Yields the files of a series, newest first, each once: the inode identifies a file that is rotated meanwhile."""
    seen: set[tuple[int, int]] = set()
    fresh = True
    while fresh:
        fresh = False
        for file in (path, *reversed(rotated_files(path))):
            try:
                lines = BufferedReader(open_file(file, follow=True))
            except (FileNotFoundError, NotOursError):
                continue
            with lines:
                status = os.fstat(lines.fileno())
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                fresh = True
                yield file, lines


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


_STRICT = json.JSONDecoder(parse_constant=_refuse)


def _json(line: bytes) -> dict[str, Any]:
    """:raises ValueError: the line is no strict JSON object."""
    row = _STRICT.decode(line.decode())
    if not isinstance(row, dict):
        raise ValueError("expected a JSON object")  # noqa: TRY004 - the line is wrong, not a type
    return row


def _numbers(line: bytes) -> tuple[Key, int]:
    """:raises ValueError: the line is no record."""
    row = _json(line)
    attempt, rank, seq = row.get("attempt"), row.get("rank"), row.get("seq")
    if not isinstance(attempt, int) or not isinstance(rank, int) or not isinstance(seq, int):
        raise ValueError("expected attempt, rank and seq")  # noqa: TRY004 - as above
    return (attempt, rank), seq


def _check_text(line: bytes) -> None:
    """:raises ValueError: the line does not begin like a line of a text log."""
    if not _TEXT_LINE.match(line):
        raise ValueError("expected a timestamp and a level")


def _add_column(column: Any, key: Key, seqs: SinkSeqs) -> None:
    """Adds a column of seqs: as one range if it is one, else one by one."""
    import pyarrow.compute as pc

    if not len(column):
        return
    first, last = column[0].as_py(), column[-1].as_py()
    rising = len(column) == 1 or pc.all(pc.greater(column.slice(1), column.slice(0, len(column) - 1))).as_py()
    if rising and last - first == len(column) - 1:
        seqs[key].add(first, last)
        return
    runs = SeqRuns(seqs)
    for seq in column.to_pylist():
        runs.add(key, seq)
    runs.flush()
