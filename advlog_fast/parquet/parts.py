"""Seals a closed spool into a Parquet part, and freezes the schema that all parts of a run share."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .._failpoints import failpoint
from .._native import lib
from ..records import MAX_COLUMNS
from ..store.files import (
    NotOursError,
    check_folder,
    check_own,
    check_regular,
    free_name,
    open_file,
    open_new,
    quarantine_file,
    read_file,
    scratch_file,
    scratch_name,
)
from ..store.paths import RunPaths, is_hive, parts_in
from .columns import (
    SpoolInfo,
    columns_schema,
    core_columns,
    is_metric,
    of_attempt,
    plain_schema,
    scan_spool,
    spool_batches,
)

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP_ROWS = 122_880
"""The row group of DuckDB; its columns fit into the memory that the sealer may use."""

METADATA = b"advlog."
"""The prefix of our keys in a part's metadata."""

# Measured on random float64 metrics: level 3 saves nothing and takes longer, since the mantissas, which
# BYTE_STREAM_SPLIT separates, do not compress; the negative levels are no faster.
_COMPRESSION_LEVEL = 1

_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)


@dataclass(frozen=True)
class SealedPart:
    """The result of sealing a spool."""

    stream: str
    """`metrics` or `system`."""
    attempt: int
    rank: int
    part: int
    path: Path | None
    """The Parquet file; None if a damaged spool held no whole record."""
    rows: int
    first_seq: int
    damaged_spool: Path | None = None
    """The new path of a damaged spool, whose first `rows` records were whole."""
    damaged_bytes: int = 0
    damaged_schema: Path | None = None
    """The new path of the run's frozen schema, if it was unreadable and was made again."""

    @property
    def next_seq(self) -> int:
        return self.first_seq + self.rows


def seal_spool(
    spool: Path,
    paths: RunPaths,
    part: int,
    *,
    declared: tuple[str, ...],
    row_group_rows: int = ROW_GROUP_ROWS,
) -> SealedPart | None:
    """Turns a closed spool into part `part` of its stream, attempt and rank, and removes the spool.

    Safe to kill and to call again: a rename makes the whole part appear before the spool goes. If the part exists
    already, the spool is only removed. A damaged spool is sealed up to the damage and renamed to `*.damaged`.

    :param declared: metric names that get a column of the metrics dataset from the run's first part on.
    :returns: the part; None for a spool without records, which is removed.
    :raises NotOursError: the spool is a link, no regular file, or not this user's; nothing was done.
    :raises OSError: the disk failed, or another run's file has the part's name; the spool is kept.
    """
    check_own(spool.lstat(), spool)
    with open_file(spool) as file:
        info = scan_spool(file)
        if info.records == 0 and not info.damaged:
            spool.unlink()
            return None
        target = damaged_schema = None
        if info.records > 0:
            paths = replace(paths, rank=info.rank)
            either = paths.part_either_way(info.stream, info.attempt, part)
            target = next((path for path in either if _is_sealed(path, info, paths.quarantine)), None)
            if target is None:
                first = declared if info.stream == "metrics" else ()
                damaged_schema = _rename_damaged_schema(paths.schema(info.stream))
                frozen = freeze(paths, info.stream, (*first, *info.metric_names()))
                # What is there decides: a compaction may have been killed before it froze the new layout.
                hive = layout_of(paths.dataset(info.stream))
                if hive is not None:
                    frozen = replace(frozen, hive=hive)
                target = paths.part(info.stream, info.attempt, part, hive=frozen.hive)
                temporary = scratch_name(paths.temporary, f"{spool.stem}.parquet")
                make_synced_folder(paths.temporary)
                make_synced_folder(target.parent)
                try:
                    failpoint("seal_begin")
                    _write(file, info, frozen, temporary, row_group_rows)
                    failpoint("seal_synced")
                    temporary.rename(target)
                    failpoint("seal_renamed")
                finally:
                    temporary.unlink(missing_ok=True)
                sync_path(target.parent)
    damaged_spool = None
    if info.damaged:
        damaged_spool = free_name(spool.with_name(spool.name + ".damaged"))
        spool.rename(damaged_spool)
    else:
        failpoint("seal_before_unlink")
        spool.unlink()
        failpoint("seal_unlinked")
    return SealedPart(
        stream=info.stream,
        attempt=info.attempt,
        rank=info.rank,
        part=part,
        path=target,
        rows=info.records,
        first_seq=info.first_seq,
        damaged_spool=damaged_spool,
        damaged_bytes=info.total_bytes - info.whole_bytes if info.damaged else 0,
        damaged_schema=damaged_schema,
    )


@dataclass(frozen=True)
class Frozen:
    """What all parts of a dataset share."""

    columns: tuple[str, ...]
    """The metric columns, beside the built-in ones."""
    hive: bool = False
    """As of an earlier version: the folder `attempt=<n>` alone names the attempt. Plain readers read a column of it,
    and of whatever folder above is named so, and raise where some parts have the column."""


def layout_of(dataset: Path) -> bool | None:
    """Returns whether the parts of a dataset lie in folders of the earlier layout; None if it has no part."""
    for part in sorted(parts_in(dataset).values()):
        return is_hive(part.parent.name)
    return None


def freeze(paths: RunPaths, stream: str, names: Iterable[str]) -> Frozen:
    """Returns what is frozen, else what the run's parts share, else `names` in the layout of today. Freezes the last
    two.

    Ranks may call this at the same time: one of them wins, and all get the columns that it froze.

    :raises OSError: the file cannot be read or made, or does not hold a frozen schema.
    """
    path = paths.schema(stream)
    with contextlib.suppress(FileNotFoundError):
        return read_frozen(path)
    core = core_columns(stream)
    frozen = _shared_by_parts(paths, stream)
    if frozen is None:
        frozen = Frozen(tuple([name for name in dict.fromkeys(names) if name not in core][:MAX_COLUMNS]))
    with _frozen_file(paths, stream, frozen) as temporary:
        try:
            failpoint("schema_written")
            os.link(temporary, path, follow_symlinks=False)  # newer Pythons follow by default
            failpoint("schema_linked")
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # Without hard links, two ranks can both win, but only between these two calls.
            if not path.exists():
                temporary.rename(path)
    sync_path(path.parent)
    return read_frozen(path)


def replace_frozen(paths: RunPaths, stream: str, frozen: Frozen) -> None:
    """Replaces what is frozen: the run's parts are so from the next one on.

    :raises OSError: the file cannot be made.
    """
    path = paths.schema(stream)
    with _frozen_file(paths, stream, frozen) as temporary:
        failpoint("schema_remade")
        temporary.rename(path)
    sync_path(path.parent)


@contextlib.contextmanager
def _frozen_file(paths: RunPaths, stream: str, frozen: Frozen) -> Iterator[Path]:
    """Context manager: writes and fsyncs a frozen schema to a scratch file."""
    make_synced_folder(paths.temporary)
    columns = list(frozen.columns)
    text = json.dumps(columns if frozen.hive else {"columns": columns}, ensure_ascii=False) + "\n"
    with scratch_file(
        paths.temporary, f"{stream}_schema-rank{paths.rank:05d}.json", text.encode(), sync=True
    ) as temporary:
        yield temporary


def read_frozen(path: Path) -> Frozen:
    """Returns what a frozen schema says: an object with the names of its `columns`; of an earlier version a list of
    them.

    :raises FileNotFoundError: nothing is frozen yet.
    :raises NotOursError: the path is a link or no regular file.
    :raises OSError: the file cannot be read, or does not hold a frozen schema.
    """
    wanted = f'{path}: expected a JSON object with "columns", a list of metric names'
    try:
        text = read_file(path)
    except NotOursError as error:
        if error.errno != errno.EFBIG:
            raise
        raise _DamagedSchemaError(f"{wanted}, got a file of {path.lstat().st_size} bytes") from None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    names = content.get("columns") if isinstance(content, dict) else content
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _DamagedSchemaError(f"{wanted}, got {text[:80]!r}")
    return Frozen(tuple(names), hive=isinstance(content, list))


class _DamagedSchemaError(OSError):
    pass


def _rename_damaged_schema(schema: Path) -> Path | None:
    """Renames a frozen schema to `*.damaged` if it is unreadable, and returns the new path."""
    try:
        read_frozen(schema)
    except FileNotFoundError:
        pass
    except _DamagedSchemaError:
        damaged = free_name(schema.with_name(schema.name + ".damaged"))
        os.rename(schema, damaged)
        return damaged
    return None


def _shared_by_parts(paths: RunPaths, stream: str) -> Frozen | None:
    """Returns what the run's first readable part says; None if there is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    core = core_columns(stream)
    for _, part in sorted(paths.parts_of_all_ranks(stream).items()):
        with contextlib.suppress(OSError, pa.ArrowInvalid):
            check_regular(os.stat(part), part)
            metrics = [field.name for field in pq.read_schema(part) if is_metric(field) and field.name not in core]
            return Frozen(tuple(metrics), is_hive(part.parent.name))
    return None


def sync_path(path: Path) -> None:
    """Calls fsync on a file or a folder.

    :raises OSError: the disk failed.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_synced_folder(folder: Path) -> None:
    """Makes a folder and the missing ones above it, and fsyncs the parent of each, so that a power loss keeps them.

    :raises NotOursError: one of them exists and is a link, no folder, or another user's.
    """
    if folder.parent.suffix == ".parquet" and os.path.lexists(folder.parent):
        check_folder(folder.parent)
    if os.path.lexists(folder):
        check_folder(folder)
    elif folder.parent.is_dir():  # no check: the log folder may be a link, and of any owner
        folder.mkdir(exist_ok=True)
        sync_path(folder.parent)
    else:
        make_synced_folder(folder.parent)
        make_synced_folder(folder)


def _identity(info: SpoolInfo) -> dict[bytes, bytes]:
    """Returns the metadata that identifies a part."""
    values = {
        "run_id": info.run_id,
        "attempt": info.attempt,
        "rank": info.rank,
        "first_seq": info.first_seq,
        "records": info.records,
        "layout_version": lib.ADVLOG_SPOOL_VERSION,
    }
    return {METADATA + key.encode(): str(value).encode() for key, value in values.items()}


def _is_sealed(target: Path, info: SpoolInfo, quarantine: Path) -> bool:
    """Returns whether the spool's part exists already. Moves a file that is no Parquet file to `quarantine`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        check_regular(os.lstat(target), target)
        metadata = pq.read_metadata(target).metadata or {}
    except FileNotFoundError:
        return False
    except pa.ArrowInvalid:
        quarantine_file(target, quarantine)
        return False
    wanted = _identity(info)
    got = {key: metadata.get(key, b"") for key in wanted}
    if got != wanted:
        raise FileExistsError(errno.EEXIST, f"expected the part of {wanted}, got that of {got}", str(target))
    return True


def schema_of(stream: str, frozen: Frozen) -> pa.Schema:
    """Returns the schema of a part."""
    schema = columns_schema(stream, frozen.columns)
    return schema if frozen.hive else plain_schema(schema)


def writer_options(schema: pa.Schema) -> dict[str, Any]:
    """Returns the options with which `pq.ParquetWriter` writes every part."""
    import pyarrow as pa

    words = ["extra.key_value.key", "unresolved.key_value.key", "unresolved.key_value.value"]
    # Deltas suit columns that grow by even steps. BYTE_STREAM_SPLIT suits floats: their exponents compress.
    encodings = {}
    counted = []
    for field in schema:
        if is_metric(field):
            if field.name not in words:  # a metric may have such a name, and each name has one encoding
                encodings[field.name] = "BYTE_STREAM_SPLIT"
        elif not pa.types.is_map(field.type) and not pa.types.is_string(field.type):
            counted.append(field.name)
            if field.name not in ("attempt", "rank", "worker"):
                encodings[field.name] = "DELTA_BINARY_PACKED"
    encodings["extra.key_value.value"] = "BYTE_STREAM_SPLIT"
    return {
        "compression": "zstd",
        "compression_level": _COMPRESSION_LEVEL,
        "column_encoding": encodings,
        "use_dictionary": [*(name for name in ("attempt", "rank", "worker", "kind") if name in schema.names), *words],
        # Not for floats: readers disagree on the minimum and maximum beside a NaN.
        "write_statistics": counted,
        "write_page_checksum": True,
    }


def new_part(path: Path) -> BinaryIO:
    """Creates the file of a part and opens it for writing. Arrow's own file would follow a link.

    :raises OSError: the file cannot be created.
    """
    return os.fdopen(open_new(path), "wb", buffering=1 << 20)


def _write(file: Any, info: SpoolInfo, frozen: Frozen, path: Path, row_group_rows: int) -> None:
    """:raises OSError: the disk failed."""
    import pyarrow.parquet as pq

    schema = schema_of(info.stream, frozen).with_metadata(_identity(info))
    with new_part(path) as sink:
        writer = pq.ParquetWriter(sink, schema, **writer_options(schema))
        for batch in spool_batches(file, info, frozen.columns, row_group_rows):
            writer.write_batch(of_attempt(batch, info.attempt, schema), row_group_size=batch.num_rows)
            del batch  # the next batch reuses its memory
        writer.close()
    failpoint("seal_written")
    sync_path(path)
