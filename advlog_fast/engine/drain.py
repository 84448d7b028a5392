"""The drain's thread: it runs the C drain, and comes back to Python for files, faults and findings."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from .._native import ffi, lib
from ..records import UNRESOLVED
from ..sinks.base import Sink
from ..snapshots import Totals
from .child_rings import ChildRings
from .findings import CLOCK, NONFINITE, Finding
from .ring import Ring
from .sink_files import SinkFiles
from .totals import metric_of, nonfinite_of, read_totals

TICK_NS = 500_000_000
"""How often the drain's thread comes back to Python when nothing else asks for it."""

_MOMENT_NS = 2_000_000
_LOOK_NS = 50_000_000
"""How often it looks for the rings of children, once there may be any."""
_NANOSECONDS = 1_000_000_000
_FOREVER_NS = 1 << 62
_LEAVE_S = 0.05
_LAST_S = 1.0
_SLICE_S = 0.05
_ABANDON_S = 5.0
_RETRY_S = 0.11
"""A little longer than C leaves a failing sink alone: see RETRY_NS in sink.c."""


class Drain:
    """Owns the C drain of one ring, the files of its sinks, and the daemon thread that runs it.

    :param on_tick: called on the drain's thread twice a second; it must not wait.
    :param report: takes findings, on the drain's thread; it must not wait.
    :param deferred_timeout_s: how long, from its call, the drain waits for a value that an accelerator fills in.
    :param max_sink_outage_s: how long a sink may fail before `finish` gives up, with its records still in the ring;
        None: C suspends it, and its records are dropped, so that the others and the producers go on.
    :param syncs_at_end: whether `finish` syncs the files to the disk.
    """

    def __init__(
        self,
        ring: Ring,
        sinks: Sequence[Sink],
        *,
        on_tick: Callable[[], None],
        report: Callable[[Finding], None],
        deferred_timeout_s: float = 0.0,
        max_sink_outage_s: float | None = None,
        syncs_at_end: bool = False,
    ) -> None:
        self.ring = ring
        self._max_sink_outage_s = max_sink_outage_s
        self._on_tick, self._report = on_tick, report
        self._pid = os.getpid()
        self._drain = lib.advlog_drain_new(ring.handle)
        if self._drain == ffi.NULL:
            raise MemoryError("no memory for the drain")
        lib.advlog_drain_set_deferred_timeout(self._drain, _ns(deferred_timeout_s))
        if max_sink_outage_s is not None:
            lib.advlog_drain_suspend_none(self._drain)
        self._syncs_at_end = syncs_at_end
        self.files = SinkFiles(self._drain, ring, sinks, report)
        self.children = ChildRings(ring, self._drain, report)
        self.cpu_s = 0.0
        """CPU seconds that the thread has used."""
        self._looks = 0
        self._look_due_ns = 0
        self._look_every_ns = TICK_NS
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="advlog-drain", daemon=True)
        self._refused = False
        self._helping = threading.RLock()

    # -- the drain's thread, or the closing one after it ---------------------------------------------------------

    def start(self) -> None:
        self.children.open()
        _started.add(self)
        try:
            self._thread.start()
        except RuntimeError:
            self._refused = True  # no more threads here: the thread that waits for the drain runs it

    def help(self) -> bool:
        """Drains in the calling thread if the drain has no thread; returns False if it has one."""
        if self._refused:
            with self._helping:
                self._once(_MOMENT_NS)
        return self._refused

    def _run(self) -> None:
        why = 0
        due_ns = time.monotonic_ns() + TICK_NS
        while not why & lib.ADVLOG_DRAIN_DONE and not self._ending:
            why = self._once(max(min(due_ns, self._look_due_ns) - time.monotonic_ns(), 0))
            if time.monotonic_ns() >= self._look_due_ns:
                self.children.look()
                self._looks += 1
                self._look_due_ns = time.monotonic_ns() + self._look_every_ns
            # By a clock of its own: files may ask for attention more often than the tick comes.
            if time.monotonic_ns() >= due_ns:
                self._on_tick()
                due_ns = time.monotonic_ns() + TICK_NS
            self.cpu_s = time.thread_time()

    def _once(self, timeout_ns: int) -> int:
        why = int(lib.advlog_drain_run(self._drain, timeout_ns))
        if why & lib.ADVLOG_DRAIN_FILES:
            self.files.serve()
        if why & lib.ADVLOG_DRAIN_FAULT:
            self.files.report_faults()
        if why & lib.ADVLOG_DRAIN_FINDING:
            for finding in _new_findings(self._drain, self.ring):
                self._report(finding)
        return why

    # -- any thread ----------------------------------------------------------------------------------------------

    def flush(self, timeout_s: float) -> bool:
        """Waits until every working sink has given the records accepted before, children's included, to the operating
        system."""
        deadline = time.monotonic() + timeout_s
        is_here = self._take_over(deadline) if self.children.has_any() else True
        return self._wait(lib.advlog_drain_wait, deadline - time.monotonic()) and is_here

    def _wait(self, wait: Callable[[Any, int, int], int], timeout_s: float) -> bool:
        """Waits until the drain has processed the records accepted before."""
        position, deadline = lib.advlog_ring_write_pos(self.ring.handle), time.monotonic() + timeout_s
        while True:
            slice_s = 0.0 if self.help() else min(deadline - time.monotonic(), _SLICE_S)
            # Back in Python after each slice, signals are handled.
            status = wait(self._drain, position, _ns(max(slice_s, 0.0)))
            if status != lib.ADVLOG_TIMEOUT or time.monotonic() >= deadline:
                return bool(status == lib.ADVLOG_OK)

    def expect_children(self) -> None:
        """Looks for child rings from now on."""
        self._look_every_ns = _LOOK_NS
        self._look_now()

    def _look_now(self) -> None:
        self._look_due_ns = 0
        lib.advlog_drain_stop(self._drain)  # the run that goes on; the thread begins another

    def _take_over(self, deadline: float) -> bool:
        """Waits until the acknowledged records of children are in the ring."""
        if threading.current_thread() is self._thread or not self._thread.is_alive():
            return False
        seen = self._looks
        self._look_now()
        # The second look from here: the first may have begun before a child's ring was there.
        while self._looks < seen + 2:
            if time.monotonic() >= deadline or not self._thread.is_alive():
                return False
            if self._looks > seen:
                self._look_now()
            time.sleep(0.001)
        return self.children.wait(deadline)

    def unresolved(self) -> Mapping[str, int]:
        """The values that never came, by reason, in the records counted so far."""
        counts = ffi.new("uint64_t[]", lib.ADVLOG_UNRESOLVED_REASONS)
        lib.advlog_drain_unresolved(self._drain, counts)
        return MappingProxyType({reason: int(counts[at]) for at, reason in enumerate(UNRESOLVED) if at})

    def totals(self, timeout_s: float) -> Totals:
        """Returns the counts; they include every record accepted before this call, children's included, if the drain
        reaches it in time."""
        if threading.current_thread() is not self._thread:
            deadline = time.monotonic() + timeout_s
            if timeout_s > 0 and self.children.has_any():
                self._take_over(deadline)
            self._wait(lib.advlog_drain_wait_totals, deadline - time.monotonic())
        return read_totals(self._drain, self.ring)

    def resume(self, epoch: int | None, batch: int | None, total: int | None) -> None:
        """Counts batches from the one on that was the last of another process, as far as that is known."""
        if epoch is not None and batch is not None:
            lib.advlog_drain_resume(self._drain, epoch, batch, -1 if total is None else total)

    # -- the end -------------------------------------------------------------------------------------------------

    def finish(self, deadline: float, last_words: Callable[[], object] = lambda: None) -> bool:
        """Closes the ring, drains the rest in the calling thread, and publishes the files.

        :param last_words: called once all is drained; it may push lines with `advlog_push_last_text`.

        Returns False if the deadline (on `time.monotonic()`) came first. Then the files and the memory that a stuck
        drain may still use stay open for good: the number of a closed descriptor could become that of a user's
        checkpoint.
        """
        _started.discard(self)
        self._ending = True
        left_s = max(deadline - time.monotonic(), 0.0)
        # The rest is for writing what was waited for in vain.
        self._give_up_in(left_s - min(_LAST_S, left_s / 4))
        lib.advlog_drain_stop(self._drain)
        if self._thread.ident is not None:
            self._thread.join(max(deadline - time.monotonic(), 0.0))
            if self._thread.is_alive():
                lib.advlog_ring_close(self.ring.handle)
                for finding in _new_findings(self._drain, self.ring):  # from before it got stuck
                    self._report(finding)
                return False
        children_done = self.children.end(lambda: self._advance(_MOMENT_NS), deadline)
        lib.advlog_ring_close(self.ring.handle)
        done = self._drained(deadline)
        if done:
            last_words()
            done = self._drained(deadline)
        if self._syncs_at_end:
            self.files.sync()
        return self.files.close() and done and children_done

    def _drained(self, deadline: float) -> bool:
        """Drains a ring that is closed; returns whether all of it was done in time."""
        done = False
        while not done and (left := deadline - time.monotonic()) > 0:
            done = bool(self._advance(min(_ns(left), TICK_NS)) & lib.ADVLOG_DRAIN_DONE)
        return done

    def _give_up_in(self, seconds: float) -> None:
        """Limits the further wait for values of an accelerator."""
        lib.advlog_drain_give_up_at(self._drain, time.monotonic_ns() + _ns(seconds))

    def _advance(self, timeout_ns: int) -> int:
        """:raises OSError: a sink has failed for longer than `max_sink_outage_s`."""
        if self._max_sink_outage_s is not None and (failing := self.files.failing()):
            sink, error, since_ns = failing
            if time.monotonic_ns() - since_ns > _ns(self._max_sink_outage_s):
                raise OSError(error, os.strerror(error), sink.name)
            time.sleep(_RETRY_S)
            timeout_ns = 0
        return self._once(timeout_ns)

    def abandon(self, timeout_s: float = _ABANDON_S) -> None:
        """Undoes `start` and the opening of the files. If the thread does not end in time, its files stay open for
        good, as after `finish`."""
        _started.discard(self)
        self._ending = True
        lib.advlog_ring_close(self.ring.handle)
        lib.advlog_drain_stop(self._drain)
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                return
        self.children.abandon()
        self.files.abandon()

    def leave(self, timeout_s: float) -> bool:
        """Ends as well as possible after the interpreter has stopped its threads at unknown places: waits until the
        accepted records are written, if possible, and leaves the rest in the ring. Returns whether nothing is left."""
        self._give_up_in(timeout_s / 2)
        done = self.flush(timeout_s)
        lib.advlog_drain_stop(self._drain)
        time.sleep(_LEAVE_S)  # the thread may still be in C, and the ring goes with its last reference
        return done

    def __del__(self) -> None:
        # The last reference went: no thread runs the drain or asks it anything, and after a drain that is stuck
        # its thread still holds one; unless the interpreter has taken it from a thread that is in C still.
        # A forked child's copy may have been caught in the middle of a change: it is left to the child's end.
        if not sys.is_finalizing() and os.getpid() == self._pid:
            lib.advlog_drain_free(self._drain)


def _nonfinite(c: Any, ring: Ring) -> Finding:
    return Finding(NONFINITE, metric=metric_of(c.metric, ring), value=nonfinite_of(c.stat))


def _clock(c: Any, _ring: Ring) -> Finding:
    return Finding(CLOCK, moved_s=c.moved_ns / _NANOSECONDS, seqs=(c.first_seq, c.last_seq))


# By kind, what a finding of C is in Python.
_FINDINGS = {lib.ADVLOG_FINDING_NONFINITE: _nonfinite, lib.ADVLOG_FINDING_CLOCK: _clock}


def _new_findings(drain: Any, ring: Ring) -> Iterator[Finding]:
    """Takes the findings of a C drain, each once."""
    c = ffi.new("advlog_finding *")
    while lib.advlog_drain_next_finding(drain, c):
        yield _FINDINGS[c.kind](c, ring)


_started: weakref.WeakSet[Drain] = weakref.WeakSet()


def expect_children() -> None:
    """Makes every drain of this process look for child rings."""
    for drain in list(_started):
        drain.expect_children()


os.register_at_fork(after_in_parent=expect_children)


def _ns(seconds: float) -> int:
    return min(int(seconds * _NANOSECONDS), _FOREVER_NS) if seconds < math.inf else _FOREVER_NS
