"""The duties of a running session: it seals parts in time, watches files, passes on findings, logs samples."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial

from .._native import Producer, lib
from ..control import events
from ..control.text import escape
from ..engine.background import Background
from ..engine.drain import Drain
from ..engine.entry import Entry
from ..engine.findings import CLOCK, FAULT, NONFINITE, Finding, fault
from ..engine.ring import slots_for
from ..sampling.memory_sampler import MemorySample
from ..store.attempts import restore_claims
from ..store.paths import RunPaths
from .accounting import Accounting
from .parts import Parts

SUMMARY_INTERVAL_S = 10.0
SYNC_INTERVAL_S = 5.0
_WATCH_S = 1.0


class Upkeep:
    """`tick` is for the drain's thread, `sampled` for the sampler's, the rest for the background's.

    :param parts: returns what is open; None before all of it is.
    """

    def __init__(
        self,
        paths: RunPaths,
        background: Background,
        accounting: Accounting,
        entry: Entry,
        own: Producer,
        *,
        parts: Callable[[], Parts | None],
    ) -> None:
        self._paths = paths
        self._background = background
        self._accounting = accounting
        self._entry = entry
        self._own = own
        self._parts = parts
        self._watch_due = 0.0
        self._reported: set[str] = set()
        """What was reported and is not reported again: the ring's removal, its shared blocks, each leaking metric."""

    def begin(self, fsync: str) -> None:
        """Starts the duties, on the background's thread."""
        parts = self._parts()
        assert parts is not None
        self._background.subscribe(FAULT, self._tell_fault)
        self._background.subscribe(NONFINITE, self._tell_nonfinite)
        self._background.subscribe(CLOCK, self._tell_jump)
        duties: dict[Callable[[], object], float] = {parts.control.write_summary: SUMMARY_INTERVAL_S}
        if fsync == "interval":
            duties[self._sync] = SYNC_INTERVAL_S
        self._background.duties = duties
        self._background.submit(parts.control.write_summary)  # a run has a status from the first

    # -- the drain's thread --------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Watches the files each second, and ends spools that are due for sealing. No fault in it ends the drain."""
        try:
            self._tick()
        except OSError as error:  # such as a parent folder that may not be entered any more
            self._report(f"{error.filename}: {error.strerror}")
        except Exception as error:  # noqa: BLE001
            self._report(f"the watch of the files failed: {type(error).__name__}: {error}")

    def _tick(self) -> None:
        parts, drain, now = self._parts(), self._accounting.drain, time.monotonic()
        if parts is None or drain is None:
            return
        if now >= self._watch_due:
            self._watch_due = now + _WATCH_S
            self._watch(parts, drain)
        files = drain.files
        for sink, schedule in parts.schedules.items():
            number, records = files.state(sink)
            if schedule.due(now, number, records):
                files.rotate(sink)

    def _watch(self, parts: Parts, drain: Drain) -> None:
        """Checks whether others have changed the files."""
        ring = drain.ring
        # By its note, not by the folder: a rotation meanwhile makes that again, and nothing in it.
        if not ring.file.is_noted():
            self._report(f"{self._paths.private} was removed: it is made again, and what stood in it is lost")
            with contextlib.suppress(OSError):
                restore_claims(self._paths, parts.run, self._entry.steps.first_epoch)
                ring.file.write_note()
        drain.children.watch()
        drain.files.watch()
        main = parts.control.outputs.main
        if main.has_lost_capture():
            self._background.submit(main.capture_again)
        if why := ring.file.unshare(ring.size_bytes):
            self._report_once(
                f"the ring {ring.path} shares blocks with a copy ({why}): a full disk would end the process"
            )
        if ring.file.has_vanished():
            self._report_once(f"the ring {ring.path} was removed: a SIGKILL would now lose what is in it")

    def _report(self, message: str) -> None:
        self._background.report(fault(message))

    def _report_once(self, message: str) -> None:
        if message not in self._reported:
            self._reported.add(message)
            self._report(message)

    # -- the background's thread ---------------------------------------------------------------------------------

    def _sync(self) -> None:
        drain = self._accounting.drain
        if drain is not None:
            drain.files.sync()

    def _tell_fault(self, finding: Finding) -> None:
        parts = self._parts()
        if parts is not None:
            parts.control.outputs.note(logging.WARNING, escape(finding.message))
            parts.console.say(finding.message)

    def _tell_nonfinite(self, finding: Finding) -> None:
        parts = self._parts()
        if parts is not None and finding.value is not None:
            parts.control.emit(events.nonfinite(finding.metric, finding.value))

    def _tell_jump(self, finding: Finding) -> None:
        parts = self._parts()
        if parts is not None:
            parts.control.emit(events.clock_jump(finding.moved_s, finding.seqs))

    def _tell_leak(self, name: str) -> None:
        parts = self._parts()
        if parts is not None:
            growth = parts.sampler.trend()[name]["growth_gb_per_hour"]
            parts.control.logger.warning("%s grows without an end in sight, by %.3g GB an hour", name, growth)

    # -- the sampler's thread ------------------------------------------------------------------------------------

    def sampled(self, sample: MemorySample) -> None:
        """Logs a sample of memory, and warns once of each number that keeps growing."""
        metrics = {name: value for name, value in sample.metrics().items() if self._own._learn(name)}
        self._entry.push(
            lambda: self._own._try_record(lib.ADVLOG_KIND_MEMORY, sample.time_ns, metrics),
            slots_for(len(metrics)),
        )
        parts = self._parts()
        for name in parts.sampler.leaks() if parts is not None else ():
            if name not in self._reported:
                self._reported.add(name)
                self._background.submit(partial(self._tell_leak, name))
