"""What the tests of the readers write: lines, and spools, sealed or not."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from unit.spools import Spool

from advlog_fast.parquet.parts import seal_spool
from advlog_fast.store.paths import RunPaths


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


def line(seq: int, **values: object) -> str:
    own = {"timestamp": f"2026-11-22T19:31:{seq % 60:02d}.123456Z", "attempt": 1, "rank": 0, "seq": seq}
    return json.dumps({**own, **values}) + "\n"


def put(paths: RunPaths, spool: Spool, part: int, *, sealed: bool) -> Path:
    path = spool.write(paths.spool(spool.stream, spool.attempt, part))
    if sealed:
        seal_spool(path, paths, part, declared=())
    return path
