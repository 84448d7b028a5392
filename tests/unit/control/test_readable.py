"""Any value as something that JSON has."""

import dataclasses
import enum
import math
import sys
import time
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from run_files import strict_json

from advlog_fast.control.readable import MAX_COST, readable
from advlog_fast.control.readable import strict_json as to_json


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Options:
    lr: float
    out: Path


class Refusing:
    def __repr__(self):
        raise RuntimeError("no")


class Telling:
    def __repr__(self):
        return "Telling(api_key='abc')"


class BrokenMapping(dict):
    def items(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(-3), -3),
        (np.bool_(True), True),
        (np.float64(1.5), 1.5),
        (np.array([2.5]), 2.5),
        (np.zeros((3, 4), np.float32), "array(shape=(3, 4), dtype=float32)"),
        (np.dtype("int8"), "int8"),
        (np.str_("x"), "x"),
        (Colour.RED, "Colour.RED"),
        (Level.HIGH, "Level.HIGH"),
        (Path("a/b"), "a/b"),
        (datetime(2026, 1, 2, tzinfo=timezone.utc), "2026-01-02T00:00:00+00:00"),
        (Decimal("1.10"), "1.10"),
        ((1, 2), [1, 2]),
        ({3, 1, 2}, [1, 2, 3]),
        (Options(0.1, Path("o")), {"lr": 0.1, "out": "o"}),
        ({1: "a", None: "b", 2.5: "c"}, {"1": "a", "null": "b", "2.5": "c"}),
        (1 << 70, str(1 << 70)),
        (-(1 << 62), -(1 << 62)),
        (b"raw", "<bytes: 3 bytes>"),
        (3 - 1j, "(3-1j)"),
        (int, "int"),
        (Path, "pathlib.Path" if sys.version_info < (3, 13) else "pathlib._local.Path"),
        (math.sqrt, "math.sqrt"),
        (ValueError("bad"), "ValueError: bad"),
        (Refusing(), f"<{__name__}.Refusing>"),
        (BrokenMapping({"a": 1}), {"a": 1}),
    ],
)
def test_a_value_becomes_what_a_person_can_read(value, shown):
    if sys.version_info >= (3, 14) and value is Path:
        shown = "pathlib.Path"
    found = readable(value)
    assert found == shown
    assert type(found) is type(shown)


def test_a_float_that_is_not_finite_stays_one():
    assert math.isnan(readable(math.nan))
    assert readable(-math.inf) == -math.inf


def test_an_object_is_its_type_s_name_and_never_its_repr():
    assert readable(object()) == "<object>"
    assert readable([Telling()]) == [f"<{__name__}.Telling>"]


def test_a_container_that_holds_itself_is_named_not_followed():
    value: dict = {"a": 1}
    value["self"] = value
    items = [value]
    assert readable(items) == [{"a": 1, "self": "<dict: contains itself>"}]


def test_the_same_object_twice_is_no_cycle():
    shared = {"a": 1}
    assert readable([shared, shared]) == [{"a": 1}, {"a": 1}]


def test_depth_is_limited_and_the_rest_is_named():
    value: list = []
    for _ in range(100_000):
        value = [value]
    assert "too deep" in to_json(readable(value))


def test_sizes_are_limited_and_what_was_left_out_is_said():
    assert readable(list(range(15_000)))[-1] == "... 5000 more"
    assert readable({i: i for i in range(10_001)})["..."] == "1 more"
    many = readable([list(range(4000)) for _ in range(3)])
    assert sum(map(len, many)) == 10_001
    assert many[2][-1] == "... 2000 more"
    assert readable("x" * 100_000).endswith("(100000 characters)")
    assert readable(10**10_000) == "<int: 33220 bits>"


def test_a_huge_value_is_cut_to_about_a_megabyte_in_little_time():
    value = {f"k{i}": ["x" * 10_000] * 1000 for i in range(1000)}
    begun = time.monotonic()
    assert len(to_json(readable(value))) < 3 * MAX_COST
    assert time.monotonic() - begun < 5


def test_lone_surrogates_and_controls_leave_json_strict():
    assert strict_json(to_json(readable({"\udc80": "\x85\u2028\udfff"}))) == {"\\udc80": "\x85\u2028\\udfff"}


@pytest.mark.torch
def test_tensors_are_described_and_those_of_one_element_are_their_number():
    import torch

    assert readable(torch.tensor(2.5)) == 2.5
    assert readable(torch.tensor([7])) == 7
    assert readable(torch.zeros(3, 4)) == "tensor(shape=(3, 4), dtype=torch.float32, device=cpu)"
    assert readable(torch.zeros(1, device="meta")) == "tensor(shape=(1,), dtype=torch.float32, device=meta)"
    assert readable(torch.bfloat16) == "torch.bfloat16"
    assert readable(torch.device("cuda", 1)) == "cuda:1"
    assert readable(torch.Size([2, 3])) == [2, 3]
    parameter = torch.nn.Parameter(torch.zeros(2))
    assert readable(parameter) == "Parameter(shape=(2,), dtype=torch.float32, device=cpu)"


def test_keys_that_would_be_one_are_told_apart():
    assert readable({1: "int", "1": "str", None: "none", "null": "text"}) == {
        "1": "int",
        "1 (str)": "str",
        "null": "none",
        "null (str)": "text",
    }
