"""Which sinks there are: those that the options ask for, or those that a dead process had."""

from __future__ import annotations

from collections.abc import Callable

from .._native import lib
from ..config import LoggerConfig
from ..parquet.columns import STREAMS
from ..parquet.sealer import Sealer
from ..sinks.base import Retired, Sink
from ..sinks.jsonl import MetricsJsonlSink, SystemJsonlSink
from ..sinks.spool import SpoolSink
from ..sinks.text import TextSink
from ..store.paths import RunPaths
from ..store.ranks import RunIdentity
from .ring import Ring


def make_sinks(config: LoggerConfig, paths: RunPaths, run: RunIdentity, sealer: Sealer | None) -> list[Sink]:
    """The sinks that the options ask for, without files yet.

    :param sealer: takes the closed spools; None where there are none.
    """
    sizes = (paths.temporary, run.attempt, config.max_log_size, config.max_log_files)
    sinks: list[Sink] = []
    if config.writes_text(run.rank):
        level, every = config.log_level, config.training_log_every
        sinks.append(TextSink(paths.training_log, *sizes, level=level, every=every))
    if config.jsonl:
        sinks.append(MetricsJsonlSink(paths.metrics_jsonl, *sizes, _may_expire("metrics", paths, sealer)))
        sinks.append(SystemJsonlSink(paths.system_jsonl, *sizes, _may_expire("system", paths, sealer)))
    if sealer is not None:
        sinks += [SpoolSink(stream, paths, run.attempt, config.part_rows, sealer.submit) for stream in STREAMS]
    for sink in sinks:
        sink.sync = config.fsync == "always"
    return sinks


def _may_expire(stream: str, paths: RunPaths, sealer: Sealer | None) -> Callable[[Retired | None], bool]:
    """Whether a rotated file may go: where Parquet is on, only if its records are in parts."""
    unsealed_before = any(paths.spools.glob(f"*-rank{paths.rank:05d}-*.spool"))

    def sealed(retired: Retired | None) -> bool:
        if sealer is None:
            return True
        if retired is None:
            return not unsealed_before
        return sealer.has_sealed(stream, retired.first_seq, retired.next_seq)

    return sealed


def sinks_of_ring(ring: Ring, config: LoggerConfig, paths: RunPaths, attempt: int, sealer: Sealer) -> list[Sink]:
    """The sinks that the header of a dead process's ring tells of, in its order, without files yet.

    :param config: the options as that process had them.
    """
    sizes = (paths.temporary, attempt, config.max_log_size, config.max_log_files, _keep)
    sinks: list[Sink] = []
    for index in range(lib.ADVLOG_MAX_SINKS):
        kind, stream = lib.advlog_ring_sink_kind(ring.handle, index), lib.advlog_ring_sink_stream(ring.handle, index)
        if kind == 0:
            break
        if kind == lib.ADVLOG_SINK_TEXT:
            every = config.training_log_every
            sinks.append(TextSink(paths.training_log, *sizes, level=config.log_level, every=every))
        elif kind == lib.ADVLOG_SINK_SPOOL:
            sinks.append(SpoolSink(STREAMS[stream], paths, attempt, config.part_rows, sealer.submit))
        elif stream == lib.ADVLOG_STREAM_SYSTEM:
            sinks.append(SystemJsonlSink(paths.system_jsonl, *sizes))
        else:
            sinks.append(MetricsJsonlSink(paths.metrics_jsonl, *sizes))
    return sinks


def _keep(_retired: Retired | None) -> bool:
    """No file expires by a recovery: the next start trims."""
    return False
