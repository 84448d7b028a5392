"""Spools into Parquet parts: nothing changed on the way, and readable by plain calls of every reader."""

from __future__ import annotations

import json
import math
import os
import random
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from unit.spools import CORE, MEMORY, METRICS, PERFORMANCE, RUN_ID, Late, Spool

from advlog_fast.parquet import parts as module
from advlog_fast.parquet.parts import seal_spool
from advlog_fast.store.paths import RunPaths

pa = pytest.importorskip("pyarrow")
import pyarrow.dataset as ds  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

ODD = (
    math.nan,
    math.inf,
    -math.inf,
    -0.0,
    5e-324,
    -5e-324,
    1.7976931348623157e308,
    2.2250738585072014e-308,
    0.1,
)


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path, "exp")


def seal(paths: RunPaths, spool: Spool, part: int = 1, *, declared: tuple[str, ...] = (), **options):
    path = spool.write(paths.spool(spool.stream, spool.attempt, part))
    return seal_spool(path, paths, part, declared=declared, **options)


def rows_of(path: Path) -> list[dict]:
    return pq.ParquetFile(path).read().to_pylist()


def two_parts(paths: RunPaths) -> None:
    """Attempt 1: a metric born in its second part. Attempt 2: one part more."""
    ids: dict[str, int] = {}
    first = Spool(ids=ids)
    for index, value in enumerate(ODD):
        first.add({"loss": value, "early": value}, time_ns=index * 1_000_000, epoch=1, batch=index, step=index)
    seal(paths, first, 1)
    second = Spool(ids=ids, first_seq=len(ODD))
    for value in ODD:
        second.add({"loss": value, "early": 1.0, "late": value}, epoch=1, batch=1, step=1)
    second.add({"loss": 1.0})
    seal(paths, second, 2)
    seal(paths, Spool(attempt=2).add({"loss": 3.0, "late": 4.0}), 1)


def test_a_metrics_part_has_the_promised_columns_in_order(paths):
    spool = Spool(rank=0).add({"loss": 0.5, "b": 1.0, "a": 2.0})
    part = seal(paths, spool, declared=("declared", "loss", "b"))
    schema = pq.read_schema(part.path)
    double = pa.float64()
    assert part.path == paths.part("metrics", 1, 1)
    assert [(f.name, f.type, f.nullable) for f in schema] == [
        ("timestamp", pa.timestamp("us", "UTC"), False),
        ("attempt", pa.int32(), False),
        ("rank", pa.int32(), False),
        ("worker", pa.int32(), False),
        ("seq", pa.int64(), False),
        ("epoch", pa.int32(), True),
        ("batch", pa.int32(), True),
        ("total_batches", pa.int32(), True),
        ("step", pa.int64(), True),
        *((name, double, True) for name in (*CORE, "declared", "b", "a")),
        ("extra", pa.map_(pa.string(), double), True),
        ("unresolved", pa.map_(pa.string(), pa.string()), True),
    ]


def test_a_system_part_has_kinds_and_no_epochs(paths):
    spool = Spool("system")
    spool.add({"cpu_memory_gb": 1.5}, kind=MEMORY, time_ns=1_999)
    spool.add({"batch_time": 0.25, "data_time": 0.125}, kind=PERFORMANCE)
    part = seal(paths, spool)
    assert part.path == paths.part("system", 1, 1)
    assert pq.read_schema(part.path).names == [
        *("timestamp", "attempt", "rank", "worker", "seq", "kind", "batch_time", "data_time", "cpu_memory_gb"),
        *("extra", "unresolved"),
    ]
    memory, performance = rows_of(part.path)
    assert (memory["kind"], memory["cpu_memory_gb"], memory["batch_time"]) == ("memory", 1.5, None)
    assert (performance["kind"], performance["cpu_memory_gb"]) == ("performance", None)
    assert (performance["batch_time"], performance["data_time"]) == (0.25, 0.125)
    assert memory["timestamp"].microsecond == 1


def test_every_field_of_a_record_arrives(paths):
    spool = Spool(rank=7, attempt=3, first_seq=100)
    metrics = {name: float(index) for index, name in enumerate(CORE)}
    integers = {"epoch": -1, "batch": 2**31 - 1, "total_batches": 0, "step": -(2**63)}
    spool.add(metrics, time_ns=1_700_000_000_123_456_789, worker=2, **integers)
    spool.add({}, kind=METRICS, time_ns=-1)
    part = seal(paths, spool)
    assert part.path == RunPaths(paths.log_dir, "exp", 7).part("metrics", 3, 1)
    assert (part.attempt, part.rank, part.rows, part.first_seq, part.next_seq) == (3, 7, 2, 100, 102)
    full, empty = rows_of(part.path)
    assert full.pop("timestamp").isoformat() == "2023-11-14T22:13:20.123456+00:00"
    own = {"attempt": 3, "rank": 7, "worker": 2, "seq": 100, "extra": None, "unresolved": None}
    assert full == own | integers | metrics
    assert empty.pop("timestamp").isoformat() == "1969-12-31T23:59:59.999999+00:00"
    assert {name for name, value in empty.items() if value is not None} == {"attempt", "rank", "worker", "seq"}


def test_reused_buffers_do_not_reach_into_rows_already_written(paths):
    """Thirteen row groups from the same memory, each with values, nulls, extras and reasons of its own."""
    random_ = random.Random(7)
    paths.private.mkdir(parents=True)
    paths.schema("metrics").write_text('["column"]')
    spool = Spool()
    wanted = []
    for index in range(1250):
        values: dict[str, float | Late] = {}
        for name in (
            "loss",
            "accuracy",
            "column",
            "x",
            "y",
            *(f"many{n}" for n in range(random_.randrange(30))),
        ):
            if random_.random() < 0.7:
                values[name] = Late(random_.randrange(1, 5)) if random_.random() < 0.1 else random_.random()
        step = {"step": index} if index % 3 else {}
        spool.add(values, **step)
        wanted.append((values, step.get("step")))
    part = seal(paths, spool, row_group_rows=100)
    assert [pq.ParquetFile(part.path).metadata.row_group(g).num_rows for g in range(13)] == [100] * 12 + [50]
    reasons = ("unknown", "timeout", "slab_full", "capture", "killed")
    for seq, (row, (values, step)) in enumerate(zip(rows_of(part.path), wanted, strict=True)):
        given = {k: None if isinstance(v, Late) else v for k, v in values.items()}
        late = [(k, reasons[v.reason]) for k, v in values.items() if isinstance(v, Late)]
        assert (row["seq"], row["step"]) == (seq, step)
        assert [row[k] for k in ("loss", "accuracy", "column")] == [
            given.get(k) for k in ("loss", "accuracy", "column")
        ]
        extras = [(k, v) for k, v in given.items() if k not in ("loss", "accuracy", "column")]
        assert row["extra"] == (extras or None)
        assert row["unresolved"] == (late or None)


def test_a_record_may_straddle_two_reads_of_the_spool(paths):
    """Records of two slots, which a read of 32,768 slots that begins with nine others cuts apart."""
    names = [f"m{n}" for n in range(4)]
    spool = Spool()
    for index in range(40_000):
        spool.add(dict.fromkeys(names, float(index)))
    part = seal(paths, spool)
    table = pq.ParquetFile(part.path).read()
    assert table.column("m0").to_pylist() == [float(index) for index in range(40_000)]
    assert table.column("m3").equals(table.column("m0"))


def test_sixty_thousand_random_bit_patterns_arrive_to_the_bit(paths):
    random_ = random.Random(3)
    patterns = [bits(value) for value in ODD] + [random_.randbytes(8) for _ in range(60_000)]
    values = [struct.unpack("<d", pattern)[0] for pattern in patterns]
    spool = Spool()
    for value in values:
        spool.add({"loss": value, "mine": value})
    path = seal(paths, spool).path
    for name in ("loss", "mine"):
        column = pq.ParquetFile(path).read().column(name).combine_chunks()
        assert column.null_count == 0
        assert column.buffers()[1].to_pybytes() == b"".join(patterns)


def test_encodings_checksums_statistics_and_metadata_are_as_promised(paths):
    spool = Spool(first_seq=5)
    for index in range(10):
        spool.add({"loss": math.nan, "val.x": 1.0}, step=index, epoch=1, batch=1, total_batches=3)
    path = seal(paths, spool).path
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        file.read()
        meta = file.metadata
    group = meta.row_group(0)
    columns = {c.path_in_schema: c for c in (group.column(i) for i in range(group.num_columns))}
    for name in (*CORE, "val.x"):
        assert "BYTE_STREAM_SPLIT" in columns[name].encodings
        assert not columns[name].is_stats_set
    for name in ("timestamp", "seq", "epoch", "batch", "total_batches", "step"):
        assert "DELTA_BINARY_PACKED" in columns[name].encodings
        assert columns[name].is_stats_set
    assert {c.compression for c in columns.values()} == {"ZSTD"}
    own = {k.decode(): v.decode() for k, v in meta.metadata.items() if k.startswith(b"advlog.")}
    assert own == {
        "advlog.run_id": RUN_ID.hex(),
        "advlog.attempt": "1",
        "advlog.rank": "0",
        "advlog.first_seq": "5",
        "advlog.records": "10",
        "advlog.layout_version": "1",
    }


def test_a_changed_byte_is_found_by_the_checksums(paths):
    spool = Spool()
    for _ in range(1000):
        spool.add({"loss": random.random()})
    path = seal(paths, spool).path
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(OSError, match=r"(?i)crc|corrupt"):
        pq.ParquetFile(path, page_checksum_verification=True).read()


def test_random_metrics_take_little_more_than_their_entropy(paths):
    """The six built-in metrics, uniformly random: 54 bits each, 40.5 bytes a row, cannot be saved."""
    random_ = random.Random(5)
    spool = Spool()
    time_ns = 1_700_000_000_000_000_000
    for index in range(20_000):
        time_ns += 5_000_000 + random_.randrange(1_000_000)
        values = {name: random_.random() for name in CORE}
        spool.add(values, time_ns=time_ns, epoch=index // 450, batch=index % 450, total_batches=450, step=index)
    assert seal(paths, spool).path.stat().st_size / 20_000 <= 44


def test_columns_freeze_at_the_first_part_and_later_metrics_go_to_extra(paths):
    two_parts(paths)
    assert json.loads(paths.schema("metrics").read_text()) == {"columns": ["early"]}
    first, second, other = (pq.ParquetFile(paths.part("metrics", *key)) for key in ((1, 1), (1, 2), (2, 1)))
    assert first.schema_arrow.names == second.schema_arrow.names == other.schema_arrow.names
    assert first.read().column("extra").null_count == len(ODD)
    extra = second.read().column("extra").to_pylist()
    assert [bits(entry[0][1]) for entry in extra[:-1]] == [bits(value) for value in ODD]
    assert {entry[0][0] for entry in extra[:-1]} == {"late"}
    assert extra[-1] is None
    assert other.read().column("extra").to_pylist() == [[("late", 4.0)]]
    assert other.read().column("early").null_count == 1


def test_pandas_reads_the_folder(paths):
    pd = pytest.importorskip("pandas")
    two_parts(paths)
    frame = pd.read_parquet(paths.metrics_parquet)
    assert frame["attempt"].astype(int).tolist() == [1] * 19 + [2]
    assert [bits(v) for v in frame["loss"][:9]] == [bits(v) for v in ODD]
    late = frame["extra"].dropna().map(dict).map(lambda entry: entry["late"])
    assert [bits(v) for v in late[:9]] == [bits(v) for v in ODD]
    assert str(frame["timestamp"].dtype) == "datetime64[us, UTC]"


def test_pyarrow_reads_the_folder(paths):
    two_parts(paths)
    table = ds.dataset(paths.metrics_parquet, partitioning="hive").to_table()
    assert table.column("attempt").to_pylist() == [1] * 19 + [2]
    assert [bits(v) for v in table.column("loss").to_pylist()[:9]] == [bits(v) for v in ODD]
    assert len(table.column("extra").drop_null()) == 10
    assert pq.read_table(paths.metrics_parquet).num_rows == 20


@pytest.mark.parametrize("source", ["'{}/**/*.parquet'", "read_parquet('{}/**/*.parquet', hive_partitioning=true)"])
def test_duckdb_reads_the_folder(paths, source):
    duckdb = pytest.importorskip("duckdb")
    two_parts(paths)
    query = f"SELECT attempt, loss, extra['late'] FROM {source.format(paths.metrics_parquet)}"
    with duckdb.connect() as connection:
        rows = connection.sql(query).fetchall()
    assert sorted(int(row[0]) for row in rows) == [1] * 19 + [2]
    late = [row[2][0] if isinstance(row[2], list) else row[2] for row in rows if row[2] not in (None, [])]
    assert sorted(map(bits, late)) == sorted(map(bits, (*ODD, 4.0)))


def test_polars_reads_the_folder(paths):
    pl = pytest.importorskip("polars")
    two_parts(paths)
    frame = pl.scan_parquet(paths.metrics_parquet).collect()
    assert frame["attempt"].to_list() == [1] * 19 + [2]
    assert [bits(v) for v in frame["loss"].to_list()[:9]] == [bits(v) for v in ODD]
    assert frame["extra"].drop_nulls().len() == 10


def test_a_spool_without_records_leaves_nothing(paths):
    spool = Spool()
    spool.name("never used")
    assert seal(paths, spool) is None
    empty = paths.spool("metrics", 1, 2)
    empty.write_bytes(b"")
    assert seal_spool(empty, paths, 2, declared=()) is None
    assert not list(paths.spools.iterdir())
    assert not paths.metrics_parquet.exists()
    assert not paths.schema("metrics").exists()


def test_a_torn_tail_is_not_part_of_the_part(paths):
    spool = Spool()
    for index in range(10):
        spool.add({f"m{n}": float(index) for n in range(5)})
    for cut in (1, 127, 128, 129, 255):
        whole = Spool(attempt=cut, data=bytearray(), ids=dict(spool.ids))
        whole.data = bytearray(spool.data[:-cut])
        path = whole.write(paths.spool("metrics", 1, cut))
        part = seal_spool(path, paths, cut, declared=())
        assert (part.rows, part.damaged_spool) == (9, None)
        assert len(rows_of(part.path)) == 9
        assert not path.exists()


def test_a_damaged_spool_is_sealed_up_to_the_damage_and_set_aside(paths):
    spool = Spool()
    for index in range(100):
        spool.add({"loss": float(index)})
    spool.data[128 * 61 + 8] = 250  # the kind of record 60
    original = bytes(spool.data)
    part = seal(paths, spool)
    assert (part.rows, part.next_seq, part.damaged_bytes) == (60, 60, 40 * 128)
    assert [row["loss"] for row in rows_of(part.path)] == [float(index) for index in range(60)]
    assert part.damaged_spool.read_bytes() == original
    assert not paths.spool("metrics", 1, 1).exists()


def test_what_is_no_spool_is_set_aside_whole(paths):
    path = paths.spool("metrics", 1, 1)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 1000)
    part = seal_spool(path, paths, 1, declared=())
    assert (part.path, part.rows) == (None, 0)
    assert part.damaged_spool.read_bytes() == b"x" * 1000


def test_a_spool_whose_part_stands_is_only_removed(paths):
    spool = Spool().add({"loss": 1.0})
    first = seal(paths, spool)
    before = first.path.stat()
    again = seal(paths, spool)
    assert again == first
    assert (first.path.stat().st_ino, first.path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not paths.spool("metrics", 1, 1).exists()


def test_another_runs_part_is_never_overwritten_and_the_spool_kept(paths):
    first = seal(paths, Spool().add({"loss": 1.0}))
    with pytest.raises(FileExistsError, match="expected the part of"):
        seal(paths, Spool(run_id=bytes(16)).add({"loss": 2.0}))
    assert [row["loss"] for row in rows_of(first.path)] == [1.0]
    assert paths.spool("metrics", 1, 1).exists()


def test_a_part_that_is_no_parquet_is_replaced(paths):
    path = paths.part("metrics", 1, 1)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    part = seal(paths, Spool().add({"loss": 1.0}))
    assert [row["loss"] for row in rows_of(part.path)] == [1.0]


def test_the_dataset_folder_holds_parts_only(paths):
    two_parts(paths)
    files = sorted(str(p.relative_to(paths.metrics_parquet)) for p in paths.metrics_parquet.rglob("*"))
    assert files == [
        "attempt-1", "attempt-1/rank00000-000001.parquet", "attempt-1/rank00000-000002.parquet",
        "attempt-2", "attempt-2/rank00000-000001.parquet",
    ]  # fmt: skip
    assert not list(paths.temporary.iterdir())
    assert not list(paths.spools.iterdir())


def test_all_ranks_that_freeze_at_once_get_the_same_columns(paths):
    names = [(f"only{rank}", "shared") for rank in range(8)]
    got: list[tuple[str, ...]] = []
    start = threading.Barrier(8)

    def freeze(rank: int) -> None:
        start.wait()
        got.append(module.freeze(RunPaths(paths.log_dir, "exp", rank), "metrics", names[rank]).columns)

    threads = [threading.Thread(target=freeze, args=(rank,)) for rank in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8
    assert len(set(got)) == 1
    assert got[0] in names


@pytest.mark.parametrize("text", ['["a", 3]', '["a", "b', "", "\0\0\0\0", "{}", None])
def test_a_damaged_frozen_schema_is_kept_aside_and_made_again_as_the_parts_have_it(paths, text):
    ids = {}
    assert seal(paths, Spool(ids=ids).add({"loss": 1.0, "b": 2.0, "a": 3.0})).damaged_schema is None
    schema = paths.schema("metrics")
    before = schema.read_text()
    schema.unlink() if text is None else schema.write_text(text)
    part = seal(paths, Spool(first_seq=1, ids=ids).add({"loss": 1.0, "c": 2.0, "a": 3.0}), 2, declared=("d",))
    if text is not None:
        assert part.damaged_schema == schema.with_name("metrics_schema.json.damaged")
        assert part.damaged_schema.read_text() == text
    assert schema.read_text() == before
    assert pq.read_schema(part.path).equals(pq.read_schema(paths.part("metrics", 1, 1)))
    assert rows_of(part.path)[0]["extra"] == [("c", 2.0)]
    assert seal(paths, Spool(first_seq=2, ids=ids).add({"loss": 1.0}), 3).damaged_schema is None


def test_a_damaged_frozen_schema_of_a_run_without_parts_is_made_again_of_the_declared_and_the_first_names(paths):
    paths.private.mkdir(parents=True)
    paths.schema("metrics").write_text("[")
    seal(paths, Spool().add({"loss": 1.0, "b": 2.0}), declared=("d",))
    assert json.loads(paths.schema("metrics").read_text()) == {"columns": ["d", "b"]}


def test_a_frozen_schema_that_cannot_be_read_raises_and_keeps_the_spool(paths):
    paths.schema("metrics").mkdir(parents=True)
    with pytest.raises(OSError, match=r"metrics_schema\.json"):
        seal(paths, Spool().add({"loss": 1.0}))
    assert paths.spool("metrics", 1, 1).exists()


def test_an_unreadable_place_raises_and_keeps_the_spool(paths):
    paths.metrics_parquet.write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"exp_metrics\.parquet"):
        seal(paths, Spool().add({"loss": 1.0}))
    assert paths.spool("metrics", 1, 1).exists()


FULL_DISK = """
import resource, sys, gc
from pathlib import Path
from advlog_fast.store.paths import RunPaths
from advlog_fast.parquet.parts import seal_spool
paths = RunPaths(Path(sys.argv[1]), "exp")
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
for _ in range(2):
    try:
        seal_spool(paths.spool("metrics", 1, 1), paths, 1, declared=())
    except OSError as error:
        print("raised", error.errno)
    gc.collect()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(seal_spool(paths.spool("metrics", 1, 1), paths, 1, declared=()).rows)
"""


def test_a_full_disk_raises_leaves_no_part_and_the_next_try_succeeds(paths):
    spool = Spool()
    for _ in range(5000):
        spool.add({"loss": random.random()})
    spool.write(paths.spool("metrics", 1, 1))
    command = [sys.executable, "-W", "error", "-c", FULL_DISK, str(paths.log_dir)]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.stderr == ""
    assert done.stdout.split() == ["raised", "27", "raised", "27", "5000"]
    assert len(rows_of(paths.part("metrics", 1, 1))) == 5000
    assert not list(paths.temporary.iterdir())


def test_names_of_any_kind_keep_their_values(paths):
    names = ["with space", "val.loss", "memory_usage/gpu", "é" * 127, 'quo"te', "extra.key_value.value"]
    spool = Spool().add({name: float(index) for index, name in enumerate(names)})
    assert [rows_of(seal(paths, spool).path)[0][name] for name in names] == [float(i) for i in range(6)]


def test_a_thousand_metrics_in_columns_and_in_extra(paths):
    names = [f"m{n:04d}" for n in range(1018)]
    ids: dict[str, int] = {}
    spool = Spool(ids=ids)
    for row in range(3):
        spool.add({name: row + index / 1024 for index, name in enumerate(names[:900])})
    seal(paths, spool)
    late = Spool(ids=ids, first_seq=3).add({name: index / 1024 for index, name in enumerate(names)})
    row = rows_of(seal(paths, late, 2).path)[0]
    assert [row[name] for name in names[:900]] == [index / 1024 for index in range(900)]
    assert row["extra"] == [(name, index / 1024) for index, name in enumerate(names) if index >= 900]
