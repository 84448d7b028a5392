"""Which exceptions were recorded already."""

import dataclasses
import pickle

import pytest

from advlog_fast.control.recorded_errors import RecordedErrors


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    code: int


class SlottedError(Exception):
    __slots__ = ()


@pytest.mark.parametrize("error", [ValueError("x"), FrozenError(3), SlottedError(), KeyError("k")])
def test_an_exception_is_known_after_it_was_recorded_and_not_before(error):
    recorded = RecordedErrors()
    before = recorded.tick()
    assert not recorded.since(error, before)
    recorded.remember(error, "what", by_context=True)
    assert recorded.since(error, before)
    assert not recorded.since(error, recorded.tick())
    assert not RecordedErrors().since(error, 0)


def test_what_a_context_recorded_is_handed_out_once():
    recorded, error = RecordedErrors(), ValueError("x")
    recorded.remember(error, "what", by_context=True)
    assert recorded.take(error) == "what"
    assert recorded.take(error) is None


def test_what_the_user_recorded_is_handed_to_nobody():
    recorded, error = RecordedErrors(), ValueError("x")
    recorded.remember(error, "what", by_context=False)
    assert recorded.take(error) is None


def test_what_is_kept_is_bounded():
    recorded = RecordedErrors()
    for _ in range(10_000):
        recorded.remember(ValueError(), "what", by_context=True)
    assert len(recorded._by_context) == 100


def test_a_recorded_exception_can_still_be_pickled():
    recorded, error = RecordedErrors(), ValueError("x")
    recorded.remember(error, "what", by_context=True)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (type(copy), copy.args) == (ValueError, ("x",))
