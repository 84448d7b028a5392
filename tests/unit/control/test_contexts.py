"""Spans of the training: their paths, durations, and what leaves them."""

import asyncio
import threading

import pytest

from advlog_fast.control.contexts import ContextStats, TrainingContext


class Owner:
    def __init__(self):
        self.told = []

    def context_started(self, path):
        self.told.append(("start", "/".join(path)))
        return len(self.told)

    def context_ended(self, path, started, duration_s, error):
        self.told.append(("end", "/".join(path), started, duration_s >= 0, type(error).__name__))


@pytest.fixture
def owner():
    return Owner()


def test_contexts_nest_and_know_their_path(owner):
    with TrainingContext(owner, "outer"), TrainingContext(owner, "inner"):
        pass
    assert owner.told == [
        ("start", "outer"),
        ("start", "outer/inner"),
        ("end", "outer/inner", 2, True, "NoneType"),
        ("end", "outer", 1, True, "NoneType"),
    ]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_leaves_a_context_goes_on_and_the_path_is_as_before(owner, kind):
    with pytest.raises(kind), TrainingContext(owner, "outer"):
        raise kind
    with TrainingContext(owner, "next"):
        pass
    assert owner.told[1][-1] == kind.__name__
    assert owner.told[2] == ("start", "next")


def test_one_object_may_be_entered_again_and_within_itself(owner):
    context = TrainingContext(owner, "x")
    with context, context:
        pass
    with context:
        pass
    assert [entry[1] for entry in owner.told] == ["x", "x/x", "x/x", "x", "x", "x"]


def test_tasks_and_threads_have_paths_of_their_own(owner):
    async def work(name):
        async with TrainingContext(owner, name):
            await asyncio.sleep(0.01)
            async with TrainingContext(owner, "step"):
                await asyncio.sleep(0.01)

    async def main():
        await asyncio.gather(work("a"), work("b"))

    def in_thread():
        with TrainingContext(owner, "c"):
            pass

    with TrainingContext(owner, "main"):
        asyncio.run(main())
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()
    paths = {entry[1] for entry in owner.told}
    assert {"main", "main/a", "main/b", "main/a/step", "main/b/step"} <= paths
    assert "main/a/b" not in paths
    assert paths & {"c", "main/c"}


def test_contexts_of_two_loggers_do_not_mix(owner):
    other = Owner()
    with TrainingContext(owner, "mine"), TrainingContext(other, "yours"), TrainingContext(owner, "inner"):
        pass
    assert other.told[0] == ("start", "yours")
    assert owner.told[1] == ("start", "mine/inner")


def test_durations_are_summed_by_name_and_names_are_bounded():
    stats = ContextStats()
    for duration_s in (1.0, 3.0, 2.0):
        stats.started("work")
        stats.ended("work", duration_s, duration_s == 3.0)
    stats.started("work")
    assert stats.summary()["work"] == {
        "open": 1, "count": 3, "errors": 1, "total_s": 6.0, "max_s": 3.0, "last_s": 2.0
    }  # fmt: skip
    for i in range(5000):
        stats.ended(f"name {i}", 0.1, False)
    assert len(stats.summary()) == 1001
    assert stats.summary()["(others)"]["count"] == 5000 - 999
