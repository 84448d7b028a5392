"""The SVG of charts: well-formed whatever the numbers and the names are, and true to scale."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advlog_fast.pictures.svg import Axis, Curve, chart, heat_hue, heat_map, short, value_range, wants_log


def parsed(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314 - our own


NUMBERS = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))


def curve(values: list[float | None], name: str = "") -> Curve:
    return Curve(name, [float(at) for at in range(len(values))], values, values, values, [0] * len(values))


@given(st.lists(NUMBERS, max_size=20), st.text(), st.sampled_from([None, True, False]))
@settings(max_examples=200, deadline=None)
def test_any_numbers_and_any_name_make_a_sound_picture(values, name, log):
    text = chart([curve(values, name)], title=name, log=log)
    root = parsed(text)
    places = [
        float(each)
        for each in re.findall(r"-?[\d.]+(?=[, \"])", " ".join(element.get("points", "") for element in root.iter()))
    ]
    assert all(math.isfinite(each) and -20 <= each <= 900 for each in places)


def test_what_a_run_says_is_text_and_no_markup():
    told = '</title><script>alert(1)</script><img src=x onerror="alert(2)">\x1b[31m\u202e'
    root = parsed(chart([curve([1.0, 2.0], told)], title=told))
    assert {element.tag.split("}")[1] for element in root.iter()} <= {
        "svg",
        "title",
        "style",
        "text",
        "line",
        "polygon",
        "polyline",
    }
    assert "<script>" in "".join(root.itertext())
    assert not re.search("[\x00-\x1f\u202e]", "".join(root.itertext()))


def test_one_value_alone_does_not_flatten_a_curve_and_is_named():
    values = [1.0 + at / 1000 for at in range(1000)]
    values[400] = 50.0
    low, high = value_range([curve(values)], log=False)
    assert low < 1.0
    assert 2.0 < high < 3.0
    assert ">50</text>" in chart([curve(values)], title="loss")


def test_a_loss_over_decades_has_a_logarithmic_axis_and_one_with_zero_has_none():
    assert wants_log([curve([10.0 ** -(at / 100) for at in range(400)])])
    assert not wants_log([curve([0.0, 1.0, 100.0])])
    assert not wants_log([curve([1.0, 2.0])])


def test_ticks_are_round_and_within_the_axis():
    for low, high in ((0, 1), (0.1, 0.13), (-7, 1e6), (1e300, 1.7e308), (-1.7e308, 1.7e308), (3, 3)):
        ticks = Axis(low, high, 0, 100).ticks(5)
        assert ticks
        assert all(low <= tick <= high for tick in ticks)
        assert len(ticks) <= 7
    assert Axis(0.001, 1000, 0, 100, log=True).ticks(7) == pytest.approx([0.001, 0.01, 0.1, 1, 10, 100, 1000])


def test_a_slow_rank_stands_out_of_a_heat_map():
    text = heat_map({0: [1.0, 1.0, None], 1: [1.0, 2.0, 0.5]}, title="batch_time", span=(1, 300))
    fills = [element.get("fill") for element in parsed(text).iter() if element.tag.endswith("rect")]
    assert fills == [heat_hue(1.0), heat_hue(1.0), heat_hue(2.0), heat_hue(0.5)]
    assert len({heat_hue(ratio) for ratio in (0.5, 1.0, 1.4, 2.0)}) == 4


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.05, "0.05"),
        (1234.0, "1234"),
        (12345.0, "12.35k"),
        (2e6, "2M"),
        (1e-7, "1e-07"),
        (-3.5e9, "-3.5G"),
    ],
)
def test_numbers_are_short(value, text):
    assert short(value) == text
