"""The thread that turns closed spools into Parquet parts, and the times at which spools are closed."""

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
    """One stream's closed spools, sealed in order."""

    spools: deque[_Spool] = field(default_factory=deque)
    sealed: list[tuple[int, int]] = field(default_factory=list)
    """The seqs that are in parts: ranges, each with its end, that do not touch. Between them lies what a fault lost."""
    retry_s: float = 0.0
    """What to wait after the next fault; 0 while the last attempt succeeded."""
    not_before: float = 0.0

    def next_spool(self) -> None:
        """Nothing more is to be done about the first."""
        self.spools.popleft()
        self.retry_s = 0.0

    def add_sealed(self, first_seq: int, next_seq: int) -> None:
        if self.sealed and self.sealed[-1][1] == first_seq:
            first_seq = self.sealed.pop()[0]
        self.sealed.append((first_seq, next_seq))


class Sealer:
    """Seals closed spools on a thread of its own. Nothing here raises into its callers.

    A spool that cannot be sealed now stays where it is and is tried again, after 1 s, then twice as long each
    time up to 60 s; the later spools of its stream wait for it.

    :param declared: metric names that get a column from the run's first part on.
    :param on_fault: told, on the sealer's thread, when sealing begins to fail and when a spool was damaged.
    """

    def __init__(
        self,
        paths: RunPaths,
        declared: tuple[str, ...] = (),
        *,
        on_fault: Callable[[str], None] | None = None,
        row_group_rows: int = ROW_GROUP_ROWS,
    ) -> None:
        # Here, where the run starts: at the exit of an interpreter, imports and new threads may fail.
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
        """Parts sealed."""
        self.rows = 0
        """Records in them."""
        self.faults = 0
        """Attempts to seal that failed, and spools found damaged."""
        self.cpu_s = 0.0
        """CPU time that sealing took, in seconds."""
        self.error: str | None = None
        """What the last fault was; None while there was none."""
        self._thread = threading.Thread(target=self._run, name="advlog-sealer", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._ended = True  # no more threads here: `seal_all` does the work

    def submit(self, stream: str, spool: Path, part: int, first_seq: int, next_seq: int) -> None:
        """Hands over a closed spool, which holds the records from `first_seq` up to but not `next_seq`. One that
        begins later than the last ended tells of records that the drain dropped and counted: no damage."""
        with self._changed:
            self._queues[stream].spools.append(_Spool(spool, part, first_seq, next_seq))
            self._changed.notify_all()

    def has_sealed(self, stream: str, first_seq: int, next_seq: int) -> bool:
        """Whether every record of the stream from `first_seq` up to but not `next_seq` is in a part."""
        with self._changed:
            return any(first <= first_seq and next_seq <= end for first, end in self._queues[stream].sealed)

    @property
    def pending(self) -> int:
        """Closed spools that are not sealed yet."""
        return sum(len(queue.spools) for queue in self._queues.values())

    def seal_all(self, deadline: float) -> bool:
        """Seals what was submitted; a stream that fails is tried once more. Whether all is sealed.

        :param deadline: on `time.monotonic()`; a disk that hangs holds the caller no longer.
        """
        with self._changed:
            for queue in self._queues.values():
                queue.not_before = 0.0
            self._changed.notify_all()
            # The thread does the work while it lives, so that the deadline can hold; a daemon thread lives
            # through the atexit handlers.
            while not self._ended and (self._busy or self._next(time.monotonic()) is not None):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        while self._ended and time.monotonic() < deadline and self._step():
            pass
        return self.pending == 0

    def stop(self, timeout_s: float = 1.0) -> None:
        """Ends the thread after the spool that it is at; the others stay, for `seal_all` or the next start."""
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
        """False: told to stop."""
        with self._changed:
            while not self._stopped:
                now = time.monotonic()
                if self._next(now) is not None:
                    return True
                retries = [queue.not_before - now for queue in self._queues.values() if queue.spools]
                self._changed.wait(min(retries) if retries else None)
        return False

    def _next(self, now: float) -> _Queue | None:
        """The stream whose turn it is."""
        for queue in self._queues.values():
            if queue.spools and queue.not_before <= now:
                return queue
        return None

    def _step(self) -> bool:
        """Tries one spool; False where none is due."""
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
            except Exception as error:  # noqa: BLE001 whatever it is, the spool is kept and training goes on
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
        what = ""
        if isinstance(error, FileNotFoundError) and not spool.path.exists():
            what = "gone"
        elif isinstance(error, NotOursError) and error.filename == str(spool.path):
            what = error.strerror or "not ours"
        if what:
            with self._changed:
                queue.next_spool()
            self._report(f"{spool.path}: {what}, with records {spool.first_seq} to {spool.next_seq - 1}")
            return
        with self._changed:
            began = queue.retry_s == 0
            queue.retry_s = FIRST_RETRY_S if began else min(2 * queue.retry_s, LAST_RETRY_S)
            queue.not_before = time.monotonic() + queue.retry_s
        reason = f"{spool.path} could not be sealed: {type(error).__name__}: {error}"
        self._report(reason, aloud=began)

    def _succeeded(self, queue: _Queue, spool: _Spool, sealed: SealedPart | None) -> None:
        next_seq = sealed.next_seq if sealed is not None else spool.first_seq
        with self._changed:
            if sealed is not None and sealed.path is not None:
                self.parts += 1
                self.rows += sealed.rows
                queue.add_sealed(sealed.first_seq, sealed.next_seq)
            queue.next_spool()
        trouble = []
        if next_seq < spool.next_seq:
            trouble.append(f"records {next_seq} to {spool.next_seq - 1} cannot be read")
        if sealed is not None and sealed.set_aside is not None:
            trouble.append(f"{sealed.damaged_bytes} bytes are damaged; kept as {sealed.set_aside.name}")
        if sealed is not None and sealed.damaged_schema is not None:
            trouble.append(
                f"the run's schema could not be read and was made again; kept as {sealed.damaged_schema.name}"
            )
        if trouble:
            self._report(f"{spool.path}: {'; '.join(trouble)}")

    def _report(self, message: str, *, aloud: bool = True) -> None:
        with self._changed:
            self.faults += 1
            self.error = message
        if aloud and self._on_fault is not None:
            with contextlib.suppress(Exception):
                self._on_fault(message)


class PartSchedule:
    """When a spool is closed: `first_s` seconds after its first record was seen, each later one after twice
    the time, up to `longest_s`. A spool that another limit closed earlier does not lengthen the wait."""

    def __init__(self, longest_s: float, first_s: float = 10.0) -> None:
        self.wait_s = min(first_s, longest_s)
        """How long the current part's records wait, in seconds."""
        self._longest_s = longest_s
        self._part: int | None = None
        self._since = 0.0
        self._told = False

    def due(self, now: float, part: int, records: int) -> bool:
        """Whether the spool of part `part`, which holds `records` now, is to be closed. True once a part.

        :param now: seconds, on any clock that does not jump.
        """
        if records == 0:
            self._part = None
            return False
        if part != self._part:
            self._part = part
            self._since = now
            self._told = False
        if self._told or now - self._since < self.wait_s:
            return False
        self._told = True
        self.wait_s = min(2 * self.wait_s, self._longest_s)
        return True
