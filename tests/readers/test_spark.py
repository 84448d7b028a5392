"""PySpark reads the dataset of a run of several ranks and attempts, and finds what pyarrow finds, to the bit."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from advlog_fast import AdvancedLogger

pytestmark = pytest.mark.spark

RANKS = ATTEMPTS = 2
BATCHES = 120
ODD = (math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`late` is born when the columns are frozen: by rank 1 of the first attempt, and by both of the second."""
    log_dir = tmp_path_factory.mktemp("run") / "logs"
    for attempt in range(1, ATTEMPTS + 1):
        for rank in range(RANKS):
            launcher = {"RANK": str(rank), "WORLD_SIZE": str(RANKS), "MASTER_ADDR": "a", "MASTER_PORT": str(attempt)}
            with pytest.MonkeyPatch.context() as environment:
                for name, value in launcher.items():
                    environment.setenv(name, value)
                log_rank(log_dir, late=(attempt, rank) != (1, 0))
    return log_dir / "run_metrics.parquet"


def log_rank(log_dir: Path, *, late: bool) -> None:
    with AdvancedLogger(log_dir, "run", console="off", memory_interval_s=0, part_rows=40) as log:
        for batch in range(1, BATCHES + 1):
            values = {"mine": batch / 3} if batch % 5 == 0 else {}
            if late and batch % 3 == 0:
                values |= {"late": ODD[batch % len(ODD)], "later": float(batch)}
            loss = None if batch % 7 == 0 else ODD[batch % len(ODD)]
            log.log_batch_progress(1, batch, BATCHES if batch % 2 else None, loss, **values)
            if batch % 40 == 0:
                log.flush()


@pytest.fixture(scope="module")
def table(dataset: Path) -> Any:
    import pyarrow.dataset as ds

    order = [(name, "ascending") for name in ("attempt", "rank", "seq")]
    return ds.dataset(dataset, partitioning="hive").to_table().sort_by(order)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from pyspark.sql import SparkSession

    settings = {
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("warehouse")),
    }
    spark = SparkSession.builder.master("local[1]").config(map=settings).getOrCreate()
    yield spark
    spark.stop()


@pytest.fixture
def spark(session: Any) -> Any:
    """Set as the README has it."""
    session.conf.set("spark.sql.parquet.enableVectorizedReader", "false")
    session.conf.set("spark.sql.session.timeZone", "UTC")
    return session


def exact(value: Any) -> Any:
    """A value that is equal to another of the same bits alone."""
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, (dict, list)):
        pairs = value.items() if isinstance(value, dict) else value
        return sorted((key, exact(of)) for key, of in pairs)
    return value


@pytest.mark.parametrize("vectorized", ["false", "true"])
def test_every_row_and_value_is_there(spark: Any, dataset: Path, table: Any, vectorized: str):
    import pyarrow as pa
    from pyspark.sql import functions, types

    if vectorized == "true" and tuple(map(int, spark.version.split(".")[:2])) < (4, 3):
        pytest.skip("the vectorized reader of Spark before 4.3 does not know BYTE_STREAM_SPLIT")
    spark.conf.set("spark.sql.parquet.enableVectorizedReader", vectorized)
    frame = spark.read.option("recursiveFileLookup", "true").parquet(str(dataset))
    assert frame.schema["timestamp"].dataType == types.TimestampType()  # a moment, whatever the session's zone
    assert sorted(frame.columns) == sorted(table.column_names)
    found = frame.withColumn("timestamp", functions.unix_micros("timestamp")).orderBy("attempt", "rank", "seq")
    at = table.column_names.index("timestamp")
    wanted = table.set_column(at, "timestamp", table["timestamp"].cast(pa.int64())).to_pylist()
    assert len(wanted) == RANKS * ATTEMPTS * BATCHES
    rows = [row.asDict() for row in found.collect()]
    assert [{k: exact(v) for k, v in row.items()} for row in rows] == [
        {k: exact(v) for k, v in row.items()} for row in wanted
    ]


def test_its_queries_count_and_group_find_nan_and_look_into_the_map(spark: Any, dataset: Path, table: Any):
    import pyarrow.compute as pc

    frame = spark.read.option("recursiveFileLookup", "true").parquet(str(dataset))
    assert frame.count() == table.num_rows
    ranks = {row["rank"]: row["count"] for row in frame.groupBy("rank").count().collect()}
    assert ranks == dict.fromkeys(range(RANKS), ATTEMPTS * BATCHES)
    nan = pc.sum(pc.is_nan(table["loss"])).as_py()
    assert 0 < frame.where("isnan(loss)").count() == nan
    assert 0 < frame.where("loss IS NULL").count() == table["loss"].null_count
    late = pc.map_lookup(table["extra"], "late", "first")
    assert 0 < frame.where("extra['late'] IS NOT NULL").count() == len(late) - late.null_count
    assert frame.where("unresolved IS NOT NULL").count() == 0 == len(table) - table["unresolved"].null_count
    assert frame.where("mine > 20 AND attempt = 2 AND rank = 1").count() == sum(b % 5 == 0 for b in range(61, 121))


def test_timestamps_are_utc(spark: Any, dataset: Path, table: Any):
    import pyarrow.compute as pc

    frame = spark.read.option("recursiveFileLookup", "true").parquet(str(dataset))
    shown = frame.selectExpr("date_format(timestamp, \"yyyy-MM-dd'T'HH:mm:ss.SSSSSS\") AS shown")
    wanted = pc.strftime(table["timestamp"], "%Y-%m-%dT%H:%M:%S").to_pylist()
    assert sorted(row["shown"] for row in shown.collect()) == sorted(wanted)
