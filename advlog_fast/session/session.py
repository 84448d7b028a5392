"""A session: one attempt of one rank, from the first file to the last, with its threads and its end.

Threads, all of them daemons (a thread that is no daemon is joined before the exit handlers run, and would hang the
exit): the drain; the sealer; the memory sampler; the keeper, which writes the summary from time to time and tells the
control plane what the drain found, since that may wait and the drain may not. Where the interpreter gives no thread any
more, as some do in its exit handlers, whoever waits for the work of one does it.

Above 500 lines because opening, running and ending share their state, and each undoes what the one before it did.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .._failpoints import failpoint
from .._hooks import off_sigterm, on_sigterm, unwatch_exceptions, watch_exceptions
from .._native import Producer, lib
from ..config import LoggerConfig
from ..control.console import Console
from ..control.plane import ControlPlane
from ..engine.background import Keeper, Latch
from ..engine.child import Family, Worker
from ..engine.child_rings import workers_folder
from ..engine.deferred import Deferral
from ..engine.drain import Drain
from ..engine.outputs import make_sinks
from ..engine.overflow import Overflow
from ..engine.ring import Ring, line_bytes, slots_for, slots_for_text
from ..exceptions import RunBusyError
from ..parquet.sealer import PartSchedule, Sealer
from ..recovery import mend_tails, recover_rank
from ..sampling.memory_sampler import MemorySample, MemorySampler
from ..sinks.rotation import RotatedSink, join_left
from ..sinks.spool import SpoolSink
from ..snapshots import CallCost, Health, Totals
from ..store.accounts import Account, write_account
from ..store.attempts import check_free, claim_attempt, lock_rank, make_private, restore_claims
from ..store.paths import RunPaths
from ..store.processes import process_start
from ..store.ranks import RankIdentity, rank_identity

SUMMARY_INTERVAL_S = 10.0
SYNC_INTERVAL_S = 5.0
_BUSY_THREADS = ("advlog-drain", "advlog-sealer", "advlog-sampler", "advlog-console")
_WATCH_S = 1.0
_LEAVE_S = 1.0
_UNDO_S = 5.0
_INTERRUPTED_S = 1.0
_SHIELDED_S = 10.0
_GRACE_S = 5.0
"""So much longer than it was given an end may take, where a disk hangs, until its caller goes on without it."""


class Session:
    """Everything that one logger has open; to its control plane, the `RingLink`. Nothing until `start`.

    :param producer: the user's logger.
    :param on_end: told once the attempt has ended.
    """

    def __init__(self, config: LoggerConfig, producer: Producer, on_end: Callable[[Session], None]) -> None:
        self.config = config
        self._on_end = on_end
        self.pid = os.getpid()
        self._closer = 0
        self._ended = Latch()
        self.opened = False
        self._complete = False
        self.at_exit = False
        """The interpreter's exit closes it."""
        self.waited_at_exit = False
        """And has waited for the end for as long as it may."""
        self.closed = False
        """True from the first `close` on."""
        self.superseded_by: int | None = None
        """The attempt that another logger of this process began, and closed this one for."""
        self._overflow = Overflow(config.overflow, config.overflow_timeout_s)
        self._drain: Drain | None = None
        self._child: Worker | None = None
        self._last_totals = Totals()
        self._last_health: Health
        self._dropped_late = 0
        self._watch_due = 0.0
        self._told_ring = False
        self._told_sharing = False
        self._told_nonfinite: set[str] = set()
        self._told_leaks: set[str] = set()
        self._raised: list[int] = []
        self._at_sigterm: Callable[[int], bool] = lambda _number: True
        self._ranks = rank_identity(config.rank, config.world_size)
        self.paths = RunPaths(Path(os.path.abspath(config.log_dir)), config.experiment_name, self._ranks.rank)
        # The session pushes through a producer of its own: it must not keep the user's logger alive.
        self._producer = Producer()
        self._user = weakref.ref(producer)
        self._keeper = Keeper()

    def open(self) -> None:
        """Opens everything, or nothing: what was opened is given back where the rest cannot be.

        For the keeper's thread, once. Not called where `is_wanted` is false by then.

        :raises OSError: `log_dir` cannot be made or written; the message names it.
        :raises RunBusyError: another live process logs this rank of this run.
        """
        producer = self._user()
        if producer is None:
            return
        with contextlib.ExitStack() as undo:
            with _naming_log_dir(self.config.log_dir):
                self._open(self.config, producer, self._ranks, undo)
            undo.pop_all()
        self.opened = True

    def is_wanted(self) -> bool:
        """Whether somebody still waits for this session, or has it."""
        return not self.closed and self._user() is not None

    def start(self, task: Callable[[], object]) -> None:
        """Has the task, which opens the session, run where no interrupt reaches it, and waits for it.

        :raises OSError: as :meth:`open` does.
        :raises RunBusyError: likewise.
        """
        self._keeper.start()
        self._keeper.call(task, math.inf)

    def shielded(self, task: Callable[[], object]) -> None:
        """Has the task run where no interrupt reaches it, and waits for it, 10 s at most; what it raises is raised
        here."""
        self._keeper.call(task, _SHIELDED_S)

    def _open(self, config: LoggerConfig, producer: Producer, ranks: RankIdentity, undo: contextlib.ExitStack) -> None:
        paths = self.paths
        check_free(paths)
        make_private(paths)
        self._rank_lock = lock_rank(paths, is_wanted=self.is_wanted)
        undo.callback(self._rank_lock.release)
        failpoint("start_locked")
        recovered = recover_rank(paths)
        for found in recovered:
            if found.logs:
                what = f"rank {paths.rank} of {paths.name!r} in {paths.log_dir}"
                raise RunBusyError(f"{what} is being logged by another live process: {found.detail}")
        mend_tails(paths)  # they become generations now, those of an attempt on another host too
        for series in (paths.training_log, paths.metrics_jsonl, paths.system_jsonl):
            join_left(series, paths.temporary)
        failpoint("start_recovered")
        self.run = claim_attempt(paths, ranks)
        options = json.loads(json.dumps(dataclasses.asdict(config), default=str))
        options["log_dir"] = str(paths.log_dir)  # absolute: a recovery tells a copy from the original by it
        ring = Ring(self.run, config.ring_bytes, config.ring_dir, paths.log_dir, options=options)
        undo.callback(ring.remove)
        failpoint("start_ring")
        self.family = Family(config, paths, self.run, workers_folder(ring.path), process_start(self.run.pid))

        self.sealer: Sealer | None = None
        if config.parquet:
            self.sealer = Sealer(paths, config.metrics, on_fault=self._fault)
            undo.callback(self.sealer.stop)
        sinks = make_sinks(config, paths, self.run, self.sealer)
        self._schedules = {sink: PartSchedule(config.part_interval_s) for sink in sinks if isinstance(sink, SpoolSink)}
        drain = Drain(
            ring,
            sinks,
            on_tick=self._tick,
            on_fault=self._fault,
            on_nonfinite=lambda: self._keeper.do(self._tell_nonfinite),
            deferred_timeout_s=config.deferred_timeout_s,
        )
        undo.callback(drain.abandon)
        drain.open_files()
        failpoint("start_files")
        self._drain = drain
        undo.callback(setattr, self, "_drain", None)
        self.console = Console(config.console, ranks.rank, config.log_level)
        self.control = ControlPlane(config, paths, self.run, self, self.console)
        undo.callback(self.control.abandon)
        self.sampler = MemorySampler(config.memory_interval_s, self._sampled, self.seq)
        undo.callback(self.sampler.stop, _UNDO_S)

        self.deferral = Deferral(ring, self._producer, self._fault)
        for bound in (self._producer, producer):
            undo.callback(bound._unbind)
            bound._bind(ring.address, ring, self.deferral.defer if bound is producer else None)
            for name in config.metrics:
                bound._learn(name)
        duties: dict[Callable[[], object], float] = {self.control.write_summary: SUMMARY_INTERVAL_S}
        if config.fsync == "interval":
            duties[self._sync] = SYNC_INTERVAL_S
        drain.start()
        self.sampler.start()
        undo.callback(unwatch_exceptions, self._uncaught)
        watch_exceptions(self._uncaught)
        self._keeper.duties = duties
        for note in ring.notes:
            self.control.logger.warning(note)
        for found in recovered:
            self.control.recovered(found.as_dict(), str(found))

    # -- the hot call's slow half --------------------------------------------------------------------------------
    # Each of these takes the drain into a variable of its own: close() drops it, and what a call still uses lives
    # until the call returns.

    def push(self, try_push: Callable[[], int], slots: int) -> int:
        """Tries until the ring has room, or there is no more waiting for it: the last `advlog_status`. A record
        that is given up is counted.

        :param slots: enough for the record.
        """
        while (status := try_push()) == lib.ADVLOG_FULL:
            if not self._wait_for_room(slots):
                self.count_drop("full")
                break
        return status

    def has_room_for_names(self, names: Iterable[str]) -> bool:
        """Whether those of the metric names that are new could all be given an id."""
        drain = self._drain
        return drain is None or drain.ring.has_room_for_names(names)

    def _wait_for_room(self, slots: int) -> bool:
        """Whether to try again. Never waits on a thread that the drain may wait for."""
        drain = self._drain
        if drain is None or _on_thread("advlog-drain", "advlog-sealer"):
            return False
        if drain.help() and drain.ring.used() + slots <= drain.ring.slots:
            return True
        return self._overflow.wait(drain.ring, slots)

    def admit(self, producer: Producer) -> tuple[str, str] | None:  # noqa: ARG002 - it is bound already
        """Whether a record may be logged: None, else it is counted, and the kind and the text of a warning."""
        # The end of the ring decides, not the beginning of close(): what other calls still push until then would come
        # after a record that was refused.
        drain = self._drain
        if not self.closed or (drain is not None and not lib.advlog_ring_closed(drain.ring.handle)):
            return None
        self.count_drop("closed")
        return "closed", self.after_close()

    def after_close(self) -> str:
        """What is said to whoever logs after the end."""
        by = self.superseded_by
        why = "" if by is None else f", superseded by attempt {by} of a newer logger of the run"
        reach = "what it is given after close() reaches no file, and its records are counted"
        return f"this logger was closed{why}: {reach}"

    @property
    def user(self) -> Producer | None:
        """The logger, while anybody refers to it."""
        return self._user()

    def in_child(self) -> Worker:
        """What stands for the session in a process that this one has forked."""
        child = self._child
        if child is None or child.pid != os.getpid():
            refused = ("closed", self.after_close()) if self.closed else None
            child = self._child = Worker(self.family, refused)
        return child

    def line(self, level: int, text: str) -> None:
        """A line for the training log, in the order of the records."""
        if os.getpid() != self.pid:
            self.in_child().line(level, text)
            return
        drain = self._drain
        if drain is None:
            self.count_drop("closed")
            return
        data, time_ns, ring = line_bytes(text), time.time_ns(), drain.ring.handle
        status = self.push(
            lambda: lib.advlog_push_text(ring, level, time_ns, data, len(data)), slots_for_text(len(data))
        )
        if status == lib.ADVLOG_CLOSED:
            self.count_drop("closed")

    def count_drop(self, reason: str) -> None:
        """Counts a record that never entered the ring: `full`, `closed` or `forked`."""
        drain = self._drain
        if drain is not None:
            drain.ring.count_drop(reason)
        else:
            self._dropped_late += 1

    # -- what others ask -----------------------------------------------------------------------------------------

    def flush(self, timeout_s: float) -> bool:
        """Waits until what was accepted before is with the operating system; whether it was in time."""
        drain = self._drain
        return drain is None or drain.flush(timeout_s)

    def seal(self, timeout_s: float) -> bool:
        """Flushes, and seals what was flushed into Parquet parts; whether all of it was done in time."""
        drain, sealer = self._drain, self.sealer
        if drain is None:
            return True
        deadline = time.monotonic() + timeout_s
        done = drain.flush(timeout_s)
        if sealer is None:
            return done
        waiting: dict[SpoolSink, int] = {}
        for sink in self._schedules:
            generation, records = drain.file_state(sink)
            if records:
                waiting[sink] = generation
                drain.rotate(sink)
        # The drain's thread hands a spool over once it has switched files.
        while any(sink.submitted < generation for sink, generation in waiting.items()):
            if time.monotonic() >= deadline:
                return False
            if not drain.help():
                time.sleep(0.001)
        return sealer.seal_all(deadline) and done

    def seq(self) -> int:
        """The seq of the last metrics record accepted; 0 while there is none."""
        drain = self._drain
        return self._last_totals.metric_records if drain is None else drain.ring.accepted(lib.ADVLOG_STREAM_METRICS)

    def totals(self, timeout_s: float = 1.0) -> Totals:
        """What was counted, covering every call that returned before; waits so long for it at most."""
        drain = self._drain
        return self._last_totals if drain is None else drain.totals(timeout_s)

    def memory(self) -> dict[str, Any]:
        """The trend of the memory samples."""
        return self.sampler.trend()

    def health(self) -> Health:
        """The account as of now; after the end, that of the end and what was offered since."""
        drain = self._drain
        if drain is not None:
            return self._health(drain)
        last, late = self._last_health, self._dropped_late
        dropped = {**last.dropped_at_entry, "closed": last.dropped_at_entry["closed"] + late}
        return dataclasses.replace(
            last,
            offered=last.offered + late,
            dropped_at_entry=MappingProxyType(dropped),
            status=self.control.status,
        )

    def _health(self, drain: Drain) -> Health:
        ring = drain.ring
        dropped = ring.dropped()
        accepted = sum(map(ring.accepted, range(lib.ADVLOG_STREAMS)))
        sinks = {sink.name: drain.sink_health(sink) for sink in drain.sinks}
        return Health(
            offered=accepted + sum(dropped.values()),
            accepted=accepted,
            dropped_at_entry=MappingProxyType(dropped),
            pending=max((sink.pending for sink in sinks.values()), default=0),
            ring_slots=ring.slots,
            ring_used=ring.used(),
            sinks=MappingProxyType(sinks),
            unresolved=drain.unresolved(),
            ring_path=str(ring.path) if ring.path else None,
            status=self.control.status,
            call=self._call_cost(),
            drain_cpu_s=drain.cpu_s,
            sealer_cpu_s=self.sealer.cpu_s if self.sealer else 0.0,
            parts=self.sealer.parts if self.sealer else 0,
            seal_faults=self.sealer.faults if self.sealer else 0,
            seal_error=self.sealer.error if self.sealer else None,
            entries_lost=MappingProxyType({**self.control.lost(), "console": self.console.dropped}),
            entries_error=self.control.fault(),
        )

    def _call_cost(self) -> CallCost:
        user = self._user()
        overflow = self._overflow
        return CallCost.of(user._samples() if user is not None else [], overflow.stalls, overflow.stalled_s)

    # -- the drain's thread --------------------------------------------------------------------------------------

    def _tick(self) -> None:
        drain, now = self._drain, time.monotonic()
        if drain is None:
            return
        if now >= self._watch_due:
            self._watch_due = now + _WATCH_S
            try:
                self._watch(drain)
            except OSError as error:  # such as a parent folder that may not be entered any more
                self._fault(f"{error.filename}: {error.strerror}")
        for sink, schedule in self._schedules.items():
            generation, records = drain.file_state(sink)
            if schedule.due(now, generation, records):
                drain.rotate(sink)

    def _watch(self, drain: Drain) -> None:
        """Looks for what others may have done to the files."""
        # By its note, not by the folder: a rotation meanwhile makes that again, and nothing in it.
        if not drain.ring.is_noted():
            self._fault(f"{self.paths.private} was removed: it is made again, and what stood in it is lost")
            with contextlib.suppress(OSError):
                restore_claims(self.paths, self.run)
                drain.ring.write_note()
        drain.watch()
        why = drain.ring.unshare()
        if why and not self._told_sharing:
            self._told_sharing = True
            ring = drain.ring.path
            self._fault(f"the ring {ring} shares blocks with a copy ({why}): a full disk would end the process")
        if not self._told_ring and drain.ring.vanished():
            self._told_ring = True
            self._fault(f"the ring {drain.ring.path} was removed: a SIGKILL would now lose what is in it")

    def _fault(self, message: str) -> None:
        self._keeper.do(lambda: self._tell_fault(message))

    # -- the keeper's thread -------------------------------------------------------------------------------------

    def _sync(self) -> None:
        if self._drain is not None:
            self._drain.sync()

    def _tell_fault(self, message: str) -> None:
        self.control.logger.warning(message)
        self.console.say(message)

    def _tell_nonfinite(self) -> None:
        for name, stats in self.totals(0.0).metrics.items():
            if stats.first_nonfinite is not None and name not in self._told_nonfinite:
                self._told_nonfinite.add(name)
                self.control.nonfinite(name, stats.first_nonfinite)

    # -- the sampler ---------------------------------------------------------------------------------------------

    def _sampled(self, sample: MemorySample) -> None:
        metrics = sample.metrics()
        if all(map(self._producer._learn, metrics)):
            self.push(
                lambda: self._producer._try_record(lib.ADVLOG_KIND_MEMORY, sample.time_ns, metrics),
                slots_for(len(metrics)),
            )
        for name in self.sampler.leaks():
            if name not in self._told_leaks:
                self._told_leaks.add(name)
                self._keeper.do(partial(self._tell_leak, name))

    def _tell_leak(self, name: str) -> None:
        growth = self.memory()[name]["growth_gb_per_hour"]
        self.control.logger.warning("%s grows without an end in sight, by %.3g GB an hour", name, growth)

    # -- the process's own end -----------------------------------------------------------------------------------

    def _uncaught(self, error: BaseException, where: str) -> None:
        if os.getpid() == self.pid and not self.closed:
            self.control.log_leaving(error, where)

    def handle_sigterm(self) -> None:
        """SIGTERM ends the attempt first. For the main thread."""
        alive = weakref.ref(self)

        def close(number: int) -> bool:
            session = alive()
            if session is None:
                return True
            session.close(session.config.close_timeout_s, "interrupted")
            return session.may_die(number)

        self._at_sigterm = close
        try:
            on_sigterm(close)
        except ValueError:
            self.control.logger.warning("handle_signals: signals can be handled on the main thread only")

    # -- the end -------------------------------------------------------------------------------------------------

    def close(self, timeout_s: float, status: str | None = None) -> bool:
        """Ends the attempt: everything accepted is written and sealed, the summary too. True if all of it was, in
        time. Never raises; a second call waits for the first and says the same. Nothing at all in a forked child.

        It is done on the keeper's thread: an interrupt of the caller ends the wait for it."""
        if os.getpid() != self.pid:
            return True
        if sys.is_finalizing():
            return self._leave(timeout_s)
        deadline = time.monotonic() + timeout_s
        self.closed = True
        self._keeper.do(partial(self._close_here, deadline, status))
        if self._keeper.is_here or _on_thread(*_BUSY_THREADS):
            return False  # the collector runs anywhere: a thread that the end waits for cannot wait for it
        if not self._keeper.runs:
            self._keeper.run_pending()
        try:
            self._ended.wait(max(deadline - time.monotonic(), 0.0) + _GRACE_S)
        except BaseException:
            self._ended.wait(_INTERRUPTED_S)  # it goes on; what takes no longer is over when the interrupt is seen
            raise
        return self._complete

    def may_die(self, number: int) -> bool:
        """Whether a signal may end the process now. False: this very thread is in the middle of the end, which raises
        the signal again when it is over."""
        if self._closer != threading.get_ident():
            return True
        self._raised.append(number)
        return False

    def _close_here(self, deadline: float, status: str | None) -> None:
        """The end, once: on the keeper's thread, or where there is none."""
        if self._closer:
            return
        self._closer = threading.get_ident()
        try:
            if self.opened:
                self._complete = self._end(deadline, status)
        finally:
            try:
                self._on_end(self)
            finally:
                try:
                    if self.opened:
                        self._rank_lock.release()
                finally:
                    self._closer = -1
                    self._ended.set()
                    off_sigterm(self._at_sigterm)
                    self._keeper.end()
        for number in self._raised:
            os.kill(self.pid, number)

    def _leave(self, timeout_s: float) -> bool:
        """The end of a session that no exit handler closed, since it began after ours had run: its threads are gone
        and nothing can be imported. What was accepted is written, and the next start finds the rest as after a kill."""
        drain = self._drain
        if not self.closed and drain is not None:
            self.closed = True
            drain.leave(min(timeout_s, _LEAVE_S))
        return self._complete

    def _end(self, deadline: float, status: str | None) -> bool:
        began = time.monotonic()
        timeout_s = max(deadline - began, 0.0)
        drain = self._drain
        assert drain is not None
        unwatch_exceptions(self._uncaught)
        self.sampler.stop(min(timeout_s, 0.5))
        failpoint("close_begun")
        done = drain.finish(deadline)
        self._keeper.run_pending()  # what the drain found last
        self.deferral.close(written=done)
        failpoint("close_drained")
        self._tell_nonfinite()
        if self.sealer is not None:
            done = self.sealer.seal_all(deadline) and done
            self.sealer.stop(max(deadline - time.monotonic(), 0.0))
            for sink in drain.sinks:
                if isinstance(sink, RotatedSink):
                    sink.trim()
        if not done:
            took_s = time.monotonic() - began
            self.control.logger.warning("closed with records pending after %.3g s", took_s)
        failpoint("close_sealed")
        self.control.close(status or "completed")
        failpoint("close_summarized")
        self.console.close()
        for bound in (self._producer, self.user):
            if bound is not None:
                bound._unbind()
        if done:
            with contextlib.suppress(OSError):
                account = Account.of_health(self._health(drain))
                account = dataclasses.replace(account, lost_in_flight=drain.lost_in_flight)
                write_account(self.paths, self.run.attempt, account)
        failpoint("close_accounted")
        self._last_totals, self._last_health = drain.totals(0.0), self._health(drain)
        if done:
            drain.ring.remove()
            self._drain = None
        return done


def _on_thread(*prefixes: str) -> bool:
    return threading.current_thread().name.startswith(prefixes)


@contextlib.contextmanager
def _naming_log_dir(log_dir: Path) -> Iterator[None]:
    """What the disk refuses while a session opens is said of the argument that led there."""
    try:
        yield
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        message = f"log_dir: expected a directory that can be written, got {str(log_dir)!r} ({reason})"
        raise OSError(error.errno or errno.EIO, message) from error
