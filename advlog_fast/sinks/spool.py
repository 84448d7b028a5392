"""Spools: raw slots on their way into Parquet. The drain appends, the sealer turns each closed spool into a part."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from .._native import lib
from ..parquet.columns import STREAMS, scan_spool
from ..store.files import open_file
from ..store.paths import RunPaths
from .base import ClosedFile, OpenFile, Sink

_MAX_BYTES = 1 << 40


class SpoolSink(Sink):
    """The spools of one stream, "metrics" or "system"; each becomes the part of the same number.

    :param submit: called with each closed spool: stream, path, part, first seq, next seq.
    """

    kind = lib.ADVLOG_SINK_SPOOL

    def __init__(
        self,
        stream: str,
        paths: RunPaths,
        attempt: int,
        part_rows: int,
        submit: Callable[[str, Path, int, int, int], None],
    ) -> None:
        super().__init__()
        self.name = f"{stream}_parquet"
        self.stream = STREAMS.index(stream)
        self.stream_name = stream
        self.submitted = 0
        """The last part whose spool was submitted."""
        self._paths = paths
        self._attempt = attempt
        self._part_rows = part_rows
        self._submit = submit

    def limits(self) -> dict[str, int]:
        return {"max_bytes": _MAX_BYTES, "max_records": self._part_rows}

    def next_path(self) -> Path:
        return self._paths.spool(self.stream_name, self._attempt, self.last_number + 1)

    def candidates(self, number: int) -> Iterable[Path]:
        return (self._paths.spool(self.stream_name, self._attempt, number),)

    def contents(self, file: OpenFile) -> tuple[int, int | None]:
        with open_file(file.path) as spool:
            info = scan_spool(spool)
        return info.records, info.first_seq

    def on_open(self, file: OpenFile) -> None:
        """Does nothing: a spool is created under its final name."""

    def on_vanished(self, closed: ClosedFile) -> None:
        super().on_vanished(closed)
        self.submitted = closed.file.number

    def publish(self, closed: ClosedFile, last: bool) -> None:  # noqa: ARG002 - every spool is submitted alike
        if closed.records:
            # Not `closed.next_seq`: records dropped after the spool's last one are in no spool.
            next_seq = closed.first_seq + closed.records
            self._submit(self.stream_name, closed.file.path, closed.file.number, closed.first_seq, next_seq)
        else:
            os.unlink(closed.file.path)
        self.submitted = closed.file.number
