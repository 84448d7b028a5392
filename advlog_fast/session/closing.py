"""The end of a session, which happens once."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

from .._failpoints import failpoint
from .._hooks import off_sigterm, unwatch_exceptions
from .._native import Producer
from ..control.plane import ControlPlane
from ..engine.background import Background, Latch
from ..engine.drain import Drain
from ..engine.entry import DRAIN_THREADS, Entry, on_thread
from ..sinks.rotation import RotatedSink
from ..store.ledger import Ledger, write_ledger
from ..store.paths import RunPaths
from .accounting import Accounting
from .parts import Parts

_JOINED_THREADS = (*DRAIN_THREADS, "advlog-sampler", "advlog-console")
_LEAVE_S = 1.0
_INTERRUPTED_S = 1.0
_GRACE_S = 5.0
"""How much longer than its timeout an end may take if a disk hangs; then its caller returns without it."""
_SAMPLER_S = 0.5
_JOIN_S = 1.0


class Closing:
    """Ends a session on the background's thread, which no interrupt reaches; callers wait.

    :param parts: returns what is open; None where nothing is, or not all of it.
    :param producers: returns those that push into the ring.
    :param on_exception: the function registered for uncaught exceptions.
    :param on_end: called once it has ended.
    """

    def __init__(
        self,
        paths: RunPaths,
        background: Background,
        accounting: Accounting,
        entry: Entry,
        *,
        parts: Callable[[], Parts | None],
        producers: Callable[[], list[Producer]],
        on_exception: Callable[[BaseException, str], None],
        on_end: Callable[[], None],
    ) -> None:
        self.begun = False
        """True from the first call on."""
        self.at_sigterm: Callable[[int], bool] = lambda _number: True
        self._paths = paths
        self._background = background
        self._accounting = accounting
        self._entry = entry
        self._parts = parts
        self._producers = producers
        self._on_exception = on_exception
        self._on_end = on_end
        self._thread: int | None = None
        """The thread that ends the session, while it does."""
        self._ended = Latch()
        self.complete = False
        """Whether the session has ended and left nothing out."""
        self._signals: list[int] = []
        """Those that came to the ending thread, to be raised again."""

    def close(self, timeout_s: float, status: str | None, *, by_user: bool = False) -> bool:
        """Ends the session and waits for it; returns whether all of it was done in time. A second call waits for the
        first and returns the same."""
        if sys.is_finalizing():
            return self._leave(timeout_s)
        deadline = time.monotonic() + timeout_s
        self.begun = True
        self._background.submit(partial(self._close_once, deadline, status, by_user))
        if self._background.is_here or on_thread(*_JOINED_THREADS):
            return False  # the collector runs anywhere: a thread that the end waits for cannot wait for it
        if not self._background.has_thread():
            self._background.run_pending()
        try:
            if self._ended.wait(max(deadline - time.monotonic(), 0.0) + _GRACE_S):
                self._background.join(_JOIN_S)  # no thread is left when the call returns
        except BaseException:
            self._ended.wait(_INTERRUPTED_S)  # the end goes on; a short end is over before the interrupt is raised
            raise
        return self.complete

    def may_die(self, number: int) -> bool:
        """Returns whether a signal may end the process now. False means that this very thread is ending the session; it
        raises the signal again afterwards."""
        if self._thread != threading.get_ident():
            return True
        self._signals.append(number)
        return False

    def _close_once(self, deadline: float, status: str | None, by_user: bool) -> None:
        if self._thread is not None or self._ended.is_set:
            return
        self._thread = threading.get_ident()
        parts = self._parts()
        with contextlib.ExitStack() as last:
            # In the reverse order, each whatever the others raise.
            last.callback(self._background.end)
            last.callback(off_sigterm, self.at_sigterm)
            last.callback(setattr, self, "_thread", None)
            last.callback(self._ended.set)
            if parts is not None:
                last.callback(parts.rank_lock.release)
            last.callback(self._on_end)
            if parts is not None:
                self.complete = self._end(parts, deadline, partial(parts.control.end, status, by_user=by_user))
        for number in self._signals:
            os.kill(os.getpid(), number)

    def _leave(self, timeout_s: float) -> bool:
        """Ends a session that no exit handler closed because it began after ours ran: its threads are gone, and nothing
        can be imported. It writes the accepted records; the next start finds the rest, as after a kill."""
        drain = self._accounting.drain
        if not self.begun and drain is not None:
            self.begun = True
            drain.leave(min(timeout_s, _LEAVE_S))
        return self.complete

    def _end(self, parts: Parts, deadline: float, end: Callable[[], None]) -> bool:
        """Does each step whatever the others raise; returns whether everything is where it belongs."""
        began = time.monotonic()
        drain, sealer, control = self._accounting.drain, parts.sealer, parts.control
        assert drain is not None
        _succeeds(partial(unwatch_exceptions, self._on_exception))
        _succeeds(partial(parts.sampler.stop, min(max(deadline - began, 0.0), _SAMPLER_S)))
        _succeeds(end)
        failpoint("close_begun")
        done = _succeeds(lambda: drain.finish(deadline, partial(self._last_words, control)))
        self._background.run_pending()  # where the drain hung: what it found last
        _succeeds(partial(parts.deferral.close, written=done))
        failpoint("close_drained")
        if sealer is not None:
            done &= _succeeds(lambda: sealer.seal_all(deadline))
            sealer.stop(max(deadline - time.monotonic(), 0.0))
            for sink in drain.files.sinks:
                done &= not isinstance(sink, RotatedSink) or _succeeds(sink.trim)
        if not done:
            took_s = time.monotonic() - began
            control.logger.warning("closed with records pending after %.3g s", took_s)
        failpoint("close_sealed")
        written = _succeeds(control.close)
        failpoint("close_summarized")
        _succeeds(parts.console.close)
        for producer in self._producers():
            producer._unbind()
        accounted = done and _succeeds(partial(self._write_ledger, drain, parts))
        failpoint("close_accounted")
        lost = drain.files.have_lost()
        self._accounting.freeze(drain, parts)
        if accounted:  # else the ring stays: a recovery makes the account of it
            drain.ring.file.remove()
            self._accounting.drain = self._entry.ring = None
        return accounted and written and not lost

    def _last_words(self, control: ControlPlane) -> None:
        """Has the training log end with what the drain found last, and with how the attempt ended, while other threads
        may still log in vain."""
        self._entry.last_words_of = threading.get_ident()
        with contextlib.suppress(Exception):
            self._background.run_pending()
            control.say_end()
        self._entry.last_words_of = None

    def _write_ledger(self, drain: Drain, parts: Parts) -> None:
        """:raises OSError: it cannot be written."""
        ledger = Ledger.of_health(self._accounting.health(parts))
        ledger = dataclasses.replace(ledger, lost_in_flight=drain.children.lost_in_flight)
        write_ledger(self._paths, parts.run.attempt, ledger)


def _succeeds(step: Callable[[], object]) -> bool:
    """Returns whether the step neither raises nor returns False."""
    try:
        return step() is not False
    except Exception:  # noqa: BLE001 - the steps that follow must be made
        return False
