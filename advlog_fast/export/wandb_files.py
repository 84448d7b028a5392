"""Reads the rows that W&B's files of offline runs hold: records in the format of LevelDB's log."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..store.files import open_file

_HEAD = 7
_FRAME = struct.Struct("<IHB")
_BLOCK = 32 * 1024
_FULL, _FIRST, _LAST = 1, 2, 4


def rows_in(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the step and the values of each row in a file, up to what a kill cut off."""
    from wandb.proto import wandb_internal_pb2

    with open_file(path) as file:
        data = file.readall()
    for body in _records(data):
        record = wandb_internal_pb2.Record.FromString(body)
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            yield record.history.step.num, {name: json.loads(text) for name, text in items.items()}


def _records(data: bytes) -> Iterator[bytes]:
    at, parts = _HEAD, b""
    while at + _FRAME.size <= len(data):
        room = _BLOCK - at % _BLOCK
        if room < _FRAME.size:
            at += room
            continue
        _, length, kind = _FRAME.unpack_from(data, at)
        at += _FRAME.size
        if at + length > len(data):
            return
        body = data[at : at + length]
        at += length
        if kind:
            parts = body if kind in (_FULL, _FIRST) else parts + body
            if kind in (_FULL, _LAST):
                yield parts
