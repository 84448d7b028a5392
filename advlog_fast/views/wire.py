"""How pictures travel to a page: numbers as columns, each column's bytes sorted by their place, all of it deflated."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from ..pictures import Heat, Picture

if TYPE_CHECKING:
    import pyarrow as pa

_LARGEST_F4 = 3e38
_F32 = ("min", "max", "mean")
_U32 = ("count", "nan", "posinf", "neginf", "unresolved", "records")
_RANKS = ("rank_min", "rank_max")


class Planes:
    """Columns of numbers, one behind the other. Each is told by where it begins, its numbers, and `f4`, `f8`, `u4` or
    `u2`, little-endian. Of a column, the first bytes of all numbers come first, then the second ones: alike bytes lie
    together, and take a third less when they are deflated."""

    def __init__(self) -> None:
        self._data = bytearray()

    def add(self, column: pa.Array, kind: str) -> list[Any]:
        """Adds a column, whose nulls become NaN or 0, and returns where it is."""
        import pyarrow as pa
        import pyarrow.compute as pc

        types = {"f4": pa.float32(), "f8": pa.float64(), "u4": pa.uint32(), "u2": pa.uint16()}
        filled = pc.fill_null(column, float("nan") if kind[0] == "f" else 0)
        if kind[0] == "u":
            filled = pc.min_element_wise(filled.cast(pa.int64()), (1 << 8 * int(kind[1])) - 1)
        cast = filled.cast(types[kind], safe=False)
        size, count = int(kind[1]), len(cast)
        plain = memoryview(cast.buffers()[1])[cast.offset * size : (cast.offset + count) * size] if count else b""
        whole = bytes(plain)
        begin = len(self._data)
        for place in range(size):
            self._data += whole[place::size]
        return [begin, count, kind]

    def deflated(self) -> bytes:
        """Returns all columns, as `DecompressionStream("deflate-raw")` reads them."""
        packing = zlib.compressobj(9, zlib.DEFLATED, -15)
        return packing.compress(bytes(self._data)) + packing.flush()


def picture_planes(picture: Picture, planes: Planes) -> list[dict[str, Any]]:
    """Adds a picture, and returns what a page needs to find it: one entry for each rank that is shown alone."""
    import pyarrow.compute as pc

    ranks = pc.unique(picture.table["rank"]).to_pylist()
    found = []
    for rank in ranks:
        own = picture.table["rank"].combine_chunks()
        rows = picture.table.filter(pc.is_null(own) if rank is None else pc.equal(own, rank)).combine_chunks()
        column = {name: _whole(rows[name]) for name in rows.column_names}
        told: dict[str, Any] = {"rank": rank, "first": column["x0"][0].as_py() if len(rows) else 0}
        told |= {name: planes.add(column[name], _float_kind(column[name])) for name in _F32}
        told |= {
            name: planes.add(column[name], "u4")
            for name in _U32
            if name in ("count", "records") or pc.sum(column[name]).as_py()
        }
        for name in ("argmin", "argmax"):  # as steps behind the bucket's first
            told[name] = planes.add(pc.subtract(column[name], column["x0"]), "u4" if picture.shift <= 32 else "f8")
        if rank is None and any(pc.max(column[name]).as_py() for name in _RANKS):
            told |= {name: planes.add(pc.fill_null(column[name], 0), "u2") for name in _RANKS}
        found.append(told)
    return found


def _float_kind(column: pa.Array) -> str:
    """Half the bytes, where they hold every value."""
    import pyarrow.compute as pc

    ends = pc.min_max(column).as_py()
    return "f4" if all(end is None or abs(end) < _LARGEST_F4 for end in ends.values()) else "f8"


def clock_planes(picture: Picture, planes: Planes) -> dict[str, Any]:
    """Adds the times and epochs of the buckets of a picture whose `x` is not the step."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def seconds(name: str) -> pa.Array:
        return pc.divide(_whole(picture.table[name]).cast(pa.int64()).cast(pa.float64()), 1e6)

    return {
        "t0": planes.add(seconds("t0"), "f8"),
        "t1": planes.add(seconds("t1"), "f8"),
        "epoch": planes.add(_whole(picture.table["epoch"]).cast(pa.float64()), "f4"),
        "active": planes.add(_whole(picture.table["active_s"]), "f8"),
    }


def heat_planes(heat: Heat, planes: Planes) -> dict[str, Any] | None:
    """Adds a heat map; None where there are no two ranks to compare."""
    ranks = list(dict.fromkeys(heat.table["rank"].to_pylist()))
    if len(ranks) < 2:
        return None
    return {
        "metric": heat.metric,
        "ranks": ranks,
        "shift": heat.shift,
        "first": heat.table["x0"][0].as_py(),
        "columns": heat.table.num_rows // len(ranks),
        "ratio": planes.add(_whole(heat.table["ratio"]), "f4"),
        "mean": planes.add(_whole(heat.table["mean"]), "f4"),
    }


def _whole(column: pa.ChunkedArray) -> pa.Array:
    import pyarrow as pa

    joined = column.combine_chunks()
    return pa.concat_arrays(joined.chunks) if isinstance(joined, pa.ChunkedArray) else joined
