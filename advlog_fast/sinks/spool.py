"""Spools: raw slots on their way into Parquet. The drain appends, the sealer turns each closed one into a part."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from .._native import lib
from ..parquet.columns import STREAMS, scan_spool
from ..store.files import open_file
from ..store.paths import RunPaths
from .base import OpenFile, Retired, Sink

_MAX_BYTES = 1 << 40


class SpoolSink(Sink):
    """The spools of one stream, "metrics" or "system"; each becomes the part of the same number.

    :param submit: takes a closed spool: stream, path, part, first seq, next seq.
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
        """The last part whose spool was handed over."""
        self._paths = paths
        self._attempt = attempt
        self._part_rows = part_rows
        self._submit = submit

    def limits(self) -> dict[str, int]:
        return {"max_bytes": _MAX_BYTES, "max_records": self._part_rows}

    def next_path(self) -> Path:
        return self._paths.spool(self.stream_name, self._attempt, self.generation + 1)

    def candidates(self, generation: int) -> Iterable[Path]:
        return (self._paths.spool(self.stream_name, self._attempt, generation),)

    def contents(self, file: OpenFile) -> tuple[int, int | None]:
        with open_file(file.path) as spool:
            info = scan_spool(spool)
        return info.records, info.first_seq

    def begin(self, file: OpenFile) -> None:
        """A spool is made under its own name."""

    def lost(self, retired: Retired) -> None:
        super().lost(retired)
        self.submitted = retired.file.generation

    def settle(self, retired: Retired, last: bool) -> None:  # noqa: ARG002 - each spool goes the same way
        if retired.records:
            # Not `next_seq`: records dropped after its last one are in no spool.
            next_seq = retired.first_seq + retired.records
            self._submit(self.stream_name, retired.file.path, retired.file.generation, retired.first_seq, next_seq)
        else:
            os.unlink(retired.file.path)
        self.submitted = retired.file.generation
