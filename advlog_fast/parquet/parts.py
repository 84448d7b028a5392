"""A closed spool into one Parquet part, and the schema that all parts of a run share."""

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
from ..store.files import (
    NotOursError,
    check_folder,
    check_own,
    check_regular,
    free_name,
    quarantine_file,
    open_file,
    open_new,
    read_file,
    scratch_file,
    scratch_name,
)
from ..store.paths import RunPaths
from .columns import SpoolInfo, columns_schema, core_columns, scan_spool, spool_batches

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP_ROWS = 122_880
"""DuckDB's own row group, and few enough rows that their columns fit into the memory the sealer may use."""

METADATA = b"advlog."
"""What the keys of a part's own metadata begin with."""

# Measured on random float64 metrics: level 3 saves nothing and takes longer, since the mantissas, which
# BYTE_STREAM_SPLIT sets apart, cannot be compressed; the negative levels are no faster.
_COMPRESSION_LEVEL = 1

_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)


@dataclass(frozen=True)
class SealedPart:
    """What became of a spool."""

    stream: str
    """`metrics` or `system`."""
    attempt: int
    rank: int
    part: int
    path: Path | None
    """The Parquet file; None where a damaged spool held no whole record."""
    rows: int
    first_seq: int
    set_aside: Path | None = None
    """Where the damaged spool lies: `rows` records were whole before the damage."""
    damaged_bytes: int = 0
    damaged_schema: Path | None = None
    """Where the run's frozen schema lies that could not be read any more, and was made again."""

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
    """Makes a closed spool into part `part` of its stream, attempt and rank, and removes the spool.

    It may be killed anywhere and called again: the part appears whole, by a rename, before the spool goes. A
    spool whose part stands already is only removed. A damaged one is sealed up to the damage and set aside.

    :param declared: metric names that get a column of the metrics' dataset from the run's first part on.
    :returns: the part; None for a spool without records, which is removed.
    :raises NotOursError: the spool is a link, no regular file, or not this user's; nothing was done.
    :raises OSError: the disk failed, or another run's file stands in the part's place; the spool is kept.
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
            target = paths.part(info.stream, info.attempt, part)
            if not _stands(target, info, paths.quarantine):
                first = declared if info.stream == "metrics" else ()
                damaged_schema = _set_aside_damaged(paths.schema(info.stream))
                names = frozen_columns(paths, info.stream, (*first, *info.metric_names()))
                temporary = scratch_name(paths.temporary, f"{spool.stem}.parquet")
                make_folder(paths.temporary)
                make_folder(target.parent)
                try:
                    failpoint("seal_begin")
                    _write(file, info, names, temporary, row_group_rows)
                    failpoint("seal_synced")
                    temporary.rename(target)
                    failpoint("seal_renamed")
                finally:
                    temporary.unlink(missing_ok=True)
                sync_path(target.parent)
    set_aside = None
    if info.damaged:
        set_aside = free_name(spool.with_name(spool.name + ".damaged"))
        spool.rename(set_aside)
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
        set_aside=set_aside,
        damaged_bytes=info.total_bytes - info.whole_bytes if info.damaged else 0,
        damaged_schema=damaged_schema,
    )


def frozen_columns(paths: RunPaths, stream: str, names: Iterable[str]) -> tuple[str, ...]:
    """The run's metric columns: those frozen before, else those of its parts, else `names`, which are then frozen.

    Ranks may come at the same time: one of them wins, and all get what it froze.

    :raises OSError: the file cannot be read or made, or does not hold a JSON list of names.
    """
    path = paths.schema(stream)
    with contextlib.suppress(FileNotFoundError):
        return read_frozen_columns(path)
    core = core_columns(stream)
    columns = _columns_of_parts(paths, stream)
    if columns is None:
        columns = [name for name in dict.fromkeys(names) if name not in core]
    with _columns_file(paths, stream, columns) as temporary:
        try:
            failpoint("schema_written")
            os.link(temporary, path, follow_symlinks=False)  # newer Pythons follow by default
            failpoint("schema_linked")
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # No hard links here: two ranks can only both win within this instant.
            if not path.exists():
                temporary.rename(path)
    sync_path(path.parent)
    return read_frozen_columns(path)


def replace_frozen_columns(paths: RunPaths, stream: str, columns: Iterable[str]) -> None:
    """Makes `columns` the run's metric columns from the next part on, whatever was frozen before.

    :raises OSError: the file cannot be made.
    """
    path = paths.schema(stream)
    with _columns_file(paths, stream, columns) as temporary:
        failpoint("schema_remade")
        temporary.rename(path)
    sync_path(path.parent)


@contextlib.contextmanager
def _columns_file(paths: RunPaths, stream: str, columns: Iterable[str]) -> Iterator[Path]:
    """A frozen schema under a name of its own, whole and safe on disk."""
    make_folder(paths.temporary)
    text = json.dumps(list(columns), ensure_ascii=False) + "\n"
    with scratch_file(
        paths.temporary, f"{stream}_schema-rank{paths.rank:05d}.json", text.encode(), sync=True
    ) as temporary:
        yield temporary


def read_frozen_columns(path: Path) -> tuple[str, ...]:
    """The names in a frozen schema.

    :raises FileNotFoundError: nothing is frozen yet.
    :raises NotOursError: something else than a file lies there.
    :raises OSError: the file cannot be read, or does not hold a JSON list of names.
    """
    try:
        text = read_file(path)
    except NotOursError as error:
        if error.errno != errno.EFBIG:
            raise
        text = b""
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _DamagedSchemaError(f"{path}: expected a JSON list of metric names, got {text[:80]!r}")
    return tuple(names)


class _DamagedSchemaError(OSError):
    pass


def _set_aside_damaged(schema: Path) -> Path | None:
    """Renames a frozen schema that says nothing any more; where it lies then."""
    try:
        read_frozen_columns(schema)
    except FileNotFoundError:
        pass
    except _DamagedSchemaError:
        damaged = free_name(schema.with_name(schema.name + ".damaged"))
        os.rename(schema, damaged)
        return damaged
    return None


def _columns_of_parts(paths: RunPaths, stream: str) -> list[str] | None:
    """The metric columns that the run's parts have, of which the first that can be read tells; None: there is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    core = core_columns(stream)
    for _, part in sorted(paths.parts_of_all_ranks(stream).items()):
        with contextlib.suppress(OSError, pa.ArrowInvalid):
            check_regular(os.stat(part), part)
            return [
                field.name for field in pq.read_schema(part) if field.type == pa.float64() and field.name not in core
            ]
    return None


def sync_path(path: Path) -> None:
    """fsync of a file or a folder.

    :raises OSError: the disk failed.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path) -> None:
    """The folder, and its name safe on disk: in an fsynced parent, back to the first that stood.

    :raises NotOursError: something else than a folder of this user lies there.
    """
    if folder.parent.suffix == ".parquet" and os.path.lexists(folder.parent):
        check_folder(folder.parent)
    if os.path.lexists(folder):
        check_folder(folder)
    elif folder.parent.is_dir():  # the log folder itself may be a link, and anybody's
        folder.mkdir(exist_ok=True)
        sync_path(folder.parent)
    else:
        make_folder(folder.parent)
        make_folder(folder)


def _identity(info: SpoolInfo) -> dict[bytes, bytes]:
    """What tells a part from any other, kept in the file."""
    values = {
        "run_id": info.run_id,
        "attempt": info.attempt,
        "rank": info.rank,
        "first_seq": info.first_seq,
        "records": info.records,
        "layout_version": lib.ADVLOG_LAYOUT_VERSION,
    }
    return {METADATA + key.encode(): str(value).encode() for key, value in values.items()}


def _stands(target: Path, info: SpoolInfo, aside: Path) -> bool:
    """Whether the spool's part is there already. A file that is no Parquet is not it, and is moved to `aside`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        check_regular(os.lstat(target), target)
        found = pq.read_metadata(target).metadata or {}
    except FileNotFoundError:
        return False
    except pa.ArrowInvalid:
        quarantine_file(target, aside)
        return False
    wanted = _identity(info)
    got = {key: found.get(key, b"") for key in wanted}
    if got != wanted:
        raise FileExistsError(errno.EEXIST, f"expected the part of {wanted}, got that of {got}", str(target))
    return True


def writer_options(schema: pa.Schema) -> dict[str, Any]:
    """How every part is written: what `pq.ParquetWriter` is to be given."""
    import pyarrow as pa

    words = ["extra.key_value.key", "unresolved.key_value.key", "unresolved.key_value.value"]
    # Deltas suit what grows by even steps. A stream for each byte suits floats: their exponents compress.
    encodings = {}
    counted = []
    for field in schema:
        if field.type == pa.float64():
            if field.name not in words:  # a metric may be called so, and one name has one encoding
                encodings[field.name] = "BYTE_STREAM_SPLIT"
        elif not pa.types.is_map(field.type) and not pa.types.is_string(field.type):
            counted.append(field.name)
            if field.name not in ("rank", "worker"):
                encodings[field.name] = "DELTA_BINARY_PACKED"
    encodings["extra.key_value.value"] = "BYTE_STREAM_SPLIT"
    return {
        "compression": "zstd",
        "compression_level": _COMPRESSION_LEVEL,
        "column_encoding": encodings,
        "use_dictionary": ["rank", "worker", *words, *(["kind"] if "kind" in schema.names else [])],
        # Never of floats: what minimum and maximum say beside a NaN, readers do not agree on.
        "write_statistics": counted,
        "write_page_checksum": True,
    }


def new_part(path: Path) -> BinaryIO:
    """The file of a part that is to be written. Not one of Arrow's own, which would follow a link.

    :raises OSError: it could not be made.
    """
    return os.fdopen(open_new(path), "wb", buffering=1 << 20)


def _write(file: Any, info: SpoolInfo, names: tuple[str, ...], path: Path, row_group_rows: int) -> None:
    """:raises OSError: the disk failed."""
    import pyarrow.parquet as pq

    schema = columns_schema(info.stream, names).with_metadata(_identity(info))
    with new_part(path) as sink:
        writer = pq.ParquetWriter(sink, schema, **writer_options(schema))
        for batch in spool_batches(file, info, names, row_group_rows):
            writer.write_batch(batch, row_group_size=batch.num_rows)
            del batch  # its memory is about to be used again
        writer.close()
    failpoint("seal_written")
    sync_path(path)
