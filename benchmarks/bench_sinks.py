"""What each sink costs by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench_end_to_end import cost, log_and_count
from conftest import median_of

STEPS = 1_000_000


@pytest.mark.parametrize("sinks", [(), ("text",), ("jsonl",), ("parquet",)], ids=lambda sinks: "".join(sinks) or "none")
def bench_sink(
    rounds: Callable[..., list[Any]], record: Callable[..., None], tmp_path: Path, sinks: tuple[str, ...]
) -> None:
    runs = rounds(lambda: cost(*log_and_count(tmp_path / "logs", STEPS, sinks), STEPS), 3)
    record(records=STEPS, **median_of(runs))
