"""The thread that turns closed spools into Parquet parts, and the schedule that closes spools."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .._hooks import importing
from ..store.files import NotOursError
from ..store.paths import RunPaths
from .columns import STREAMS
from .parts import ROW_GROUP_ROWS, SealedPart, seal_spool

FIRST_RETRY_S = 1.0
LAST_RETRY_S = 60.0


@dataclass(frozen=True)
class _Spool:
    path: Path
    part: int
    first_seq: int
    next_seq: int


@dataclass
class _Queue:
    """The closed spools of one stream, which are sealed in order."""

    spools: deque[_Spool] = field(default_factory=deque)
    sealed: list[tuple[int, int]] = field(default_factory=list)
    """Ranges [first, end) of the seqs in parts, which do not touch. The seqs between them were lost by a fault."""
    retry_s: float = 0.0
    """The current wait between retries; 0 if the last attempt succeeded."""
    not_before: float = 0.0

    def next_spool(self) -> None:
        """Drops the first spool, which needs no more work."""
        self.spools.popleft()
        self.retry_s = 0.0

    def add_sealed(self, first_seq: int, next_seq: int) -> None:
        if self.sealed and self.sealed[-1][1] == first_seq:
            first_seq = self.sealed.pop()[0]
        self.sealed.append((first_seq, next_seq))


class Sealer:
    """Seals closed spools on a thread of its own. Its methods do not raise.

    A spool that cannot be sealed stays in place, and the sealer retries it after 1 s, then after twice the time up to
    60 s; the later spools of its stream wait.

    :param declared: metric names that get a column from the run's first part on.
    :param on_fault: called on the sealer's thread with a message when sealing begins to fail or a spool is damaged.
    """

    def __init__(
        self,
        paths: RunPaths,
        declared: tuple[str, ...] = (),
        *,
        on_fault: Callable[[str], None] | None = None,
        row_group_rows: int = ROW_GROUP_ROWS,
    ) -> None:
        # At the start of the run: imports and new threads may fail at the exit of the interpreter.
        with importing():
            import pyarrow.compute
            import pyarrow.parquet  # noqa: F401

        self._paths = paths
        self._declared = declared
        self._on_fault = on_fault
        self._row_group_rows = row_group_rows
        self._changed = threading.Condition()
        self._queues = {stream: _Queue() for stream in STREAMS}
        self._busy = False
        self._stopped = False
        self._ended = False
        self.parts = 0
        """The number of sealed parts."""
        self.rows = 0
        """The number of records in them."""
        self.faults = 0
        """The number of failed attempts to seal, and of damaged spools."""
        self.cpu_s = 0.0
        """CPU time that sealing took, in seconds."""
        self.error: str | None = None
        """The last fault; None if there was none."""
        self._thread = threading.Thread(target=self._run, name="advlog-sealer", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._ended = True  # no thread available: `seal_all` does the work

    def submit(self, stream: str, spool: Path, part: int, first_seq: int, next_seq: int) -> None:
        """Queues a closed spool, which holds the records from `first_seq` up to but not `next_seq`. A gap before
        `first_seq` is no damage: the drain dropped and counted those records."""
        with self._changed:
            self._queues[stream].spools.append(_Spool(spool, part, first_seq, next_seq))
            self._changed.notify_all()

    def has_sealed(self, stream: str, first_seq: int, next_seq: int) -> bool:
        """Returns whether every record of the stream from `first_seq` up to but not `next_seq` is in a part."""
        with self._changed:
            return any(first <= first_seq and next_seq <= end for first, end in self._queues[stream].sealed)

    @property
    def pending(self) -> int:
        """The number of closed spools that are not sealed yet."""
        return sum(len(queue.spools) for queue in self._queues.values())

    def seal_all(self, deadline: float) -> bool:
        """Seals the queued spools, with one more try for a stream that failed, and returns whether all are sealed.

        :param deadline: on `time.monotonic()`; returns by then even if the disk hangs.
        """
        with self._changed:
            for queue in self._queues.values():
                queue.not_before = 0.0
            self._changed.notify_all()
            # The thread does the work as long as it is alive, so that this call can return at the deadline; a daemon
            # thread outlives the atexit handlers.
            while not self._ended and (self._busy or self._next(time.monotonic()) is not None):
                remaining_s = deadline - time.monotonic()
                if remaining_s <= 0:
                    return False
                self._changed.wait(remaining_s)
        while self._ended and time.monotonic() < deadline and self._step():
            pass
        return self.pending == 0

    def stop(self, timeout_s: float = 1.0) -> None:
        """Ends the thread after its current spool; the others stay for `seal_all` or the next start."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._ended, timeout_s)

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._step()
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _wait_for_work(self) -> bool:
        """Waits until a spool is due; returns False once the sealer is stopped."""
        with self._changed:
            while not self._stopped:
                now = time.monotonic()
                if self._next(now) is not None:
                    return True
                retries = [queue.not_before - now for queue in self._queues.values() if queue.spools]
                self._changed.wait(min(retries) if retries else None)
        return False

    def _next(self, now: float) -> _Queue | None:
        """Returns the first queue with a spool that is due."""
        for queue in self._queues.values():
            if queue.spools and queue.not_before <= now:
                return queue
        return None

    def _step(self) -> bool:
        """Tries to seal one spool; returns False if none is due."""
        with self._changed:
            queue = self._next(time.monotonic())
            if queue is None:
                return False
            self._busy = True
            spool = queue.spools[0]
        began_s = time.thread_time()
        try:
            try:
                sealed = seal_spool(
                    spool.path,
                    self._paths,
                    spool.part,
                    declared=self._declared,
                    row_group_rows=self._row_group_rows,
                )
            except Exception as error:  # noqa: BLE001 - after any error the spool is kept and training goes on
                self._failed(queue, spool, error)
            else:
                self._succeeded(queue, spool, sealed)
        finally:
            with self._changed:
                self.cpu_s += time.thread_time() - began_s
                self._busy = False
                self._changed.notify_all()
        return True

    def _failed(self, queue: _Queue, spool: _Spool, error: Exception) -> None:
        loss = ""
        if isinstance(error, FileNotFoundError) and not spool.path.exists():
            loss = "gone"
        elif isinstance(error, NotOursError) and error.filename == str(spool.path):
            loss = error.strerror or "not ours"
        if loss:
            with self._changed:
                queue.next_spool()
            self._report(f"{spool.path}: {loss}, with records {spool.first_seq} to {spool.next_seq - 1}")
            return
        with self._changed:
            is_first = queue.retry_s == 0
            queue.retry_s = FIRST_RETRY_S if is_first else min(2 * queue.retry_s, LAST_RETRY_S)
            queue.not_before = time.monotonic() + queue.retry_s
        reason = f"{spool.path} could not be sealed: {type(error).__name__}: {error}"
        self._report(reason, notify=is_first)

    def _succeeded(self, queue: _Queue, spool: _Spool, sealed: SealedPart | None) -> None:
        next_seq = sealed.next_seq if sealed is not None else spool.first_seq
        with self._changed:
            if sealed is not None and sealed.path is not None:
                self.parts += 1
                self.rows += sealed.rows
                queue.add_sealed(sealed.first_seq, sealed.next_seq)
            queue.next_spool()
        faults = []
        if next_seq < spool.next_seq:
            faults.append(f"records {next_seq} to {spool.next_seq - 1} cannot be read")
        if sealed is not None and sealed.damaged_spool is not None:
            faults.append(f"{sealed.damaged_bytes} bytes are damaged; kept as {sealed.damaged_spool.name}")
        if sealed is not None and sealed.damaged_schema is not None:
            faults.append(
                f"the run's schema could not be read and was made again; kept as {sealed.damaged_schema.name}"
            )
        if faults:
            self._report(f"{spool.path}: {'; '.join(faults)}")

    def _report(self, message: str, *, notify: bool = True) -> None:
        with self._changed:
            self.faults += 1
            self.error = message
        if notify and self._on_fault is not None:
            with contextlib.suppress(Exception):
                self._on_fault(message)


class PartSchedule:
    """Decides when to close a spool: `first_s` seconds after its first record was seen, each later one after twice the
    time, up to `longest_s`. A spool that another limit closed earlier does not lengthen the wait."""

    def __init__(self, longest_s: float, first_s: float = 10.0) -> None:
        self.wait_s = min(first_s, longest_s)
        """Seconds that the current part's records wait."""
        self._longest_s = longest_s
        self._part: int | None = None
        self._since = 0.0
        self._is_reported = False

    def due(self, now: float, part: int, records: int) -> bool:
        """Returns whether to close the spool of part `part` now; True once for each part.

        :param now: seconds, on any clock that does not jump.
        :param records: the records that the spool holds now.
        """
        if records == 0:
            self._part = None
            return False
        if part != self._part:
            self._part = part
            self._since = now
            self._is_reported = False
        if self._is_reported or now - self._since < self.wait_s:
            return False
        self._is_reported = True
        self.wait_s = min(2 * self.wait_s, self._longest_s)
        return True
