"""Thinning, for any series: each bucket's extremes and its first value that is not finite are kept, in order."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from advlog_fast.export.records import Place
from advlog_fast.export.thinning import LEAST_POINTS, MOST_OF_A_BUCKET, Thinning

VALUES = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, -0.0, 1.0, math.nan, math.inf, -math.inf, 1e308]),
)
SERIES = st.one_of(
    st.lists(VALUES, max_size=400),
    st.builds(lambda few, times: few * times, st.lists(VALUES, min_size=1, max_size=40), st.integers(1, 300)),
)


class Watched(Thinning):
    """Notes where its buckets end."""

    def close(self):
        if self.count:
            self.ends.append(self.count)
        return super().close()


def sent_of(thinning, values, cuts=()):
    """The indices that are sent, of a series that comes in pieces."""
    sent, start = [], 0
    for end in [*sorted(min(cut, len(values)) for cut in cuts), len(values)]:
        piece = pa.array(values[start:end], pa.float64())
        sent += thinning.add(piece, lambda index, start=start: Place(1, 0, start + index + 1, 0, 0))
        start = end
    return sent


def check_buckets(values, ends, sent):
    indices = [place.seq - 1 for place, _ in sent]
    assert indices == sorted(set(indices)), "in order, each once"
    assert all(repr(values[place.seq - 1]) == repr(value) for place, value in sent), "real records"
    start = 0
    for count in ends:
        bucket = range(start, start + count)
        mine = {index for index in indices if index in bucket}
        finite = [index for index in bucket if math.isfinite(values[index])]
        odd = [index for index in bucket if not math.isfinite(values[index])]
        assert {bucket[0], bucket[-1]} <= mine
        assert len(mine) <= MOST_OF_A_BUCKET
        if finite:
            low, high = (which(finite, key=values.__getitem__) for which in (min, max))
            assert {values[low], values[high]} <= {values[index] for index in mine}
        assert set(odd[:1]) <= mine
        start += count
    assert start == len(values)


@settings(deadline=None, max_examples=150)
@given(SERIES, st.integers(LEAST_POINTS, 200), st.lists(st.integers(0, 12_000), max_size=5))
def test_of_a_series_of_unknown_length_every_spike_is_kept(values, points, cuts):
    thinning = Watched(points)
    thinning.ends = []
    sent = sent_of(thinning, values, cuts)
    sent += thinning.close()
    check_buckets(values, thinning.ends, sent)
    assert len(sent) <= points + MOST_OF_A_BUCKET * (1 + math.log2(len(values) + 1))
    whole = Thinning(points)
    assert repr(sent_of(whole, values) + whole.close()) == repr(sent), "whatever pieces it comes in"


@settings(deadline=None, max_examples=150)
@given(SERIES, st.integers(LEAST_POINTS, 200), st.booleans())
def test_of_a_series_of_known_length_all_is_sent_or_about_as_much_as_was_asked_for(values, points, is_all):
    thinning = Watched(points)
    thinning.ends = []
    thinning.plan(len(values), is_all=is_all)
    sent = sent_of(thinning, values)
    sent += thinning.close()
    check_buckets(values, thinning.ends, sent)
    share = points if is_all else points // 2
    if len(values) <= share:
        assert len(sent) == len(values)
    assert len(sent) <= points + MOST_OF_A_BUCKET * (1 + math.log2(len(values) + 1))


@settings(deadline=None, max_examples=100)
@given(SERIES, st.integers(LEAST_POINTS, 100), st.integers(0, 2000))
@example([0.0] * 12, 24, 7)  # more is spent than there was
def test_one_that_goes_on_from_its_state_sends_what_the_first_would_have(values, points, at):
    at = min(at, len(values))
    whole = Thinning(points)
    wanted = sent_of(whole, values) + whole.close()
    first = Thinning(points)
    sent = sent_of(first, values[:at])
    second = Thinning.of(points, first.state())
    piece = pa.array(values[at:], pa.float64())
    sent += second.add(piece, lambda index: Place(1, 0, at + index + 1, 0, 0)) + second.close()
    assert repr(sent) == repr(wanted)


@pytest.mark.parametrize("state", [{}, {"width": 1}, {"width": "x", "left": 1, "sent": 1, "count": 1, "kept": {}}])
def test_a_state_that_is_none_raises(state):
    with pytest.raises((KeyError, TypeError, ValueError)):
        Thinning.of(100, state)
