"""What each sink costs by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_end_to_end import cost, log_and_count
from runs import Record, Rounds, median_of

STEPS = 1_000_000


@pytest.mark.parametrize("sinks", [(), ("text",), ("jsonl",), ("parquet",)], ids=lambda sinks: "".join(sinks) or "none")
def bench_sink(rounds: Rounds, record: Record, tmp_path: Path, sinks: tuple[str, ...]) -> None:
    runs = rounds(lambda: cost(*log_and_count(tmp_path / "logs", STEPS, sinks), STEPS), 3)
    record(records=STEPS, **median_of(runs))
