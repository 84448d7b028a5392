"""Arguments: what is taken, and what is said of the rest."""

import argparse
import dataclasses
import math
import re
import types
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from advlog_fast import checks


@pytest.mark.parametrize("value", [3, np.int32(3), np.uint8(3), np.array(3)])
def test_a_whole_number_may_be_numpys(value):
    found = checks.whole("epoch", value)
    assert (found, type(found)) == (3, int)


@pytest.mark.parametrize("value", [True, 1.0, "1", None, np.float64(1), [1], np.array([1, 2])])
def test_what_is_no_whole_number_is_named(value):
    with pytest.raises(TypeError, match=rf"epoch: expected an integer, got {type(value).__name__} "):
        checks.whole("epoch", value)


@pytest.mark.parametrize("value", [1 << 31, -(1 << 31) - 1])
def test_a_whole_number_has_32_bits(value):
    with pytest.raises(ValueError, match=rf"epoch: expected an integer from .*, got int {value}"):
        checks.whole("epoch", value)


def test_metrics_are_float64_nested_ones_flat_and_none_left_out():
    given = {"loss": np.float32(0.5), "val": {"top1": 1, "deep": {"x": Decimal("0.1")}}, "none": None}
    found = checks.metric_values("metrics", {**given, "half": Fraction(1, 2), "one": np.array([[2]]), "yes": True})
    assert found == {"loss": 0.5, "val/top1": 1.0, "val/deep/x": 0.1, "half": 0.5, "one": 2.0, "yes": 1.0}
    assert {type(value) for value in found.values()} == {float}


def test_values_that_are_not_finite_are_metrics_too():
    found = checks.metric_values("metrics", {"a": math.nan, "b": -math.inf, "c": np.float32("nan")})
    assert [repr(value) for value in found.values()] == ["nan", "-inf", "nan"]


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ([("a", 1)], "metrics: expected a mapping, got list"),
        ({1: 2}, "metrics: a metric's name: expected a string, got int 1"),
        ({"a": "0.5"}, "metrics['a']: expected a number, got str '0.5'"),
        ({"a": {"b": [1]}}, "metrics['a/b']: expected a number, got list [1]"),
        ({"a": np.zeros(2)}, "metrics['a']: expected a number, got ndarray"),
        ({"a": 1j}, "metrics['a']: expected a number, got complex 1j"),
    ],
)
def test_a_metric_of_a_wrong_type_is_named_with_its_place(metrics, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        checks.metric_values("metrics", metrics)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"g/a": 1, "g": {"a": 2}}, "metrics: expected each name once, nested ones written with '/', got str 'g/a'"),
        ({"a": 2**53 + 1}, "metrics['a']: expected a number that float64 can hold"),
        ({"a": 10**400}, "metrics['a']: expected a number that float64 can hold"),
        ({"": 1}, "metrics: a metric's name: expected valid Unicode that is not empty, got str ''"),
        ({"\udc80": 1}, "metrics: a metric's name: expected valid Unicode"),
    ],
)
def test_a_metric_that_cannot_be_kept_is_named(metrics, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        checks.metric_values("metrics", metrics)


@dataclasses.dataclass
class Settings:
    lr: float = 0.1


class Slotted:
    __slots__ = ()


@pytest.mark.parametrize("given", [{"lr": 0.1}, argparse.Namespace(lr=0.1), types.SimpleNamespace(lr=0.1), Settings()])
def test_settings_are_a_mapping_or_the_attributes_of_an_object(given):
    assert checks.settings("config", given) == {"lr": 0.1}


@pytest.mark.parametrize("given", [None, 5, "lr=0.1", [("lr", 0.1)], Settings, math, print, lambda: None, Slotted()])
def test_what_has_no_settings_is_refused(given):
    with pytest.raises(TypeError, match=r"^config: expected a mapping, or an object whose attributes are the settings"):
        checks.settings("config", given)


def test_a_flag_may_be_what_a_comparison_of_numpy_gives():
    assert checks.flag("is_best", np.float32(2) > 1) is True
    assert checks.flag("is_best", np.array(False)) is False
    for value in (1, "yes", None, np.array([True])):
        with pytest.raises(TypeError, match="is_best: expected True or False"):
            checks.flag("is_best", value)


@pytest.mark.torch
def test_tensors_without_dimensions_are_numbers_and_flags():
    import torch

    assert checks.metric_values("m", {"loss": torch.tensor(0.5, requires_grad=True)}) == {"loss": 0.5}
    assert checks.flag("is_best", torch.tensor(2) > 1) is True
    assert checks.whole("epoch", torch.tensor(3)) == 3
    with pytest.raises(TypeError, match="a number, got Tensor"):
        checks.metric_values("m", {"loss": torch.zeros(2)})
    with pytest.raises(TypeError, match="an integer, got Tensor"):
        checks.whole("epoch", torch.tensor(0.5))
