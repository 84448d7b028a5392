"""A push from C, without Python; and the clock, which is a part of it."""

from __future__ import annotations

import core
import pytest
from runs import Record, Rounds


@pytest.mark.parametrize("operation", ["push", "clock"])
def bench_ring(rounds: Rounds, record: Record, operation: str) -> None:
    core.measure(rounds, record, operation)
