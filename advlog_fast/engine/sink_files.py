"""Opens the files of the drain's sinks in advance, takes over those that the drain has left, and watches, rotates and
closes them."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from .._failpoints import failpoint
from .._native import ffi, lib
from ..sinks.base import ClosedFile, Cursor, OpenFile, Sink, is_open
from ..snapshots import SinkHealth
from .findings import Finding, fault
from .ring import Ring


class SinkFiles:
    """The Python side of the sinks of one C drain.

    Only the drain's thread, or the closing thread after it, may call it, except `rotate`, `sync`, `state` and `health`,
    which any thread may call.

    :param drain: the C drain.
    :param report: receives findings: a sink begins or ceases to fail, a file is missing.
    """

    def __init__(self, drain: Any, ring: Ring, sinks: Sequence[Sink], report: Callable[[Finding], None]) -> None:
        self.sinks = tuple(sinks)
        self._drain = drain
        self._ring = ring
        self._report = report
        self._reported: dict[int, tuple[bool, bool]] = {}
        """By sink, the state reported last: whether it fails, whether it is suspended."""
        self._gone: set[tuple[int, int]] = set()
        for sink in self.sinks:
            if lib.advlog_drain_add_sink(drain, sink.options()) < 0:
                raise ValueError(f"sinks: expected at most {lib.ADVLOG_MAX_SINKS}, got {len(self.sinks)}")

    # -- opening -------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Gives every sink its first file.

        :raises OSError: one could not be opened.
        """
        for index, sink in enumerate(self.sinks):
            sink.on_open(self._give_file(index, sink))

    def resume(self) -> dict[str, int]:
        """Continues where a dead drain stopped; returns the bytes cut off each sink's file.

        :raises OSError: a file could not be opened, cut or put into place.
        """
        cut = {}
        for index, sink in enumerate(self.sinks):
            cursor = self.cursor(index)
            sink.expired = lib.advlog_ring_expired(self._ring.handle, index)
            sink.vanished = lib.advlog_ring_vanished(self._ring.handle, index)
            resumed = sink.resume(cursor)
            if resumed is None:
                lib.advlog_sink_resume(self._drain, index, -1, 0, cursor.next_seq)
                sink.on_open(self._give_file(index, sink))
                continue
            file, cut[sink.name] = resumed
            records, first_seq = sink.contents(file)
            first = cursor.next_seq - records if first_seq is None else first_seq
            lib.advlog_sink_resume(self._drain, index, file.fd, records, first)
            sink.on_open(file)
        return cut

    def cursor(self, index: int) -> Cursor:
        """Returns a sink's cursor from the ring; the drain must be at rest."""
        c = ffi.new("advlog_cursor *")
        lib.advlog_ring_cursor(self._ring.handle, index, c)
        return Cursor(c.position, c.next_seq, c.written, c.dropped, c.dev, c.ino, c.length, c.file_number)

    # -- while it runs -------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Takes over the files that the drain has left, and gives it the files that it requests."""
        for index, sink in enumerate(self.sinks):
            info = self._info(index)
            try:
                if info.closed_fd >= 0:
                    self._take_over(index, sink, info)
                if info.needs_file:
                    self._give_file(index, sink)
            except OSError as error:
                lib.advlog_sink_file_fault(self._drain, index, error.errno or errno.EIO)

    def report_faults(self) -> None:
        """Reports each sink that has begun or ceased to fail."""
        for index, sink in enumerate(self.sinks):
            info = self._info(index)
            state = info.failing_since_ns != 0, bool(info.suspended)
            if state == self._reported.get(index, (False, False)):
                continue
            self._reported[index] = state
            error = os.strerror(info.error)
            if info.suspended:
                message = f"{sink.name} cannot be written ({error}): its records are dropped until it can"
            elif info.failing_since_ns:
                message = f"{sink.name} cannot be written ({error}): its records wait in the ring"
            else:
                message = f"{sink.name} is written again; {info.cursor.dropped} of its records were dropped"
            self._report(fault(message))

    def watch(self) -> None:
        """Checks that each file is still in its place; reports a missing one and starts a new file."""
        for index, sink in enumerate(self.sinks):
            info = self._info(index)
            for file in sink.open_files():
                if file.number != info.cursor.file_number or (index, file.number) in self._gone:
                    continue
                try:
                    if not is_open(file):
                        what = "was closed by another part of the program"
                    elif not sink.in_place(file):
                        what = "was removed or replaced"
                    else:
                        continue
                except OSError as error:
                    self._report(fault(f"{sink.name}: {error.filename}: {error.strerror}"))
                    continue
                self._gone.add((index, file.number))
                self._report(fault(f"{sink.name}: {sink.place(file).name} {what}; a new file is begun"))
                self.rotate(sink, even_empty=True)

    def failing(self) -> tuple[Sink, int, int] | None:
        """Returns the sink that has failed longest, its errno, and since when it fails, in nanoseconds of the monotonic
        clock; None if no sink fails."""
        infos = [(sink, self._info(index)) for index, sink in enumerate(self.sinks)]
        failing = [(sink, info.error, info.failing_since_ns) for sink, info in infos if info.failing_since_ns]
        return min(failing, key=itemgetter(2), default=None)

    # -- any thread ----------------------------------------------------------------------------------------------

    def rotate(self, sink: Sink, *, even_empty: bool = False) -> None:
        """Makes the sink end its file, if the file has records or `even_empty` is True."""
        lib.advlog_sink_rotate(self._drain, self.sinks.index(sink), even_empty)

    def sync(self) -> None:
        """Syncs what the sinks have written to the disk. It waits for the disk, so the drain's thread must not call it.

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
                        message = f"{sink.name} could not be synced ({error.strerror}): a new file is begun"
                        self._report(fault(message))
                        self.rotate(sink, even_empty=True)

    def state(self, sink: Sink) -> tuple[int, int]:
        """The number of the sink's current file, and the records in it."""
        info = self._info(self.sinks.index(sink))
        return int(info.cursor.file_number), int(info.file_records)

    def health(self, sink: Sink) -> SinkHealth:
        """Returns what became of the records of one sink."""
        info = self._info(self.sinks.index(sink))
        accepted = self._ring.accepted(sink.stream)
        if sink.kind == lib.ADVLOG_SINK_TEXT:
            accepted += self._ring.accepted(lib.ADVLOG_STREAM_EVENTS)
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
            set_aside=bool(info.suspended),
        )

    def have_lost(self) -> bool:
        """Returns whether a disk has cost a sink records, for good or until it works again."""
        infos = [self._info(number) for number in range(len(self.sinks))]
        return any(info.cursor.dropped or info.suspended for info in infos)

    # -- the end -------------------------------------------------------------------------------------------------

    def close(self) -> bool:
        """Publishes what the drain wrote; what it could not write stays in the ring. Returns False if a file holds more
        than its cursor says and cannot be cut: that file stays as it is, for a recovery."""
        whole = [self._close(index, sink) for index, sink in enumerate(self.sinks)]
        return all(whole)

    def abandon(self) -> None:
        """Removes the files of a drain that never ran."""
        for sink in self.sinks:
            for file in sink.open_files():
                sink.discard(file.fd)

    def _close(self, index: int, sink: Sink) -> bool:
        info = self._info(index)
        whole = True
        with contextlib.suppress(OSError):
            if info.closed_fd >= 0:
                self._take_over(index, sink, info)
        for file in sink.open_files():
            if file.number != info.cursor.file_number:
                sink.discard(file.fd)
                continue
            whole = not info.torn or _cut(file.fd, info.cursor.length)
            sink.close_file(file.fd)
            closed = ClosedFile(file, info.file_first_seq, info.cursor.next_seq, int(info.file_records))
            with contextlib.suppress(OSError):
                if whole:
                    _publish(sink, closed, last=True)
        self._count_gone(index, sink)
        return whole

    def _give_file(self, index: int, sink: Sink) -> OpenFile:
        file = sink.open_next()
        failpoint("file_opened")
        lib.advlog_sink_give_file(self._drain, index, file.fd, file.dev, file.ino, file.number)
        return file

    def _take_over(self, index: int, sink: Sink, info: Any) -> None:
        file = sink.close_file(info.closed_fd)
        failpoint("file_taken_over")
        lib.advlog_sink_closed_done(self._drain, index)
        closed = ClosedFile(file, info.closed_first_seq, info.closed_next_seq, info.closed_records)
        _publish(sink, closed, last=False)
        failpoint("file_published")
        for current in sink.open_files():
            if current.number == info.cursor.file_number:
                sink.on_open(current)
        self._count_gone(index, sink)

    def _count_gone(self, index: int, sink: Sink) -> None:
        """Counts the records of a removed file in the ring, where a recovery finds the count."""
        lib.advlog_ring_set_gone(self._ring.handle, index, sink.expired, sink.vanished)

    def _info(self, index: int) -> Any:
        info = ffi.new("advlog_sink_info *")
        lib.advlog_sink_get(self._drain, index, info)
        return info


def _publish(sink: Sink, closed: ClosedFile, *, last: bool) -> None:
    if sink.exists(closed.file):
        sink.publish(closed, last)
    else:
        sink.on_vanished(closed)


def _cut(fd: int, length: int) -> bool:
    """Returns whether the file is no longer than that now."""
    try:
        os.ftruncate(fd, length)
    except OSError:
        return False
    return True
