"""Arguments: what is taken, and what is said of the rest."""

import itertools
import math
import re
import sys
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from advlog_fast.checks import Intake


def taken(metrics):
    """What is taken of metrics, and what is said of the rest."""
    intake = Intake()
    return intake.metrics("metrics", metrics), [(m.name, m.kind, m.message()) for m in intake.misuses]


@pytest.mark.parametrize("value", [3, 3.0, np.int32(3), np.uint8(3), np.array(3), np.float64(3), np.float32(3)])
def test_a_whole_number_may_be_a_float_or_numpys(value):
    intake = Intake()
    found = intake.integer("epoch", value)
    assert (found, type(found), intake.misuses) == (3, int, [])


@pytest.mark.parametrize("value", [True, 1.5, "1", np.float64("nan"), math.inf, [1], np.array([1, 2]), object()])
def test_what_is_no_whole_number_is_named(value):
    intake = Intake()
    assert intake.integer("epoch", value) is None
    (misuse,) = intake.misuses
    assert (misuse.name, misuse.kind) == ("epoch", "type")
    assert misuse.message().startswith(f"epoch: expected an integer, got {type(value).__name__} ")
    assert isinstance(misuse.error(), TypeError)


@pytest.mark.parametrize("value", [1 << 31, -(1 << 31) - 1])
def test_a_whole_number_has_32_bits(value):
    intake = Intake()
    assert intake.integer("epoch", value) is None
    (misuse,) = intake.misuses
    assert re.match(rf"epoch: expected an integer from .*, got int {value}", misuse.message())
    assert isinstance(misuse.error(), ValueError)


@pytest.mark.parametrize("value", [None, -1, -1.0, math.inf, sys.maxsize, np.float64("inf")])
def test_a_total_may_be_unknown(value):
    intake = Intake()
    assert intake.total("total_batches", value) is None
    assert intake.misuses == []


@pytest.mark.parametrize(
    ("value", "found"),
    [(3, (3, None)), (0.25, (None, 0.25)), (2.0, (2, 2.0)), (np.float32(0.5), (None, 0.5)), (np.int64(7), (7, None))],
)
def test_an_epoch_that_is_a_float_is_the_progress_of_epochs(value, found):
    intake = Intake()
    assert intake.epoch(value) == found
    assert intake.misuses == []


def test_metrics_are_float64_nested_ones_flat_and_none_left_out():
    given = {"loss": np.float32(0.5), "val": {"top1": 1, "deep": {"x": Decimal("0.1")}}, "none": None}
    found, said = taken({**given, "half": Fraction(1, 2), "one": np.array([[2]]), "yes": True})
    assert found == {"loss": 0.5, "val/top1": 1.0, "val/deep/x": 0.1, "half": 0.5, "one": 2.0, "yes": 1.0}
    assert {type(value) for value in found.values()} == {float}
    assert said == []
    assert taken(None) == taken({}) == ({}, [])


def test_values_that_are_not_finite_are_metrics_too():
    found, _ = taken({"a": math.nan, "b": -math.inf, "c": np.float32("nan"), "d": Decimal("sNaN")})
    assert [repr(value) for value in found.values()] == ["nan", "-inf", "nan", "nan"]


@pytest.mark.parametrize("value", [np.ma.masked, np.ma.array(0.75, mask=True), np.ma.masked_invalid([np.nan]).mean()])
def test_what_numpy_has_masked_is_no_number_but_nan(value):
    found, said = taken({"loss": value})
    assert math.isnan(found["loss"])
    assert said == []
    assert taken({"loss": np.ma.array(0.75, mask=False)})[0] == {"loss": 0.75}


@pytest.mark.parametrize(
    ("metrics", "name", "kind", "message"),
    [
        ({1: 2}, "<int>", "name", "metrics: a metric's name: expected a string, got int 1"),
        ({"a": "0.5"}, "a", "type", "metrics['a']: expected a number, got str '0.5'"),
        ({"a": {"b": [1]}}, "a/b", "type", "metrics['a/b']: expected a number, got list [1]"),
        ({"a": np.zeros(2)}, "a", "type", "metrics['a']: expected a number, got ndarray"),
        ({"a": 1j}, "a", "type", "metrics['a']: expected a number, got complex 1j"),
        ({"a": 10**400}, "a", "range", "metrics['a']: expected a number that float64 can hold"),
        ({"a": Decimal("1e400")}, "a", "range", "metrics['a']: expected a number that float64 can hold"),
        ({"a": np.longdouble("1e400")}, "a", "range", "metrics['a']: expected a number that float64 can hold"),
        ({"": 1}, "''", "name", "metrics: a metric's name: expected valid Unicode that is not empty, got str ''"),
        ({"\udc80": 1}, "\\udc80", "name", "metrics: a metric's name: expected valid Unicode"),
    ],
)
def test_what_cannot_be_logged_is_left_out_and_named_with_its_place(metrics, name, kind, message):
    found, ((name_said, kind_said, message_said),) = taken({"before": 1.0, **metrics, "after": 2.0})
    assert found == {"before": 1.0, "after": 2.0}
    assert (name_said, kind_said) == (name, kind)
    assert message_said.startswith(message)


def test_an_integer_that_float64_cannot_hold_is_rounded():
    found, ((name, kind, message),) = taken({"flops": 123456789012345679})
    assert found == {"flops": 123456789012345680.0}
    assert (name, kind) == ("flops", "rounded")
    assert message.startswith("metrics['flops']: expected an integer that float64 holds exactly, got int ")


def test_a_name_that_comes_twice_keeps_its_first_value():
    found, ((name, kind, message),) = taken({"g/a": 1, "g": {"a": 2, "b": 3}})
    assert found == {"g/a": 1.0, "g/b": 3.0}
    assert (name, kind) == ("g/a", "duplicate")
    assert message.startswith("metrics['g/a']: expected each name once")


def test_only_a_mapping_has_metrics():
    with pytest.raises(TypeError, match=r"^metrics: expected a mapping, got list"):
        Intake().metrics("metrics", [("a", 1)])


def test_a_mapping_within_itself_ends():
    endless: dict = {"x": 1.0}
    endless["again"] = endless
    found, ((name, kind, _),) = taken(endless)
    assert (found, name, kind) == ({"x": 1.0}, "again", "nesting")


def test_a_mapping_with_endless_branches_ends():
    branch: dict = {"x": 1.0}
    for _ in range(19):
        branch = {"a": branch, "b": branch}
    found, said = taken(branch)
    assert 0 < len(found) <= 100_000
    assert said[-1][1:] == ("range", f"metrics: expected at most 100000 entries, got int {len(found)}")


class Hostile(Mapping):
    def __init__(self, items):
        self.given = items

    def items(self):
        return self.given()

    def __getitem__(self, key):
        raise KeyError(key)

    def __iter__(self):
        raise RuntimeError("no")

    def __len__(self):
        raise RuntimeError("no")


def fail():
    raise RuntimeError("no")


@pytest.mark.parametrize("items", [fail, lambda: 5, lambda: [1, 2], lambda: itertools.chain([("x", 1.0)], [None])])
def test_a_mapping_that_cannot_be_read_is_left_out(items):
    found, said = taken({"a": 1.0, "bad": Hostile(items), "b": 2.0})
    assert found == {"a": 1.0, "b": 2.0}
    assert [kind for _, kind, _ in said] == ["unreadable"]


class Raises:
    def __getattribute__(self, name):
        raise RuntimeError("no")

    def __float__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize("make", [Raises, lambda: Raises, lambda: type("X", (float,), {"__float__": fail})(1.0)])
def test_a_value_that_raises_is_no_number(make):
    intake, value = Intake(), make()
    intake.number("x", value)
    intake.integer("y", value)
    intake.total("z", value)
    intake.flag("w", value)
    intake.epoch(value)
    assert all(misuse.message() for misuse in intake.misuses)


def test_a_flag_may_be_what_a_comparison_of_numpy_gives():
    intake = Intake()
    assert intake.flag("is_best", np.float32(2) > 1) is True
    assert intake.flag("is_best", np.array(False)) is False
    assert intake.misuses == []
    for value in (1, "yes", None, np.array([True])):
        assert intake.flag("is_best", value) is False
        assert intake.misuses.pop().message().startswith("is_best: expected True or False, got ")


def test_a_text_that_is_none_is_named_by_its_type():
    intake = Intake()
    assert intake.text("name", np.str_("checkpoint")) == "checkpoint"
    assert intake.text("operation", "", or_empty=True) == ""
    assert intake.misuses == []
    assert (intake.text("name", 5), intake.text("name", "")) == ("<int>", "<no name>")
    assert [misuse.kind for misuse in intake.misuses] == ["type", "range"]


@pytest.mark.torch
def test_tensors_without_dimensions_are_numbers_and_flags():
    import torch

    intake = Intake()
    assert intake.metrics("m", {"loss": torch.tensor(0.5, requires_grad=True)}) == {"loss": 0.5}
    assert intake.flag("is_best", torch.tensor(2) > 1) is True
    assert intake.integer("epoch", torch.tensor(3)) == 3
    assert intake.misuses == []
    assert intake.metrics("m", {"loss": torch.zeros(2), "meta": torch.zeros((), device="meta")}) == {}
    assert intake.integer("epoch", torch.tensor(0.5)) is None
    assert [misuse.name for misuse in intake.misuses] == ["loss", "meta", "epoch"]
