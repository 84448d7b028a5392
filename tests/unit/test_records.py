"""What stands both in Python and in the C API is the same in both."""

from __future__ import annotations

import pytest

from advlog_fast._native import lib
from advlog_fast.control.text import MAX_LINE_BYTES
from advlog_fast.engine.totals import SKETCHES
from advlog_fast.parquet.columns import STREAMS, UNRESOLVED
from advlog_fast.records import CORE_METRICS, MAX_METRIC_NAME_BYTES, MAX_METRIC_NAMES


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (CORE_METRICS, "ADVLOG_"),
        (STREAMS, "ADVLOG_STREAM_"),
        (UNRESOLVED[1:], "ADVLOG_UNRESOLVED_"),
        ([name.replace("performance/", "system_") for name in SKETCHES], "ADVLOG_SKETCH_"),
    ],
)
def test_names_stand_in_the_order_of_the_c_api(names, prefix):
    numbers = [getattr(lib, prefix + name.upper()) for name in names]
    assert numbers == list(range(numbers[0], numbers[0] + len(names)))
    assert numbers[0] == (1 if prefix == "ADVLOG_UNRESOLVED_" else 0)


def test_limits_are_those_of_the_c_api():
    assert len(CORE_METRICS) == lib.ADVLOG_CORE_METRICS
    assert len(SKETCHES) == lib.ADVLOG_SKETCHES
    assert (MAX_METRIC_NAMES, MAX_METRIC_NAME_BYTES) == (lib.ADVLOG_MAX_NAMES, lib.ADVLOG_MAX_NAME_BYTES)
    assert MAX_LINE_BYTES == lib.ADVLOG_MAX_TEXT_BYTES
