"""A reader that polls a dataset: started with its name, the dataset, and a file whose appearance ends it.

Each poll is the reader's plain call, and a JSON line on stdout: how many rows it found, how many different ones, and
how many of each rank and epoch; or its error. `stands` says whether a part stood before it began. The last poll begins
when the file is there.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = ("rank", "epoch", "batch")


def read_with_pandas(dataset: Path) -> dict[str, Any]:
    import pandas as pd

    frame = pd.read_parquet(dataset)
    return {name: frame[name].to_numpy() for name in COLUMNS}


def read_with_pyarrow(dataset: Path) -> dict[str, Any]:
    import pyarrow.dataset as ds

    table = ds.dataset(dataset, partitioning="hive").to_table()
    return {name: table[name].to_numpy() for name in COLUMNS}


def read_with_duckdb(dataset: Path) -> dict[str, Any]:
    import duckdb

    return duckdb.sql(f"SELECT * FROM '{dataset}/*/*.parquet'").fetchnumpy()


def read_with_polars(dataset: Path) -> dict[str, Any]:
    import polars as pl

    frame = pl.scan_parquet(dataset).collect()
    return {name: frame[name].to_numpy() for name in COLUMNS}


def read_with_read_run(dataset: Path) -> dict[str, Any]:
    import advlog_fast

    table = advlog_fast.read_run(dataset.parent, dataset.name.removesuffix("_metrics.parquet"), attempts="all").metrics
    return {name: table[name].to_numpy() for name in COLUMNS}


READERS = {
    "pandas": read_with_pandas,
    "pyarrow": read_with_pyarrow,
    "duckdb": read_with_duckdb,
    "polars": read_with_polars,
    "read_run": read_with_read_run,
}


def poll(reader: str, dataset: Path) -> dict[str, Any]:
    stands = next(dataset.glob("*/*.parquet"), None) is not None
    try:
        columns = READERS[reader](dataset)
    except Exception:
        return {"stands": stands, "error": traceback.format_exc()}
    rows = np.stack([np.asarray(columns[name], dtype=np.int64) for name in COLUMNS])
    keys, counts = np.unique(rows[:2], axis=1, return_counts=True)
    each = {f"{rank}/{epoch}": int(count) for rank, epoch, count in zip(*keys, counts, strict=True)}
    different = len(np.unique((rows[0] << 48) | (rows[1] << 32) | rows[2]))
    return {"stands": stands, "rows": rows.shape[1], "different": different, "each": each}


def main() -> None:
    reader, dataset, end = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    test = os.getppid()
    last = False
    while not last and os.getppid() == test:
        last = end.exists()
        found = poll(reader, dataset)
        print(json.dumps(found), flush=True)
        if not found["stands"]:
            time.sleep(0.02)  # the others still import what they need


if __name__ == "__main__":
    main()
