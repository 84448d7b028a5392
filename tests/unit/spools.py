"""Spool files built slot by slot, as the drain writes them: see csrc/slot.h."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

CORE = ("loss", "accuracy", "learning_rate", "gradient_norm", "batch_time", "data_time")
INTEGERS = ("epoch", "batch", "total_batches", "step")
BATCH, METRICS, MEMORY, PERFORMANCE, SPOOL, NAME, PART, PART_TEXT = 1, 2, 3, 4, 6, 7, 16, 17
RUN_ID = bytes(range(16))

_COMMON = struct.Struct("<QBBHHH")
_HEADER = struct.Struct("<qIiiiq6d3d3HH")
_PART = struct.Struct("<11d11HH")


@dataclass
class Late:
    """A value that never came, and why: an advlog_unresolved."""

    reason: int


@dataclass
class Spool:
    """A spool in memory; `write` puts it on disk."""

    stream: str = "metrics"
    attempt: int = 1
    rank: int = 0
    first_seq: int = 0
    layout: int = 1
    run_id: bytes = RUN_ID
    records: int = 0
    data: bytearray = field(default_factory=bytearray)
    ids: dict[str, int] = field(default_factory=dict)
    """Metric ids, as the ring's table gives them; share one dict among the spools of a run."""
    named: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        number = ("metrics", "system").index(self.stream)
        run_id = struct.unpack("<2d", self.run_id)
        self._slot(
            SPOOL, number, self.layout, 0, 0,
            _HEADER.pack(0, 0, self.attempt, self.rank, 0, self.first_seq, *[0] * 6, *run_id, *[0] * 5),
        )  # fmt: skip

    def _slot(self, kind: int, part: int, count: int, deferred: int, level: int, payload: bytes) -> None:
        mark = len(self.data) // 128 + 1000
        self.data += (_COMMON.pack(mark, kind, part, count, deferred, level) + payload).ljust(128, b"\0")

    def name(self, name: str) -> int:
        metric_id = self.ids.setdefault(name, len(self.ids))
        if name not in self.named:
            self.named.add(name)
            text = name.encode()
            pieces = [text[at : at + 112] for at in range(0, len(text), 112)]
            self._slot(NAME, 1 + len(pieces), len(text), 0, metric_id, b"")
            for index, piece in enumerate(pieces):
                self._slot(PART_TEXT, 1 + index, len(piece), 0, 0, piece)
        return metric_id

    def add(
        self, values: Mapping[str, float | Late] | None = None, *, kind: int | None = None, time_ns: int = 0,
        worker: int = 0, **integers: int,
    ) -> Spool:  # fmt: skip
        """One record; `values` by metric name, core metrics among them."""
        values = dict(values or {})
        present = 0
        core = [0.0] * 6
        late = [0] * (1 + 255)
        for index, name in enumerate(CORE):
            if name in values:
                present |= 1 << index
                value = values.pop(name)
                if isinstance(value, Late):
                    late[0] |= 1 << index
                core[index] = _bits(value)
        for index, name in enumerate(INTEGERS):
            if name in integers:
                present |= 0x40 << index
        extras = [(self.name(name), value) for name, value in values.items()]
        groups = [extras[:3], *(extras[at : at + 11] for at in range(3, len(extras), 11))]
        for part, group in enumerate(groups):
            for index, (_, value) in enumerate(group):
                if isinstance(value, Late):
                    late[part] |= 1 << (index + (6 if part == 0 else 0))
        if kind is None:
            kind = BATCH if self.stream == "metrics" else PERFORMANCE
        numbers = (integers.get(name, 0) for name in INTEGERS)
        payload = _HEADER.pack(time_ns, present, *numbers, *core, *_columns(groups[0], 3), worker)
        self._slot(kind, len(groups), len(extras), late[0], 0, payload)
        for part, group in enumerate(groups[1:], 1):
            self._slot(PART, part, len(group), late[part], 0, _PART.pack(*_columns(group, 11), 0))
        self.records += 1
        return self

    def write(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.data)
        return path


def _bits(value: float | Late) -> float:
    if isinstance(value, Late):
        return float(struct.unpack("<d", struct.pack("<Q", value.reason))[0])
    return value


def _columns(extras: list[tuple[int, float | Late]], size: int) -> list[float]:
    """The values, then the ids, each filled up to `size`."""
    filling = [0] * (size - len(extras))
    return [*(_bits(v) for _, v in extras), *filling, *(metric_id for metric_id, _ in extras), *filling]
