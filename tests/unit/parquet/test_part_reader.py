"""Parts read wide: each value where it belongs, to the bit, wherever it lay."""

from __future__ import annotations

import math
import random
import struct
from pathlib import Path

import pytest
from unit.spools import CORE, MEMORY, Late, Spool

from advlog_fast.parquet.columns import columns_schema
from advlog_fast.parquet.part_reader import flattened_batches, part_metrics
from advlog_fast.parquet.parts import seal_spool
from advlog_fast.store.paths import RunPaths

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402

QUIET_NAN = math.nan
PAYLOAD_NAN = struct.unpack("<d", (0x7FF8_0000_0000_2A01).to_bytes(8, "little"))[0]
ODD = (QUIET_NAN, PAYLOAD_NAN, math.inf, -math.inf, -0.0, 5e-324, 0.1)
NAMES = (
    "a.b",
    "a",
    "extra.key_value.key",
    "extra.key_value.value",
    "memory_usage/x",
    "Ärger 🙂",
    "with space",
    'quo"te',
    "x" * 255,
)
"""Each with dots, slashes or signs that a path inside a Parquet file might be made of."""


def bits(values: list[float | None]) -> list[bytes | None]:
    return [None if value is None else struct.pack("<d", value) for value in values]


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path, "exp")


def seal(paths: RunPaths, spool: Spool, part: int = 1, *, declared: tuple[str, ...] = (), **options: int) -> Path:
    path = spool.write(paths.spool(spool.stream, spool.attempt, part))
    sealed = seal_spool(path, paths, part, declared=declared, **options)
    assert sealed is not None
    assert sealed.path is not None
    return sealed.path


def read(path: Path, schema: pa.Schema, batch_rows: int = 65_536) -> pa.Table:
    batches = list(flattened_batches(path, schema, batch_rows))
    assert all(batch.schema.equals(schema) for batch in batches)
    assert all(0 < batch.num_rows <= batch_rows for batch in batches)
    table = pa.Table.from_batches(batches, schema)
    table.validate(full=True)
    return table


def late_part(paths: RunPaths, spool: Spool, **options: int) -> Path:
    """A part of a run whose columns are frozen: `early` alone."""
    seal(paths, Spool(ids=spool.ids).add({"early": 1.0}), 1)
    return seal(paths, spool, 2, **options)


def test_a_late_metric_is_a_column_with_its_values_to_the_bit(paths):
    spool = Spool(first_seq=1)
    for index, value in enumerate(ODD):
        spool.add({"loss": value, "early": value, "late": value} if index % 2 else {"late": value}, epoch=index)
    table = read(late_part(paths, spool), columns_schema("metrics", ("early", "late")))
    assert bits(table["late"].to_pylist()) == bits(list(ODD))
    assert bits(table["early"].to_pylist()) == bits([value if i % 2 else None for i, value in enumerate(ODD)])
    assert table["seq"].to_pylist() == list(range(1, 8))
    assert table["epoch"].to_pylist() == list(range(7))
    assert table["extra"].null_count == 7


def test_batches_of_any_size_over_several_row_groups_say_the_same(paths):
    chance = random.Random(7)
    spool = Spool(first_seq=1)
    want: dict[str, list[float | None]] = {name: [] for name in NAMES}
    for _ in range(1000):
        row = {name: chance.random() for name in NAMES if chance.random() < 0.3}
        spool.add(row)
        for name in NAMES:
            want[name].append(row.get(name))
    path = late_part(paths, spool, row_group_rows=170)
    assert pq.read_metadata(path).num_row_groups == 6
    assert sorted(part_metrics(path)) == sorted(["early", *NAMES])
    for rows in (1, 100, 170, 1000):
        table = read(path, columns_schema("metrics", NAMES), rows)
        for name in NAMES:
            assert table[name].to_pylist() == want[name]


@pytest.mark.parametrize("name", NAMES)
def test_only_what_is_asked_for_is_given_whatever_its_name(paths, name):
    spool = Spool(first_seq=1).add(dict.fromkeys(NAMES, 1.0)).add({name: 2.0})
    path = late_part(paths, spool)
    schema = pa.schema([pa.field(name, pa.float64()), pa.field("seq", pa.int64(), nullable=False)])
    assert read(path, schema).to_pydict() == {name: [1.0, 2.0], "seq": [1, 2]}
    columns = seal(RunPaths(paths.log_dir, "wide"), Spool(attempt=3).add(dict.fromkeys(NAMES, 3.0)))
    assert read(columns, schema).to_pydict() == {name: [3.0], "seq": [0]}


def test_a_metric_that_the_part_has_nowhere_is_null(paths):
    table = read(late_part(paths, Spool(first_seq=1).add({"late": 1.0})), columns_schema("metrics", ("never",)))
    assert table["never"].to_pylist() == [None]


def test_extra_keeps_what_is_no_column(paths):
    spool = Spool(first_seq=1)
    for row in ({"a": 1.0, "b": 2.0}, {"a": 3.0}, {}, {"b": 4.0, "c": PAYLOAD_NAN}, {"c": Late(1)}):
        spool.add({"loss": 0.5, **row})
    path = late_part(paths, spool)
    for rows in (1, 2, 5):
        table = read(path, columns_schema("metrics", ("a",)), rows)
        assert table["a"].to_pylist() == [1.0, 3.0, None, None, None]
        told = table["extra"].to_pylist()
        assert told[:3] == [[("b", 2.0)], None, None]
        assert [key for key, _ in told[3]] == ["b", "c"]
        assert bits([told[3][1][1]]) == bits([PAYLOAD_NAN])
        assert told[4] == [("c", None)]
        assert read(path, pa.schema([schema_field("extra")]), rows)["extra"].to_pylist()[:2] == [
            [("a", 1.0), ("b", 2.0)],
            [("a", 3.0)],
        ]


def schema_field(name: str) -> pa.Field:
    return columns_schema("metrics", ()).field(name)


def test_a_value_that_never_came_is_null_and_its_reason_stays(paths):
    path = late_part(paths, Spool(first_seq=1).add({"loss": Late(1), "late": Late(2)}).add({"late": 1.0}))
    table = read(path, columns_schema("metrics", ("late",)))
    assert table["late"].to_pylist() == [None, 1.0]
    assert [sorted(row or ()) for row in table["unresolved"].to_pylist()] == [
        [("late", "slab_full"), ("loss", "timeout")],
        [],
    ]


def test_a_column_goes_before_an_entry_and_an_entry_fills_its_gaps(tmp_path):
    """No sealer writes such a part; a file that somebody joined from two may be one."""
    schema = columns_schema("metrics", ("x",))
    row = {"timestamp": 0, "rank": 0, "worker": 0, "seq": 1}
    rows = [
        {**row, "x": 1.0, "extra": [("x", 2.0), ("y", 3.0)]},
        {**row, "extra": [("x", 4.0)]},
        {**row, "x": QUIET_NAN, "extra": [("x", 5.0)]},
        {**row, "extra": [("seq", 6.0)]},
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "part.parquet")
    table = read(tmp_path / "part.parquet", columns_schema("metrics", ("x", "y")))
    assert bits(table["x"].to_pylist()) == bits([1.0, 4.0, QUIET_NAN, None])
    assert table["y"].to_pylist() == [3.0, None, None, None]
    assert table["seq"].to_pylist() == [1] * 4
    assert table["extra"].to_pylist() == [None, None, None, [("seq", 6.0)]]
    assert part_metrics(tmp_path / "part.parquet") == ("x", "y")


def test_system_samples_keep_their_kind(paths):
    seal(paths, Spool("system").add({"rss": 1.0}, kind=MEMORY), 1)
    path = seal(paths, Spool("system", first_seq=1).add({"gpu": 3.0}, kind=MEMORY).add({"batch_time": 2.0}), 2)
    assert part_metrics(path) == ("rss", "gpu")
    table = read(path, columns_schema("system", part_metrics(path)))
    assert table["kind"].to_pylist() == ["memory", "performance"]
    assert table["gpu"].to_pylist() == [3.0, None]


def test_metrics_of_a_part_are_its_columns_then_its_entries_in_the_order_of_first_use(paths):
    spool = Spool(first_seq=1).add({"loss": 1.0, "z": 1.0}).add({"m": 1.0, "z": 2.0}).add({"b": 1.0, "accuracy": 1.0})
    assert part_metrics(late_part(paths, spool)) == ("early", "z", "m", "b")
    assert not set(CORE).intersection(part_metrics(late_part(RunPaths(paths.log_dir, "other"), spool)))


def test_a_damaged_part_is_named(paths):
    path = late_part(paths, Spool(first_seq=1).add({"loss": 1.0, "late": 1.0}))
    whole = path.read_bytes()
    schema = columns_schema("metrics", ("late",))
    chunk = pq.read_metadata(path).row_group(0).column(0)
    last = chunk.data_page_offset + chunk.total_compressed_size - 1
    for damaged in (b"", b"PAR1", whole[:-20], whole[:last] + bytes([whole[last] ^ 1]) + whole[last + 1 :]):
        path.write_bytes(damaged)
        with pytest.raises(OSError, match=r"000002\.parquet: expected a whole Parquet part, got "):
            list(flattened_batches(path, schema))
    path.write_bytes(whole)
    assert len(list(flattened_batches(path, schema))) == 1


def test_a_file_that_is_no_part_is_named(tmp_path):
    pq.write_table(pa.table({"loss": [1.0]}), tmp_path / "foreign.parquet")
    for read_it in (part_metrics, lambda path: list(flattened_batches(path, columns_schema("metrics", ())))):
        with pytest.raises(OSError, match=r"foreign\.parquet: expected a whole Parquet part"):
            read_it(tmp_path / "foreign.parquet")
        with pytest.raises(FileNotFoundError, match=r"nowhere\.parquet"):
            read_it(tmp_path / "nowhere.parquet")
