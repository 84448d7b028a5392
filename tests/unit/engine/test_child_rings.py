"""The parent's side of children that log, with rings of children made in this very process: what happens at moments
that a test of real children would have to be lucky to meet."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from advlog_fast._native import lib
from advlog_fast.config import LoggerConfig
from advlog_fast.engine.child import ChildRing, ParentHandle
from advlog_fast.engine.child_rings import ChildRings, settle_child_rings
from advlog_fast.engine.drain import Drain
from advlog_fast.engine.ring import Ring
from advlog_fast.store.paths import RunPaths
from advlog_fast.store.processes import process_start
from advlog_fast.store.ranks import RunIdentity


class Home:
    """A parent's ring and drain, without a session, and rings of children in this very process."""

    def __init__(self, folder: Path) -> None:
        run = RunIdentity("0" * 32, "run", 1, 0, 1, "host", os.getpid())
        self.ring = Ring(run, 0, folder, RunPaths(folder, "run"))
        self.told: list[str] = []
        self.drain = Drain(
            self.ring, [], on_tick=lambda: None, report=lambda finding: self.told.append(finding.message)
        )
        self.children: ChildRings = self.drain.children
        self.children.open()
        assert self.children.folder is not None
        self.folder: Path = self.children.folder
        self.parent = ParentHandle(
            LoggerConfig(folder), RunPaths(folder, "run"), run, self.folder, process_start(run.pid)
        )

    def child(self, *lines: bytes) -> ChildRing:
        ring = ChildRing(self.parent, self.folder)
        for line in lines:
            assert lib.advlog_push_text(ring.handle, 20, 1, line, len(line)) == lib.ADVLOG_OK
        return ring

    def advance(self) -> None:
        self.drain._once(1_000_000)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.ring.file.remove()


def test_a_ring_that_comes_into_sight_while_the_parent_ends_is_closed_before_it_goes(home: Home):
    """Else its child would log on, and be told that it was accepted, into a ring that nobody reads."""
    rings = [home.child(b"a line")]

    def advance() -> None:
        if len(rings) == 1:
            rings.append(home.child())
        home.advance()

    assert home.children.end(advance, time.monotonic() + 60)
    assert not home.folder.exists()
    assert [ring.used() for ring in rings] == [0, 0]
    assert all(lib.advlog_ring_closed(ring.handle) for ring in rings)
    assert home.told == []


def test_what_a_child_has_that_stands_still_in_a_call_is_not_given_up(home: Home):
    ring = home.child(b"unfinished", b"finished")
    header = (
        bytes(ring._map).find(b"unfinished") // lib.ADVLOG_SLOT_BYTES * lib.ADVLOG_SLOT_BYTES - lib.ADVLOG_SLOT_BYTES
    )
    mark = ring._map[header : header + 8]
    ring._map[header : header + 8] = bytes(8)  # the mark, which comes last
    began = time.monotonic()
    assert not home.children.end(home.advance, began + 60)
    assert time.monotonic() - began < 30
    assert home.told == ["a child stands still in the middle of a call: its records stay in its ring"]
    assert home.children.lost_in_flight == 0
    ring._map[header : header + 8] = mark  # it goes on, and is told that its record was accepted
    assert home.children.end(home.advance, time.monotonic() + 60)
    assert lib.advlog_ring_accepted(home.ring.handle, lib.ADVLOG_STREAM_EVENTS) == 2
    assert not home.folder.exists()


def test_a_child_may_still_come_as_long_as_its_dead_parents_folder_is_there(home: Home):
    """A recovery that took the absence of rings for the absence of children would have no room for what comes."""
    assert settle_child_rings(home.ring)
    home.folder.rmdir()
    assert not settle_child_rings(home.ring)
