"""The parts of a session, opened in order; each step registers its undo at once."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .._failpoints import failpoint
from .._hooks import unwatch_exceptions, watch_exceptions
from .._native import Producer
from ..config import LoggerConfig
from ..control import events
from ..control.base import RingLink
from ..control.console import Console
from ..control.plane import ControlPlane
from ..control.text import escape
from ..engine.child import ParentHandle
from ..engine.child_rings import children_folder
from ..engine.deferred import Deferral
from ..engine.drain import Drain
from ..engine.findings import Finding, fault
from ..engine.outputs import make_sinks
from ..engine.ring import Ring
from ..engine.steps import StepBase
from ..exceptions import RunBusyError
from ..parquet.sealer import PartSchedule, Sealer
from ..recovery import mend_tails, recover_rank
from ..sampling.memory_sampler import MemorySample, MemorySampler
from ..sinks.rotation import join_left
from ..sinks.spool import SpoolSink
from ..store.attempts import (
    check_free,
    claim_attempt,
    claim_first_epoch,
    lock_rank,
    make_private,
    read_first_epoch,
)
from ..store.locks import FileLock
from ..store.paths import RunPaths
from ..store.processes import process_start
from ..store.ranks import RankIdentity, RunIdentity

_UNDO_S = 5.0


@dataclass(frozen=True)
class Parts:
    """The open parts of one session, except the drain, which a complete end drops."""

    rank_lock: FileLock
    run: RunIdentity
    parent: ParentHandle
    """The handle for children of this process."""
    sealer: Sealer | None
    schedules: dict[SpoolSink, PartSchedule]
    console: Console
    control: ControlPlane
    sampler: MemorySampler
    deferral: Deferral


@dataclass(frozen=True)
class Wiring:
    """The functions and objects that the parts use."""

    user: Producer
    own: Producer
    """A producer of the session's own: it must not keep the user's logger alive."""
    link: RingLink
    report: Callable[[Finding], None]
    on_tick: Callable[[], None]
    on_sample: Callable[[MemorySample], None]
    on_exception: Callable[[BaseException, str], None]
    is_wanted: Callable[[], bool]
    steps: StepBase


def open_parts(
    config: LoggerConfig,
    paths: RunPaths,
    ranks: RankIdentity,
    wiring: Wiring,
    attach: Callable[[Drain | None], None],
    undo: contextlib.ExitStack,
) -> Parts:
    """Opens everything; `undo` takes back what was opened.

    :param attach: called with the drain once records may come, and with None to take that back.
    :raises OSError: a file or folder cannot be made.
    :raises RunBusyError: another live process logs this rank of this run.
    """
    check_free(paths)
    make_private(paths)
    rank_lock = lock_rank(paths, is_wanted=wiring.is_wanted)
    undo.callback(rank_lock.release)
    failpoint("start_locked")
    recovered = recover_rank(paths)
    for attempt_report in recovered:
        if attempt_report.logs:
            what = f"rank {paths.rank} of {paths.name!r} in {paths.log_dir}"
            raise RunBusyError(f"{what} is being logged by another live process: {attempt_report.detail}")
    mend_tails(paths)  # they are rotated now, those of an attempt on another host too
    for series in paths.rotated_series:
        join_left(series, paths.temporary)
    failpoint("start_recovered")
    run = claim_attempt(paths, ranks)
    first_epoch = (
        read_first_epoch(paths) if config.first_epoch is None else claim_first_epoch(paths, config.first_epoch)
    )
    options = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    options["log_dir"] = str(paths.log_dir)  # absolute: a recovery tells a copy from the original by it
    ring = Ring(run, config.ring_bytes, config.ring_dir, paths, deferred_values=config.deferred_values, options=options)
    undo.callback(ring.file.remove)
    failpoint("start_ring")

    report = wiring.report  # not `wiring`, which has the user's logger: that must not live as long as this function

    def report_fault(message: str) -> None:
        report(fault(message))

    sealer = None
    if config.parquet:
        sealer = Sealer(paths, config.metrics, on_fault=report_fault)
        undo.callback(sealer.stop)
    sinks = make_sinks(config, paths, run, sealer)
    drain = Drain(
        ring,
        sinks,
        on_tick=wiring.on_tick,
        report=report,
        deferred_timeout_s=config.deferred_timeout_s,
        syncs_at_end=config.fsync == "interval",
    )
    undo.callback(drain.abandon)
    drain.files.open()
    failpoint("start_files")
    attach(drain)
    undo.callback(attach, None)
    console = Console(config.console, ranks.rank, config.log_level)
    control = ControlPlane(config, paths, run, wiring.link, console)
    undo.callback(control.outputs.close)
    sampler = MemorySampler(config.memory_interval_s, wiring.on_sample, wiring.link.seq)
    undo.callback(sampler.stop, _UNDO_S)
    deferral = Deferral(ring, wiring.own, report_fault)
    contradiction = wiring.steps.note(first_epoch)
    if contradiction is not None:
        control.emit(contradiction)
    for producer in (wiring.own, wiring.user):
        undo.callback(producer._unbind)
        producer._bind(ring.address, ring, deferral.defer if producer is wiring.user else None)
        wiring.steps.begin(producer)
        for name in config.metrics:
            producer._learn(name)
    drain.start()
    sampler.start()
    undo.callback(unwatch_exceptions, wiring.on_exception)
    watch_exceptions(wiring.on_exception)
    for note in ring.notes:
        control.logger.warning(note)
    for attempt_report in recovered:
        control.outputs.write(events.recovered(attempt_report.as_dict()), in_main_log=False)
        control.outputs.note(logging.WARNING, f"recovered {escape(str(attempt_report))}")
    return Parts(
        rank_lock=rank_lock,
        run=run,
        parent=ParentHandle(config, paths, run, children_folder(ring.path), process_start(run.pid)),
        sealer=sealer,
        schedules={sink: PartSchedule(config.part_interval_s) for sink in sinks if isinstance(sink, SpoolSink)},
        console=console,
        control=control,
        sampler=sampler,
        deferral=deferral,
    )


@contextlib.contextmanager
def naming_log_dir(log_dir: Path) -> Iterator[None]:
    """Turns a disk error while a session opens into an error about the argument that caused it."""
    try:
        yield
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        message = f"log_dir: expected a directory that can be written, got {str(log_dir)!r} ({reason})"
        raise OSError(error.errno or errno.EIO, message) from error
