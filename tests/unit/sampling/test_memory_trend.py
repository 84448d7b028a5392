"""The trend of memory: few samples for any run, a slope that no spike tilts, and a leak only where there is one."""

from __future__ import annotations

import itertools

import pytest

from advlog_fast.sampling import memory_trend
from advlog_fast.sampling.memory_trend import MemoryTrend


def grown(samples):
    """Of (seconds, GB), a step every second."""
    trend = MemoryTrend()
    for seconds, gb in samples:
        trend.add(int(seconds * 1e9), int(seconds), {"cpu_memory_gb": gb})
    return trend


def test_the_trend_keeps_few_samples_spread_over_the_whole_run():
    trend = grown((i, float(i)) for i in range(100_000))
    kept = [point.step for point in trend._kept]
    assert memory_trend.RETAINED // 2 <= len(kept) <= memory_trend.RETAINED
    assert len({b - a for a, b in itertools.pairwise(kept)}) == 1
    assert kept[0] == 0
    assert kept[-1] > 95_000
    found = trend.series()["cpu_memory_gb"]
    assert (found["first"], found["last"], found["min"], found["max"]) == (0.0, 99_999.0, 0.0, 99_999.0)
    assert trend.count == 100_000


def test_growth_is_a_leak_and_not_a_spike():
    # 36 MB an hour, sampled each 5 s for an hour; every tenth sample is a checkpoint's spike of 20 GB.
    leak = grown((i * 5, 4.0 + i * 5 / 3600 * 0.036 + (20.0 if i % 10 == 3 else 0.0)) for i in range(720))
    assert leak.series()["cpu_memory_gb"]["growth_gb_per_hour"] == pytest.approx(0.036, rel=0.05)
    assert leak.series()["cpu_memory_gb"]["growth_gb_per_step"] == pytest.approx(1e-5, rel=0.05)
    level = grown((i, 4.0) for i in range(50))
    assert level.series()["cpu_memory_gb"]["growth_gb_per_hour"] == 0.0


def course(*levels, seconds=3600, samples=120):
    """A trend that goes through these levels in GB, straight from one to the next."""
    last = samples - 1
    points = []
    for i in range(samples):
        at = i / last * (len(levels) - 1)
        low = min(int(at), len(levels) - 2)
        points.append(levels[low] + (at - low) * (levels[low + 1] - levels[low]))
    return grown((i * seconds / last, gb) for i, gb in enumerate(points))


@pytest.mark.parametrize(
    ("trend", "leaks"),
    [
        (course(4.0, 5.0), True),
        (course(4.0, 6.0, 6.0, 6.0, 6.0), False),  # a warm-up
        (course(4.0, 8.0, 8.3, 8.6, 9.0), True),  # after a warm-up
        (course(4.0, 4.0, 6.0, 6.0, 6.0), False),  # one step
        (course(4.0, 4.1), False),  # too little of 4 GB
        (course(0.1, 0.15), False),  # too little at all
        (course(4.0, 5.0, seconds=300), False),  # too soon
        (course(5.0, 4.0), False),
        (course(*([4.0, 6.0] * 40)), False),  # a sawtooth
        (course(4.0, 5.0, samples=12), False),
    ],
)
def test_a_leak_is_what_grows_on_and_on(trend, leaks):
    assert trend.series()["cpu_memory_gb"]["leak_suspected"] is leaks
    assert trend.is_leak("cpu_memory_gb") is leaks
    assert not trend.is_leak("gpu_memory_allocated_gb")
