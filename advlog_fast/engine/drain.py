"""The drain's thread, and what Python does for it: files opened ahead, faults told, the end."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from .._failpoints import failpoint
from .._native import ffi, lib
from ..sinks.base import Cursor, OpenFile, Retired, Sink, is_open
from ..snapshots import SinkHealth, Totals
from .child_rings import Workers
from .ring import Ring
from .totals import read_totals, unresolved_of

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
    """Owns the C drain of one ring, its sinks, and the daemon thread that runs it.

    :param on_tick: called on the drain's thread twice a second; it must not wait.
    :param on_fault: likewise, with a sentence, when a sink begins or ceases to fail; by `sync`, on its caller's thread.
    :param on_nonfinite: likewise, when some metric's first value came that is not finite.
    :param deferred_timeout_s: how long a value is waited for that an accelerator is to fill in, from its call.
    :param patience_s: how long a sink may fail before `finish` gives up, with its records still in the ring; None: it
        is set aside as C has it, and its records are dropped, so that the others and the producers go on.
    """

    def __init__(
        self,
        ring: Ring,
        sinks: Sequence[Sink],
        *,
        on_tick: Callable[[], None],
        on_fault: Callable[[str], None],
        on_nonfinite: Callable[[], None],
        deferred_timeout_s: float = 0.0,
        patience_s: float | None = None,
    ) -> None:
        self.ring = ring
        self._patience_s = patience_s
        self.sinks = tuple(sinks)
        self._on_tick, self._on_fault, self._on_nonfinite = on_tick, on_fault, on_nonfinite
        self._drain = lib.advlog_drain_new(ring.handle)
        if self._drain == ffi.NULL:
            raise MemoryError("no memory for the drain")
        lib.advlog_drain_set_patience(self._drain, _ns(deferred_timeout_s))
        for sink in self.sinks:
            if lib.advlog_drain_add_sink(self._drain, sink.options()) < 0:
                raise ValueError(f"sinks: expected at most {lib.ADVLOG_MAX_SINKS}, got {len(self.sinks)}")
        self.cpu_s = 0.0
        """CPU seconds that the thread has used."""
        self._states: dict[int, int] = {}
        self._gone: set[tuple[int, int]] = set()
        self._workers = Workers(ring, self._drain, on_fault)
        self._looks = 0
        self._look_due_ns = 0
        self._look_every_ns = TICK_NS
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="advlog-drain", daemon=True)
        self._refused = False
        self._helping = threading.RLock()

    # -- the drain's thread, or the closing one after it ---------------------------------------------------------

    def open_files(self) -> None:
        """Gives every sink its first file.

        :raises OSError: one could not be opened.
        """
        for index, sink in enumerate(self.sinks):
            sink.begin(self._give_file(index, sink))

    def resume_files(self) -> dict[str, int]:
        """Goes on where a dead drain stopped: the bytes cut off each sink's file.

        :raises OSError: a file could not be opened, cut or put into place.
        """
        torn = {}
        for index, sink in enumerate(self.sinks):
            cursor = self.cursor(index)
            sink.expired = lib.advlog_ring_expired(self.ring.handle, index)
            sink.vanished = lib.advlog_ring_vanished(self.ring.handle, index)
            adopted = sink.adopt(cursor)
            if adopted is None:
                lib.advlog_sink_resume(self._drain, index, -1, 0, cursor.next_seq)
                sink.begin(self._give_file(index, sink))
                continue
            file, torn[sink.name] = adopted
            records, first_seq = sink.contents(file)
            first = cursor.next_seq - records if first_seq is None else first_seq
            lib.advlog_sink_resume(self._drain, index, file.fd, records, first)
            sink.begin(file)
        return torn

    def cursor(self, index: int) -> Cursor:
        """What a sink has completed, as the ring says; for a drain at rest."""
        c = ffi.new("advlog_cursor *")
        lib.advlog_ring_cursor(self.ring.handle, index, c)
        return Cursor(c.position, c.next_seq, c.written, c.dropped, c.dev, c.ino, c.length, c.generation)

    def start(self) -> None:
        self._workers.open()
        _started.add(self)
        try:
            self._thread.start()
        except RuntimeError:
            self._refused = True  # no more threads here: whoever waits for the drain runs it

    def help(self) -> bool:
        """Drains in the calling thread, where there is no other to do it; False where there is."""
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
                self._workers.look()
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
            self._serve_files()
        if why & lib.ADVLOG_DRAIN_FAULT:
            self._tell_faults()
        if why & lib.ADVLOG_DRAIN_NONFINITE:
            self._on_nonfinite()
        return why

    def _serve_files(self) -> None:
        for index, sink in enumerate(self.sinks):
            info = self._info(index)
            try:
                if info.retired_fd >= 0:
                    self._retire(index, sink, info)
                if info.needs_file:
                    self._give_file(index, sink)
            except OSError as error:
                lib.advlog_sink_file_fault(self._drain, index, error.errno or errno.EIO)

    def _give_file(self, index: int, sink: Sink) -> OpenFile:
        file = sink.open_next()
        failpoint("file_opened")
        lib.advlog_sink_give_file(self._drain, index, file.fd, file.dev, file.ino, file.generation)
        return file

    def _retire(self, index: int, sink: Sink, info: Any) -> None:
        file = sink.close_file(info.retired_fd)
        failpoint("retire_closed")
        lib.advlog_sink_retired(self._drain, index)
        retired = Retired(file, info.retired_first_seq, info.retired_next_seq, info.retired_records)
        self._settle(sink, retired, last=False)
        failpoint("retire_settled")
        for current in sink.open_files():
            if current.generation == info.cursor.generation:
                sink.begin(current)
        self._count_gone(index, sink)

    @staticmethod
    def _settle(sink: Sink, retired: Retired, *, last: bool) -> None:
        if sink.exists(retired.file):
            sink.settle(retired, last)
        else:
            sink.lost(retired)

    def _count_gone(self, index: int, sink: Sink) -> None:
        """Into the ring, where a recovery finds it."""
        lib.advlog_ring_set_gone(self.ring.handle, index, sink.expired, sink.vanished)

    def _tell_faults(self) -> None:
        for index, sink in enumerate(self.sinks):
            info = self._info(index)
            failing = info.failing_since_ns != 0
            state = 2 * failing + bool(info.set_aside)
            if state == self._states.get(index, 0):
                continue
            self._states[index] = state
            error = os.strerror(info.error)
            if info.set_aside:
                self._on_fault(f"{sink.name} cannot be written ({error}): its records are dropped until it can")
            elif failing:
                self._on_fault(f"{sink.name} cannot be written ({error}): its records wait in the ring")
            else:
                self._on_fault(f"{sink.name} is written again; {info.cursor.dropped} of its records were dropped")

    def watch(self) -> None:
        """Looks whether each file is still where it was made; one that is gone is left for a new one, and said. So with
        the folder of the children's rings."""
        self._workers.watch()
        for index, sink in enumerate(self.sinks):
            info = self._info(index)
            for file in sink.open_files():
                if file.generation != info.cursor.generation or (index, file.generation) in self._gone:
                    continue
                try:
                    if not is_open(file):
                        what = "was closed by another part of the program"
                    elif not sink.in_place(file):
                        what = "was removed or replaced"
                    else:
                        continue
                except OSError as error:
                    self._on_fault(f"{sink.name}: {error.filename}: {error.strerror}")
                    continue
                self._gone.add((index, file.generation))
                self._on_fault(f"{sink.name}: {sink.place(file).name} {what}; a new file is begun")
                self.rotate(sink, even_empty=True)

    # -- any thread ----------------------------------------------------------------------------------------------

    def flush(self, timeout_s: float) -> bool:
        """Waits until what was accepted before, of children too, is with the operating system, in every sink that
        works."""
        deadline = time.monotonic() + timeout_s
        taken = self._take_over(deadline) if self._workers.has_any() else True
        return self._wait(lib.advlog_drain_wait, deadline - time.monotonic()) and taken

    def _wait(self, wait: Callable[[Any, int, int], int], timeout_s: float) -> bool:
        """Waits for what was accepted before."""
        position, deadline = lib.advlog_ring_write_pos(self.ring.handle), time.monotonic() + timeout_s
        while True:
            slice_s = 0.0 if self.help() else min(deadline - time.monotonic(), _SLICE_S)
            # Back in Python after each slice, signals are handled.
            status = wait(self._drain, position, _ns(max(slice_s, 0.0)))
            if status != lib.ADVLOG_TIMEOUT or time.monotonic() >= deadline:
                return bool(status == lib.ADVLOG_OK)

    def expect_children(self) -> None:
        """From here on there may be some that log."""
        self._look_every_ns = _LOOK_NS
        self._look_now()

    def _look_now(self) -> None:
        self._look_due_ns = 0
        lib.advlog_drain_stop(self._drain)  # the run that goes on; the thread begins another

    def _take_over(self, deadline: float) -> bool:
        """Waits until what children were acknowledged is in the ring."""
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
        return self._workers.wait(deadline)

    def rotate(self, sink: Sink, *, even_empty: bool = False) -> None:
        """Makes the sink end its file, if it has any records, or even if it has none."""
        lib.advlog_sink_rotate(self._drain, self.sinks.index(sink), even_empty)

    def sync(self) -> None:
        """Brings what the sinks have written to the disk; waits for it, so not on the drain's thread.

        A file whose fsync failed is left for a new one: the kernel may have dropped its pages and called them clean, so
        that a second fsync would succeed and mean nothing.
        """
        for sink in self.sinks:
            for file in sink.open_files():
                try:
                    fd = os.dup(file.fd)  # the drain's thread may close its own meanwhile
                    try:
                        os.fsync(fd)
                    finally:
                        os.close(fd)
                except OSError as error:
                    if error.errno != errno.EBADF:
                        self._on_fault(f"{sink.name} could not be synced ({error.strerror}): a new file is begun")
                        self.rotate(sink, even_empty=True)

    def file_state(self, sink: Sink) -> tuple[int, int]:
        """The generation of the sink's current file, and the records in it."""
        info = self._info(self.sinks.index(sink))
        return int(info.cursor.generation), int(info.file_records)

    def sink_health(self, sink: Sink) -> SinkHealth:
        """The account of one sink."""
        info = self._info(self.sinks.index(sink))
        accepted = self.ring.accepted(sink.stream)
        if sink.kind == lib.ADVLOG_SINK_TEXT:
            accepted += self.ring.accepted(lib.ADVLOG_STREAM_EVENTS)
        written, dropped = int(info.cursor.written), int(info.cursor.dropped)
        return SinkHealth(
            name=sink.name,
            accepted=max(accepted, written + dropped),
            written=written,
            dropped=dropped,
            pending=max(accepted - written - dropped, 0),
            filtered=int(info.filtered),
            expired=sink.expired,
            vanished=sink.vanished,
            faults=int(info.faults),
            error=os.strerror(info.error) if info.error else None,
            set_aside=bool(info.set_aside),
        )

    def unresolved(self) -> Mapping[str, int]:
        """The values that never came, by reason, in the records counted so far."""
        c = ffi.new("advlog_totals *")
        lib.advlog_drain_totals(self._drain, c)
        return MappingProxyType(unresolved_of(c))

    def totals(self, timeout_s: float) -> Totals:
        """What was counted, of every record accepted before this call if the drain gets there in time."""
        if threading.current_thread() is not self._thread:
            self._wait(lib.advlog_drain_wait_totals, timeout_s)
        return read_totals(self._drain, self.ring)

    def _info(self, index: int) -> Any:
        info = ffi.new("advlog_sink_info *")
        lib.advlog_sink_get(self._drain, index, info)
        return info

    # -- the end -------------------------------------------------------------------------------------------------

    def finish(self, deadline: float) -> bool:
        """Closes the ring, drains the rest in the calling thread, and settles the files.

        False where the deadline (on `time.monotonic()`) came first; the files and the memory that a stuck drain may
        still use are then left open for good: a descriptor closed under it could become a user's checkpoint.
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
                return False
        family_done = self._workers.end(lambda: self._advance(_MOMENT_NS), deadline)
        lib.advlog_ring_close(self.ring.handle)
        done = False
        while not done and (left := deadline - time.monotonic()) > 0:
            done = bool(self._advance(min(_ns(left), TICK_NS)) & lib.ADVLOG_DRAIN_DONE)
        return self._settle_last() and done and family_done

    def _give_up_in(self, seconds: float) -> None:
        """No value of an accelerator is waited for any longer than that."""
        lib.advlog_drain_give_up_at(self._drain, time.monotonic_ns() + _ns(seconds))

    def _advance(self, timeout_ns: int) -> int:
        """:raises OSError: a sink fails and has failed for as long as there is patience."""
        if self._patience_s is None:
            return self._once(timeout_ns)
        for index, sink in enumerate(self.sinks):
            info = self._info(index)
            if info.failing_since_ns == 0:
                continue
            if time.monotonic_ns() - info.failing_since_ns > _ns(self._patience_s):
                raise OSError(info.error, os.strerror(info.error), sink.name)
            # C may set a failing sink aside when it passes it before the next attempt is due: each pass is one.
            time.sleep(_RETRY_S)
            timeout_ns = 0
        return self._once(timeout_ns)

    @property
    def lost_in_flight(self) -> int:
        """Runs of slots that children reserved and never published."""
        return self._workers.lost_in_flight

    def _settle_last(self) -> bool:
        """What the drain cannot write now stays in the ring; what it wrote is settled. False where a file holds more
        than that and cannot be cut: it is left as it is, for a recovery."""
        whole = [self._settle_current(index, sink) for index, sink in enumerate(self.sinks)]
        return all(whole)

    def _settle_current(self, index: int, sink: Sink) -> bool:
        info = self._info(index)
        whole = True
        with contextlib.suppress(OSError):
            if info.retired_fd >= 0:
                self._retire(index, sink, info)
        for file in sink.open_files():
            if file.generation != info.cursor.generation:
                sink.discard(file.fd)
                continue
            whole = not info.torn or _cut(file.fd, info.cursor.length)
            sink.close_file(file.fd)
            retired = Retired(file, info.file_first_seq, info.cursor.next_seq, int(info.file_records))
            with contextlib.suppress(OSError):
                if whole:
                    self._settle(sink, retired, last=True)
        self._count_gone(index, sink)
        return whole

    def abandon(self, timeout_s: float = _ABANDON_S) -> None:
        """Takes `start` and `open_files` back. Where the thread does not end in time its files stay open for good, as
        after `finish`."""
        _started.discard(self)
        self._ending = True
        lib.advlog_ring_close(self.ring.handle)
        lib.advlog_drain_stop(self._drain)
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                return
        self._workers.abandon()
        for sink in self.sinks:
            for file in sink.open_files():
                sink.discard(file.fd)

    def leave(self, timeout_s: float) -> bool:
        """What can be done for an end once the interpreter has stopped its threads, none knows where: waits until what
        was accepted is written, if it can be, and leaves the rest in the ring; whether nothing is left."""
        self._give_up_in(timeout_s / 2)
        done = self.flush(timeout_s)
        lib.advlog_drain_stop(self._drain)
        time.sleep(_LEAVE_S)  # the thread may still be in C, and the ring goes with its last reference
        return done

    def __del__(self) -> None:
        # The last reference went: no thread runs the drain or asks it anything, and after a drain that is stuck
        # its thread still holds one; unless the interpreter has taken it from a thread that is in C still.
        if not sys.is_finalizing():
            lib.advlog_drain_free(self._drain)


_started: weakref.WeakSet[Drain] = weakref.WeakSet()


def expect_children() -> None:
    """Tells every drain of this process that there may be children that log."""
    for drain in list(_started):
        drain.expect_children()


os.register_at_fork(after_in_parent=expect_children)


def _cut(fd: int, length: int) -> bool:
    """Whether the file is no longer than that now."""
    try:
        os.ftruncate(fd, length)
    except OSError:
        return False
    return True


def _ns(seconds: float) -> int:
    return min(int(seconds * _NANOSECONDS), _FOREVER_NS) if seconds < math.inf else _FOREVER_NS
