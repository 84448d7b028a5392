"""Milestones: each once, in whole numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advlog_fast.control.milestones import PERCENTS, Milestone, Milestones


def told(milestones, *updates):
    return [(update[1], mark.scope, mark.percent) for update in updates for mark in milestones.update(*update)]


def test_an_epoch_tells_each_mark_at_the_batch_that_reaches_it():
    updates = [(1, batch, 8, None) for batch in range(1, 9)]
    assert told(Milestones(), *updates) == [
        (2, "epoch", 25), (4, "epoch", 50), (6, "epoch", 75), (8, "epoch", 90)
    ]  # fmt: skip


def test_the_whole_tells_each_mark_once_over_all_epochs():
    updates = [(epoch, batch, 10, 4) for epoch in range(1, 5) for batch in range(1, 11)]
    milestones = Milestones()
    found = [mark for update in updates for mark in milestones.update(*update)]
    assert [mark.percent for mark in found if mark.scope == "overall"] == [25, 50, 75, 90]
    assert [mark.percent for mark in found if mark.scope == "epoch"] == [25, 50, 75, 90] * 4


def test_a_jump_tells_every_mark_it_passed():
    milestones = Milestones()
    assert milestones.update(1, 25, 100) == (Milestone("epoch", 25),)
    assert milestones.update(1, 80, 100) == (Milestone("epoch", 50), Milestone("epoch", 75))
    assert milestones.update(1, 100, 100) == (Milestone("epoch", 90),)


def test_going_back_within_an_epoch_tells_nothing_again():
    milestones = Milestones()
    milestones.update(1, 60, 100, 1)
    assert milestones.update(1, 10, 100, 1) == ()
    assert milestones.update(1, 55, 100, 1) == ()
    assert [mark.percent for mark in milestones.update(1, 75, 100, 1)] == [75, 75]


def test_an_epoch_done_again_tells_its_marks_again_and_none_of_the_whole():
    milestones = Milestones()
    for epoch in (1, 2):
        milestones.update(epoch, 10, 10, 2)
    assert [(m.scope, m.percent) for m in milestones.update(1, 10, 10, 2)] == [("epoch", p) for p in PERCENTS]


@pytest.mark.parametrize("total", [None, 0, -3])
def test_without_a_total_of_batches_the_whole_advances_by_epochs(total):
    milestones = Milestones()
    found = told(milestones, *((epoch, batch, total, 4) for epoch in range(1, 5) for batch in (1, 500)))
    assert found == [(1, "overall", 25), (1, "overall", 50), (1, "overall", 75)]


@pytest.mark.parametrize("total_epochs", [None, 0])
def test_without_a_total_of_epochs_there_is_no_whole(total_epochs):
    assert {m.scope for m in Milestones().update(1, 10, 10, total_epochs)} == {"epoch"}


def test_without_any_total_there_is_nothing_to_tell():
    assert Milestones().update(3, 10**12) == ()


def test_epochs_may_count_from_zero():
    milestones = Milestones()
    found = told(milestones, *((epoch, batch, 2, 2) for epoch in (0, 1) for batch in (1, 2)))
    assert [percent for _, scope, percent in found if scope == "overall"] == [25, 50, 75, 90]


def test_a_batch_outside_its_epoch_is_its_nearest_end():
    milestones = Milestones()
    assert milestones.update(1, -5, 10, 2) == ()
    assert [m.percent for m in milestones.update(1, 99, 10, 2) if m.scope == "overall"] == [25, 50]


def test_a_total_that_changes_is_followed():
    milestones = Milestones()
    assert milestones.update(1, 24, 100) == ()
    assert milestones.update(1, 24, 48) == (Milestone("epoch", 25), Milestone("epoch", 50))


@given(st.integers(1, 300), st.integers(1, 5))
def test_each_mark_comes_once_and_at_the_first_batch_that_is_far_enough(total, epochs):
    milestones = Milestones()
    found = []
    for epoch in range(1, epochs + 1):
        for batch in range(1, total + 1):
            found += [(epoch, batch, m) for m in milestones.update(epoch, batch, total, epochs)]
    for epoch, batch, mark in found:
        done, whole = (batch, total) if mark.scope == "epoch" else ((epoch - 1) * total + batch, epochs * total)
        assert done * 100 >= mark.percent * whole > (done - 1) * 100
    assert len(found) == len(set(found)) == 4 * epochs + 4
