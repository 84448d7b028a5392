"""Blocks of buckets: values of a metric, or the clock, by steps. The counting is C's; see `csrc/buckets_api.h`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._native import ffi, lib

if TYPE_CHECKING:
    import pyarrow as pa
    from typing_extensions import Self

_COLUMNS = {
    "min": (lib.ADVLOG_BUCKET_MIN, "float64"),
    "max": (lib.ADVLOG_BUCKET_MAX, "float64"),
    "argmin": (lib.ADVLOG_BUCKET_ARGMIN, "int64"),
    "argmax": (lib.ADVLOG_BUCKET_ARGMAX, "int64"),
    "count": (lib.ADVLOG_BUCKET_COUNT, "int64"),
    "records": (lib.ADVLOG_BUCKET_RECORDS, "int64"),
    "nan": (lib.ADVLOG_BUCKET_NAN, "uint32"),
    "posinf": (lib.ADVLOG_BUCKET_POSINF, "uint32"),
    "neginf": (lib.ADVLOG_BUCKET_NEGINF, "uint32"),
    "unresolved": (lib.ADVLOG_BUCKET_UNRESOLVED, "uint32"),
    "rank_min": (lib.ADVLOG_BUCKET_RANK_MIN, "int32"),
    "rank_max": (lib.ADVLOG_BUCKET_RANK_MAX, "int32"),
}


class Block:
    """So many buckets of steps: bucket `i` covers the steps from `(first + i) << shift` to the next one's, so blocks of
    one shift share their edges.

    :param data: what :attr:`data` was of one that was kept; None for empty buckets.
    """

    BYTES: int
    """A bucket's."""

    def __init__(self, first: int, count: int, shift: int, data: bytes | None = None) -> None:
        self.first, self.count, self.shift = first, count, shift
        self.data = bytearray(self.BYTES * count) if data is None else data
        self._at = ffi.from_buffer(self.data)
        if data is None:
            self._clear()

    @classmethod
    def over(cls, low: int, high: int, shift: int) -> Self:
        """Returns an empty one for the steps from `low` to `high`."""
        return cls(low >> shift, (high >> shift) - (low >> shift) + 1, shift)

    def _clear(self) -> None:
        raise NotImplementedError


class Buckets(Block):
    """The values of a metric."""

    BYTES = lib.ADVLOG_BUCKET_BYTES

    def _clear(self) -> None:
        lib.advlog_buckets_clear(self._at, self.count)

    def add(self, rank: int, steps: pa.Array, values: pa.Array) -> None:
        """Counts rows of one rank; those outside of the buckets are passed over.

        :param steps: int64, none null.
        :param values: float64, as many.
        """
        valid = values.buffers()[0] if values.null_count else None
        lib.advlog_buckets_add(
            self._at,
            self.count,
            self.first,
            self.shift,
            rank,
            pointer("int64_t *", steps),
            pointer("double *", values),
            ffi.NULL if valid is None else ffi.cast("uint8_t *", valid.address),
            values.offset,
            len(steps),
        )

    def add_unresolved(self, steps: pa.Array) -> None:
        """Counts values that never came, by their steps."""
        at = self._at, self.count, self.first, self.shift
        lib.advlog_buckets_add_unresolved(*at, pointer("int64_t *", steps), len(steps))

    def fold(self, other: Buckets) -> None:
        """Counts all of another one, whose shift is not above this one's."""
        at = self._at, self.count, self.first, self.shift
        lib.advlog_buckets_fold(*at, other._at, other.count, other.first, other.shift)

    def column(self, name: str) -> pa.Array:
        """Returns a column of the buckets; `min`, `max`, their places and `mean` are null where no value is finite."""
        import pyarrow as pa

        kept = self.valid if name in ("mean", "min", "max", "argmin", "argmax", "rank_min", "rank_max") else None
        if name == "mean":
            means = bytearray(8 * self.count)
            lib.advlog_buckets_mean(self._at, self.count, ffi.from_buffer("double[]", means))
            return pa.Array.from_buffers(pa.float64(), self.count, [kept, pa.py_buffer(means)])
        number, kind = _COLUMNS[name]
        type_ = pa.type_for_alias(kind)
        at = lib.advlog_bucket_offset(self.count, number)
        part = memoryview(self.data)[at : at + self.count * type_.bit_width // 8]
        return pa.Array.from_buffers(type_, self.count, [kept, pa.py_buffer(bytes(part))])

    @property
    def valid(self) -> pa.Buffer | None:
        """The bitmap of the buckets with a finite value; None where all have one."""
        import pyarrow.compute as pc

        has = pc.greater(self.column("count"), 0)
        return None if pc.all(has).as_py() is not False else has.buffers()[1]


class Clock(Block):
    """The times and the epochs of the records."""

    BYTES = lib.ADVLOG_CLOCK_BYTES

    def _clear(self) -> None:
        lib.advlog_clock_clear(self._at, self.count)

    def add(self, steps: pa.Array, times: pa.Array, epochs: pa.Array) -> None:
        """Counts rows.

        :param steps: int64, none null.
        :param times: timestamps in microseconds, none null.
        :param epochs: int32.
        """
        valid = epochs.buffers()[0] if epochs.null_count else None
        lib.advlog_clock_add(
            self._at,
            self.count,
            self.first,
            self.shift,
            pointer("int64_t *", steps),
            pointer("int64_t *", times),
            pointer("int32_t *", epochs),
            ffi.NULL if valid is None else ffi.cast("uint8_t *", valid.address),
            epochs.offset,
            len(steps),
        )

    def fold(self, other: Clock) -> None:
        """Counts all of another one, whose shift is not above this one's."""
        at = self._at, self.count, self.first, self.shift
        lib.advlog_clock_fold(*at, other._at, other.count, other.first, other.shift)

    def column(self, name: str) -> pa.Array:
        """Returns `t0` or `t1`, the times of a bucket's first and last record, or `epoch_first` and `epoch`, its
        first and its last epoch; null where there is none."""
        import pyarrow as pa
        import pyarrow.compute as pc

        kind, at = {
            "t0": (pa.int64(), 0),
            "t1": (pa.int64(), 8 * self.count),
            "epoch_first": (pa.int32(), 16 * self.count),
            "epoch": (pa.int32(), 20 * self.count),
        }[name]
        part = memoryview(self.data)[at : at + self.count * kind.bit_width // 8]
        found = pa.Array.from_buffers(kind, self.count, [None, pa.py_buffer(bytes(part))])
        none = {"t0": 2**63 - 1, "t1": -(2**63), "epoch_first": 2**31 - 1, "epoch": -(2**31)}[name]
        found = pc.if_else(pc.equal(found, none), None, found)
        return found if name.startswith("epoch") else found.cast(pa.timestamp("us", "UTC"))


def pointer(kind: str, array: pa.Array) -> Any:
    """Returns the address of an Arrow array's first value."""
    data = array.buffers()[1]
    if data is None or not len(array):
        return ffi.NULL
    width: int = array.type.bit_width // 8
    return ffi.cast(kind, data.address + array.offset * width)


def restarts(steps: pa.Array) -> int:
    """Returns how often steps begin again: see `advlog_steps_restarts`."""
    bounds = ffi.new("int64_t[2]", [2**63 - 1, -(2**63)])
    return int(lib.advlog_steps_restarts(pointer("int64_t *", steps), len(steps), bounds))
