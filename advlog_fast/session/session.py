"""A session: one attempt of one rank, as its logger sees it.

Threads, all of them daemons (a thread that is no daemon is joined before the exit handlers run, and would hang the
exit): the drain; the sealer; the memory sampler; the background worker, which opens and ends the session, writes the
summary every 10 s and reports the drain's findings to the control plane. If the interpreter starts no more threads, as
some versions do in exit handlers, the thread that waits for the work does it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import signal
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .._hooks import on_sigterm
from .._native import Producer, lib
from ..config import LoggerConfig
from ..control import events
from ..control.events import Event
from ..control.text import escape
from ..engine.background import Background
from ..engine.child import ChildSession
from ..engine.drain import Drain
from ..engine.entry import DRAIN_THREADS, Entry, on_thread
from ..engine.misuse import MisuseLog
from ..engine.overflow import Overflow
from ..engine.steps import StepBase
from ..sinks.spool import SpoolSink
from ..snapshots import Health, Totals
from ..store.attempts import claim_first_epoch
from ..store.paths import RunPaths
from ..store.ranks import rank_identity
from .accounting import Accounting
from .closing import Closing
from .parts import Parts, Wiring, naming_log_dir, open_parts
from .upkeep import Upkeep

REACHES_NOTHING = "what it is given after close() reaches no file, and its records are counted"

_SHIELDED_S = 10.0
_CLAIM_S = 1.0
_NOTE_S = 5.0
"""How long a signal that is only noted waits for the flush."""


class Session:
    """Everything that one logger has open. Nothing until `start`.

    :param producer: the user's logger.
    :param on_end: called once the attempt has ended.
    """

    def __init__(self, config: LoggerConfig, producer: Producer, on_end: Callable[[Session], None]) -> None:
        self.config = config
        self.pid = os.getpid()
        self.at_exit = False
        """The interpreter's exit closes it."""
        self.waited_at_exit = False
        """The exit has waited for the end as long as it may."""
        self.superseded_by: int | None = None
        """The attempt of another logger of this process, which closed this session to begin it."""
        self._ranks = rank_identity(config.rank, config.world_size)
        self.paths = RunPaths(Path(os.path.abspath(config.log_dir)), config.experiment_name, self._ranks.rank)
        self._user = weakref.ref(producer)
        self.sharing = Sharing()
        self._own = Producer()
        self.producers = Producers(self._own, self._user)
        self._child: ChildSession | None = None
        self._parts: Parts | None = None
        self._background = Background()
        self.entry = Entry(
            Overflow(config.overflow, config.overflow_timeout_s),
            MisuseLog(
                config.raises_on_misuse, lambda text: self.parts.control.outputs.note(logging.WARNING, escape(text))
            ),
            _step_base(self),
            help_drain=self._help_drain,
        )
        self.accounting = Accounting(self.entry, self.producers.users)
        self._upkeep = Upkeep(
            self.paths, self._background, self.accounting, self.entry, self._own, parts=lambda: self._parts
        )
        self._closing = Closing(
            self.paths,
            self._background,
            self.accounting,
            self.entry,
            parts=lambda: self._parts,
            producers=self.producers.all,
            on_exception=self._uncaught,
            on_end=lambda: on_end(self),
        )

    # -- opening -------------------------------------------------------------------------------------------------

    def start(self, task: Callable[[], object]) -> None:
        """Runs the task, which opens the session, where no interrupt reaches it, and waits for it.

        :raises OSError: as :meth:`open` does.
        :raises RunBusyError: as :meth:`open` does.
        """
        self._background.start()
        self._background.call(task, math.inf)

    def open(self) -> None:
        """Opens everything or nothing: if one part cannot be opened, it closes the others.

        Only the background's thread calls it, once, and only if `is_wanted` is still true.

        :raises OSError: `log_dir` cannot be made or written; the message names it.
        :raises RunBusyError: another live process logs this rank of this run.
        """
        user = self._user()
        if user is None:
            return
        wiring = Wiring(
            user=user,
            own=self._own,
            link=_Link(self),
            report=self._background.report,
            on_tick=self._upkeep.tick,
            on_sample=self._upkeep.sampled,
            on_exception=self._uncaught,
            is_wanted=self.is_wanted,
            steps=self.entry.steps,
        )
        with contextlib.ExitStack() as undo:
            with naming_log_dir(self.config.log_dir):
                self._parts = open_parts(self.config, self.paths, self._ranks, wiring, self._attach, undo)
            undo.pop_all()
        self._upkeep.begin(self.config.fsync)

    def _attach(self, drain: Drain | None) -> None:
        self.accounting.drain = drain
        self.entry.ring = None if drain is None else drain.ring

    def is_wanted(self) -> bool:
        """Returns whether a caller still waits for this session, or has it."""
        return not self.closed and self._user() is not None

    @property
    def opened(self) -> bool:
        """True once everything was open."""
        return self._parts is not None

    @property
    def parts(self) -> Parts:
        """The parts of the session."""
        assert self._parts is not None
        return self._parts

    @property
    def closed(self) -> bool:
        """True from the first `close` on."""
        return self._closing.begun

    has_ended = closed

    @property
    def user(self) -> Producer | None:
        """The logger, while anybody refers to it."""
        return self._user()

    # -- running -------------------------------------------------------------------------------------------------

    def _help_drain(self) -> bool:
        drain = self.accounting.drain
        return drain is not None and drain.help()

    def admit(self, producer: Producer) -> tuple[str, str] | None:  # noqa: ARG002 - it is bound already
        """Returns None if a record may be logged; else counts it, and returns the kind and the text of a warning."""
        # The closing of the ring decides, not the beginning of close(): records that other calls still push until then
        # would come after a record that was refused.
        if not self.closed or not self.entry.is_closed():
            return None
        self.entry.count_drop("closed")
        return "closed", self.after_close()

    def after_close(self) -> str:
        """Returns what a logger says of a call after the end."""
        by = self.superseded_by
        why = "" if by is None else f", superseded by attempt {by} of a newer logger of the run"
        return f"this logger was closed{why}: {REACHES_NOTHING}"

    def in_child(self) -> ChildSession:
        """Returns what stands for the session in a process that this one has forked."""
        child = self._child
        if child is None or child.pid != os.getpid():
            refused = ("closed", self.after_close()) if self.closed else None
            child = self._child = ChildSession(self.parts.parent, refused, forked=True)
        return child

    def shielded(self, task: Callable[[], object]) -> None:
        """Runs the task where no interrupt reaches it, and waits for it, 10 s at most; raises what the task raises."""
        self._background.call(task, 0.0 if on_thread(*DRAIN_THREADS) else _SHIELDED_S)

    def flush(self, timeout_s: float) -> bool:
        """Waits until the operating system has the records accepted before; returns whether it has all of them in
        time."""
        drain = self.accounting.drain
        if drain is None:
            return self._closing.complete
        # A destructor may ask for it on the very thread that would have to do it.
        return drain.flush(0.0 if on_thread(*DRAIN_THREADS) else timeout_s) and not drain.files.have_lost()

    def seal(self, timeout_s: float) -> bool:
        """Flushes, and seals the flushed records into Parquet parts; returns whether all of it was done in time."""
        drain, sealer = self.accounting.drain, self.parts.sealer
        if drain is None:
            return True
        deadline = time.monotonic() + timeout_s
        done = drain.flush(timeout_s)
        if sealer is None:
            return done
        waiting: dict[SpoolSink, int] = {}
        for sink in self.parts.schedules:
            number, records = drain.files.state(sink)
            if records:
                waiting[sink] = number
                drain.files.rotate(sink)
        # The drain's thread hands a spool over once it has switched files.
        while any(sink.submitted < number for sink, number in waiting.items()):
            if time.monotonic() >= deadline:
                return False
            if not drain.help():
                time.sleep(0.001)
        return sealer.seal_all(deadline) and done

    def health(self) -> Health:
        """Returns the current counts."""
        return self.accounting.health(self.parts)

    def _uncaught(self, error: BaseException, where: str) -> None:
        if os.getpid() == self.pid and not self.closed and self._parts is not None:
            self._parts.control.log_leaving(error, where)

    # -- the end -------------------------------------------------------------------------------------------------

    def handle_sigterm(self, how: bool | str) -> None:
        """Makes SIGTERM end the attempt first, or note it. Only the main thread may call it.

        :param how: the option `handle_signals`.
        """
        alive = weakref.ref(self)

        def act(number: int) -> bool:
            session = alive()
            if session is None:
                return True
            if how == "note":
                session.flush(min(session.config.close_timeout_s, _NOTE_S))
            session.parts.control.emit(events.signal_received(signal.Signals(number).name))
            if how == "note":
                return True
            session.close(session.config.close_timeout_s, "interrupted")
            return session._closing.may_die(number)

        self._closing.at_sigterm = act
        logger = self.parts.control.logger
        try:
            if _is_foreign(signal.SIGTERM):
                logger.warning("handle_signals: SIGTERM has a handler that is not Python's, and keeps it")
            else:
                on_sigterm(act, each=how == "note")
        except ValueError:
            logger.warning("handle_signals: signals can be handled on the main thread only")

    def close(self, timeout_s: float, status: str | None = None, *, by_user: bool = False) -> bool:
        """Ends the attempt: writes and seals all accepted records, and writes the summary. Returns whether all of it
        was done in time. Never raises; a second call waits for the first and returns the same. Does nothing in a forked
        child.

        :param by_user: the status holds, even if the training already has a final one.

        An interrupt of the caller ends the wait, not the end."""
        if os.getpid() != self.pid:
            return True
        if status is None:
            status, by_user = self.sharing.status, self.sharing.by_user
        return self._closing.close(timeout_s, status, by_user=by_user)


def _step_base(session: Session) -> StepBase:
    """What settles how the session's steps are derived."""

    def claim(first: int) -> int | None:
        # Off the caller's thread, which waits for no disk that is stuck.
        with contextlib.suppress(OSError):
            return session._background.call(lambda: claim_first_epoch(session.paths, first), _CLAIM_S)
        return None

    def say(event: Event) -> None:
        session.parts.control.emit(event)

    return StepBase(session.config.first_epoch, claim, say)


@dataclasses.dataclass
class Sharing:
    """The handles on a session, which shared.py makes."""

    handles: set[object] = dataclasses.field(default_factory=set)
    """Those that are not closed."""
    handles_only: bool = False
    """No logger but handles refers to the session: it ends with the last of them."""
    is_over: bool = False
    """The last of them has been closed."""
    status: str | None = None
    """How one of them says that the attempt ends."""
    by_user: bool = False
    """Whether the user said so: what a user said last holds."""

    def note(self, status: str, *, by_user: bool) -> None:
        if by_user or not self.by_user:
            self.status, self.by_user = status, by_user


class Producers:
    """Those that push into a session's ring: the session's own, its user's logger, and the handles on it.

    :param user: returns the user's logger, while anybody refers to it.
    """

    def __init__(self, own: Producer, user: Callable[[], Producer | None]) -> None:
        self._own = own
        self._user = user
        self._handles: dict[int, weakref.ref[Producer]] = {}
        """By their ids. Not a WeakSet, which cannot be listed while another thread adds to it."""

    def bind(self, handle: Producer, session: Session) -> None:
        """Lets a handle push into the ring, until the session ends."""
        ring = session.entry.ring
        if ring is not None:
            handle._bind(ring.address, ring, session.parts.deferral.defer)
            session.entry.steps.begin(handle)
            key = id(handle)
            self._handles[key] = weakref.ref(handle, lambda _: self._handles.pop(key, None))

    def users(self) -> list[Producer]:
        """All but the session's own."""
        user = self._user()
        handles = [handle() for handle in list(self._handles.values())]
        return [producer for producer in (user, *handles) if producer is not None]

    def all(self) -> list[Producer]:
        """All of them."""
        return [self._own, *self.users()]


def _is_foreign(number: int) -> bool:
    """Returns whether a signal has a handler that Python does not know, and so could not call."""
    known = signal.getsignal(number)
    does = 0 if known == signal.SIG_DFL else 1 if known == signal.SIG_IGN else 2
    return known is None or bool(lib.advlog_signal_does(number) != does)


class _Link:
    """The control plane's way to the rest of its session: see :class:`RingLink`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def shielded(self, task: Callable[[], object]) -> None:
        self._session.shielded(task)

    def line(self, level: int, text: str) -> None:
        session = self._session
        if os.getpid() == session.pid:
            session.entry.line(level, text)
        else:
            session.in_child().line(level, text)

    def seq(self) -> int:
        return self._session.accounting.seq()

    def first_epoch(self) -> int | None:
        return self._session.entry.steps.first_epoch

    def go_on(self, state: Mapping[str, Any], *, same_run: bool) -> None:
        session = self._session
        session.entry.steps.go_on(state, session.producers.users(), same_run=same_run)
        if same_run and (drain := session.accounting.drain) is not None:
            drain.resume(state["epoch"], state["batch"], state["total_batches"])

    def totals(self, timeout_s: float = 1.0) -> Totals:
        return self._session.accounting.totals(timeout_s)

    def health(self) -> Health:
        return self._session.health()

    def memory(self) -> dict[str, Any]:
        return self._session.parts.sampler.trend()
