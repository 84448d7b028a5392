"""Pictures against a count in plain Python: any rows, in any pieces, at any position, span and width."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_model import check_picture

from advlog_fast.pictures import Cache, Levels, Piece, Span
from advlog_fast.pictures import levels as levels_module
from advlog_fast.reader.looks import _Drawing

STEPS = st.one_of(
    st.integers(0, 300), st.integers(-50, 50), st.integers(10**12, 10**12 + 5000), st.integers(-(2**62), 2**62)
)
VALUES = st.one_of(st.none(), st.floats(), st.sampled_from([0.0, -0.0, math.nan, math.inf, 1.7e308, -1.7e308, 5e-324]))
ROWS = st.lists(st.tuples(STEPS, VALUES, st.integers(0, 2), st.booleans()), min_size=1, max_size=60)


def piece(rows: list[tuple[int, float | None, int, bool]], rank: int, number: int) -> Piece:
    """The rows as the reader gives them, in two batches."""
    type_ = pa.map_(pa.string(), pa.string())
    batches = []
    for part in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
        values = pa.array([None if lost else value for _, value, _, lost in part], pa.float64())
        reasons = pa.array([[("loss", "timeout")] if lost else None for *_, lost in part], type_)
        batches.append(pa.record_batch({"step": [step for step, *_ in part], "unresolved": reasons, "loss": values}))

    def read(names, span):
        for batch in batches:
            if batch.num_rows:
                yield batch.select(["step", *names])

    steps = [step for step, *_ in rows]
    return Piece(1, rank, f"piece {number}", Span(min(steps), max(steps)), len(rows), read)


class _Run:
    """What a drawing asks of a run."""

    def check_values(self, metric: str) -> None:
        assert metric == "loss"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@given(rows=ROWS, width=st.integers(1, 90), ends=st.tuples(st.floats(0, 1), st.floats(0, 1)), data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_span_at_any_width_shows_every_value(tmp_path_factory, rows, width, ends, data):
    # Few buckets of its own, so that pieces are seen from both sides of what is kept.
    own = data.draw(st.sampled_from([2, 3, 4096]))
    most = data.draw(st.sampled_from([0, 10, 2_000_000]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(levels_module, "_KEPT_BUCKETS", own)
        patch.setattr(levels_module, "_MOST_ROWS", most)
        by_rank = {rank: [row for row in rows if row[2] == rank] for rank in (0, 1, 2)}
        pieces = [piece(mine, rank, rank) for rank, mine in by_rank.items() if mine]
        cache = Cache(tmp_path_factory.mktemp("cache"))
        for _ in range(2):  # counted, and as it was kept
            levels = Levels(pieces, cache)
            whole = levels.span
            wide = whole.high - whole.low
            low, high = sorted(whole.low + int(end * wide) for end in ends)
            for ranks in ("band", "each"):
                drawing = _Drawing(_Run(), "step", (low, high), width, ranks, None, [])
                picture = drawing.of(levels, ["loss"])["loss"]
                told = [
                    {"at": step, "rank": rank, "loss": None if lost else value, "unresolved": [("loss", "t")] * lost}
                    for step, value, rank, lost in rows
                ]
                buckets = (high >> picture.shift) - (low >> picture.shift) + 1
                assert buckets < max(2 * width, 3)
                if most == 2_000_000:
                    assert buckets >= width or picture.shift == 0
                check_picture(picture, told)
