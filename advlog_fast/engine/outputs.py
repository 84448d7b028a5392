"""Which sinks there are: those that the options ask for, or those that a dead process had. ARCHITECTURE.md lists what a
new kind of sink needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .._native import lib
from ..config import LoggerConfig
from ..parquet.columns import STREAMS
from ..parquet.sealer import Sealer
from ..sinks.base import ClosedFile, Sink
from ..sinks.jsonl import MetricsJsonlSink, SystemJsonlSink
from ..sinks.spool import SpoolSink
from ..sinks.text import TextSink
from ..store.paths import RunPaths
from ..store.ranks import RunIdentity
from .ring import Ring

_METRICS, _SYSTEM = lib.ADVLOG_STREAM_METRICS, lib.ADVLOG_STREAM_SYSTEM


@dataclass(frozen=True)
class _Surroundings:
    """The objects that the makers of sinks use."""

    config: LoggerConfig
    paths: RunPaths
    attempt: int
    sealer: Sealer | None
    """Takes the closed spools; None where there are none."""
    may_expire: Callable[[str | None], Callable[[ClosedFile | None], bool]]
    """By the stream whose records Parquet keeps too, whether a rotated file may go; None: they are in no part."""

    def rotation(self) -> tuple[Path, int, int, int]:
        return self.paths.temporary, self.attempt, self.config.max_log_size, self.config.max_log_files


def _text(s: _Surroundings) -> Sink:
    config = s.config
    return TextSink(
        s.paths.training_log,
        *s.rotation(),
        s.may_expire(None),
        level=config.log_level,
        every=config.training_log_every,
        digits=config.record_digits,
    )


def _metrics_jsonl(s: _Surroundings) -> Sink:
    return MetricsJsonlSink(s.paths.metrics_jsonl, *s.rotation(), s.may_expire("metrics"))


def _system_jsonl(s: _Surroundings) -> Sink:
    return SystemJsonlSink(s.paths.system_jsonl, *s.rotation(), s.may_expire("system"))


def _spool(stream: int) -> Callable[[_Surroundings], Sink]:
    def make(s: _Surroundings) -> Sink:
        assert s.sealer is not None
        return SpoolSink(STREAMS[stream], s.paths, s.attempt, s.config.part_rows, s.sealer.submit)

    return make


# By kind and stream, in the order in which a new ring has them.
_SINKS: dict[tuple[int, int], Callable[[_Surroundings], Sink]] = {
    (lib.ADVLOG_SINK_TEXT, _METRICS): _text,
    (lib.ADVLOG_SINK_JSONL, _METRICS): _metrics_jsonl,
    (lib.ADVLOG_SINK_JSONL, _SYSTEM): _system_jsonl,
    (lib.ADVLOG_SINK_SPOOL, _METRICS): _spool(_METRICS),
    (lib.ADVLOG_SINK_SPOOL, _SYSTEM): _spool(_SYSTEM),
}


def make_sinks(config: LoggerConfig, paths: RunPaths, run: RunIdentity, sealer: Sealer | None) -> list[Sink]:
    """The sinks that the options ask for, without files yet.

    :param sealer: takes the closed spools; None where there are none.
    """
    wanted = {
        lib.ADVLOG_SINK_TEXT: config.writes_text(run.rank),
        lib.ADVLOG_SINK_JSONL: config.jsonl,
        lib.ADVLOG_SINK_SPOOL: sealer is not None,
    }

    def may_expire(stream: str | None) -> Callable[[ClosedFile | None], bool]:
        return _always if stream is None else _once_sealed(stream, paths, sealer)

    surroundings = _Surroundings(config, paths, run.attempt, sealer, may_expire)
    sinks = [make(surroundings) for (kind, _), make in _SINKS.items() if wanted[kind]]
    for sink in sinks:
        sink.sync = config.fsync == "always"
    return sinks


def sinks_of_ring(ring: Ring, config: LoggerConfig, paths: RunPaths, attempt: int, sealer: Sealer) -> list[Sink]:
    """The sinks that the header of a dead process's ring names, in its order, without files yet. Rotation deletes none
    of their files; the next start does.

    :param config: the options as that process had them.
    """
    surroundings = _Surroundings(config, paths, attempt, sealer, lambda _stream: _never)
    sinks: list[Sink] = []
    for index in range(lib.ADVLOG_MAX_SINKS):
        kind, stream = lib.advlog_ring_sink_kind(ring.handle, index), lib.advlog_ring_sink_stream(ring.handle, index)
        if kind == 0:
            break
        sinks.append(_SINKS[kind, _METRICS if kind == lib.ADVLOG_SINK_TEXT else stream](surroundings))
    return sinks


def _once_sealed(stream: str, paths: RunPaths, sealer: Sealer | None) -> Callable[[ClosedFile | None], bool]:
    """A rotated file may go once its records are in parts, or at once where Parquet is off."""
    unsealed_before = any(paths.spools.glob(f"*-rank{paths.rank:05d}-*.spool"))

    def is_sealed(closed: ClosedFile | None) -> bool:
        if sealer is None:
            return True
        if closed is None:
            return not unsealed_before
        return sealer.has_sealed(stream, closed.first_seq, closed.next_seq)

    return is_sealed


def _always(_closed: ClosedFile | None) -> bool:
    return True


def _never(_closed: ClosedFile | None) -> bool:
    return False
