"""A push from C, without Python; and the clock, which is a part of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import core
import pytest


@pytest.mark.parametrize("operation", ["push", "clock"])
def bench_ring(rounds: Callable[..., list[Any]], record: Callable[..., None], operation: str) -> None:
    core.measure(rounds, record, operation)
