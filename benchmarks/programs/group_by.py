"""DuckDB's group-by over a dataset: rows, mean loss and longest step of each rank.

group_by.py DATASET
"""

from __future__ import annotations

import sys
import time

import duckdb
from workload import report


def main(dataset: str) -> None:
    began = time.perf_counter()
    query = f"SELECT rank, count(*), avg(loss), max(batch_time) FROM '{dataset}/*/*.parquet' GROUP BY rank"  # noqa: S608
    rows = duckdb.sql(query).fetchall()
    report(seconds=time.perf_counter() - began, rows=sum(count for _, count, *_ in rows), ranks=len(rows))


if __name__ == "__main__":
    main(sys.argv[1])
