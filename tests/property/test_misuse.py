"""Objects of every kind as names and values, in every call that records something: nothing raises, whatever the filters
of warnings, in destructors and signal handlers too; and every number that could be logged is there, to the bit."""

from __future__ import annotations

import math
import signal
import struct
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from advlog_fast import AdvancedLogger, read_jsonl, read_run


class Hostile:
    """Whatever is asked of it fails."""

    def _fail(self, *_: object) -> Any:
        raise RuntimeError("no")

    __float__ = __int__ = __index__ = __str__ = __repr__ = __bool__ = __len__ = __iter__ = __eq__ = __hash__ = _fail
    __getattr__ = item = _fail
    shape = dtype = property(_fail)


class Disguised(Hostile):
    __class__ = property(Hostile._fail)  # type: ignore[assignment]


class Text(str):  # noqa: SLOT000
    __str__ = __repr__ = __hash__ = Hostile._fail


class Number(float):
    __float__ = __str__ = __repr__ = __eq__ = __hash__ = Hostile._fail


class Mine(dict[Any, Any]):
    items = keys = __iter__ = Hostile._fail


def within_itself() -> dict[str, Any]:
    outer: dict[str, Any] = {"x": 1.0}
    outer["outer"] = outer
    return outer


def deep() -> Any:
    value: Any = 1.0
    for _ in range(2000):
        value = {"d": value}
    return value


# Made where they are used: what draws them would look at them.
ODD: list[Callable[[], Any]] = [
    Hostile,
    Disguised,
    lambda: Text("t"),
    lambda: Number(1.5),
    lambda: Mine(a=1),
    within_itself,
    deep,
    object,
    lambda: Hostile,
    lambda: np.array([1.0, 2.0]),
    lambda: np.array([], dtype=object),
    lambda: np.ma.masked,
    lambda: np.datetime64("2026-01-01"),
    lambda: np.float32("nan"),
    lambda: iter([1.0]),
    lambda: 10**400,
    lambda: -(2**53) - 1,
    lambda: Decimal("sNaN"),
    lambda: Fraction(10**400, 3),
    lambda: "\ud800",
    lambda: "x" * 100_000,
    lambda: "\x1b[2J\n\u202e",
    lambda: memoryview(b"1"),
]
try:
    import torch
except ImportError:
    pass
else:
    ODD += [
        lambda: torch.zeros(2),
        lambda: torch.tensor(0.5, requires_grad=True),
        lambda: torch.empty(1, device="meta"),
        lambda: torch.tensor(1 + 2j),
        lambda: torch.zeros(2).to_sparse(),
    ]

numbers = st.floats() | st.integers(-(2**53), 2**53)
values = st.recursive(
    st.sampled_from(ODD)
    | st.none()
    | st.booleans()
    | numbers
    | st.integers()
    | st.text(max_size=8)
    | st.binary(max_size=4)
    | st.complex_numbers()
    | st.decimals(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
POSITIONAL = ["epoch", "batch", "total_batches"]
RESERVED = [*POSITIONAL, "timestamp", "rank", "seq", "attempt", "unresolved", "nonfinite", "extra"]
strings = st.text(max_size=6) | st.sampled_from([*RESERVED, "loss/", "/", "\ud800", "\0", "n" * 300, "a b=c"])
names = strings | st.integers() | st.none() | st.binary(max_size=2) | st.tuples(st.integers())
RIGHT = ["loss", "accuracy", "reward", "train/kl", "ülk", "fid"]


@st.composite
def rows(draw: st.DrawFn) -> tuple[dict[Any, Any], dict[str, Any]]:
    """A mapping, and those of its entries that can be logged."""
    right = draw(st.dictionaries(st.sampled_from(RIGHT), numbers, max_size=4))
    wrong = draw(st.dictionaries(names.filter(lambda name: name not in RIGHT), values, max_size=4))
    entries = draw(st.permutations([*right.items(), *wrong.items()]))
    return dict(entries), right


def made(drawn: Any) -> Any:
    if isinstance(drawn, dict):
        return {name: made(value) for name, value in drawn.items()}
    if isinstance(drawn, list):
        return [made(value) for value in drawn]
    return drawn() if callable(drawn) else drawn


class Probes:
    """Rows with a number each, by which they are found again, and with the numbers that they must have."""

    def __init__(self) -> None:
        self.expected: dict[int, dict[str, Any]] = {}

    def marked(self, row: tuple[dict[Any, Any], dict[str, Any]]) -> dict[Any, Any]:
        given, right = row
        number = len(self.expected)
        # What a nested mapping makes of its name may be one of the right names: whichever comes first is taken.
        self.expected[number] = {name: right[name] for name in right if not _nested_as(given, name)}
        return {**made(given), "probe": number}

    def compare(self, found: dict[int, dict[str, Any]]) -> None:
        assert found.keys() == self.expected.keys()
        for number, right in self.expected.items():
            for name, value in right.items():
                assert _same(found[number].get(name), value), (number, name, value, found[number])


def _nested_as(given: dict[Any, Any], name: str) -> bool:
    return any(isinstance(key, str) and name.startswith(str.__str__(key) + "/") for key in given)


def _same(found: Any, value: Any) -> bool:
    if found is None:
        return False
    if math.isnan(value):
        return math.isnan(found)
    return struct.pack("d", found) == struct.pack("d", value)


@pytest.fixture(scope="module", params=["warn", "error"])
def strict(request: pytest.FixtureRequest) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if request.param == "warn" else "error")
        yield


@pytest.fixture(params=["as it is", "in a destructor", "in a signal handler"])
def within(request: pytest.FixtureRequest) -> Callable[[Callable[[], None]], None]:
    """Calls a function there; what it raises is raised here."""

    def destructor(body: Callable[[], None]) -> None:
        class Dying:
            def __del__(self) -> None:
                body()

        Dying()  # and gone

    def handler(body: Callable[[], None]) -> None:
        before = signal.signal(signal.SIGUSR1, lambda *_: body())
        try:
            signal.raise_signal(signal.SIGUSR1)
        finally:
            signal.signal(signal.SIGUSR1, before)

    places = {"as it is": lambda body: body(), "in a destructor": destructor, "in a signal handler": handler}
    return places[request.param]


CHECKS = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


@pytest.mark.parametrize("examples", [200, pytest.param(20_000, marks=pytest.mark.stress)])
@pytest.mark.usefixtures("strict")
def test_no_call_raises_and_no_number_is_lost(
    tmp_path: Path, within: Callable[[Callable[[], None]], None], monkeypatch: pytest.MonkeyPatch, examples: int
) -> None:
    raised: list[str] = []
    monkeypatch.setattr(
        sys, "unraisablehook", lambda what: raised.append("".join(traceback.format_exception(what.exc_value)))
    )
    records, validations = Probes(), Probes()
    log = AdvancedLogger(tmp_path, "run", console="off", memory_interval_s=0, parquet=False)

    # The short form is the same each time; the long one explores.
    @settings(max_examples=examples, derandomize=examples == 200, deadline=None, suppress_health_check=CHECKS)
    @given(rows(), rows(), values, values, values, strings)
    def call(row: Any, other: Any, one: Any, two: Any, three: Any, name: str) -> None:
        one, two, three = made(one), made(two), made(three)

        def body() -> None:
            log.log_metrics(records.marked(row), step=one)
            log.log_metrics(records.marked(row), one)
            keywords = {key: value for key, value in records.marked(row).items() if type(key) is str}
            for positional in POSITIONAL:
                keywords.pop(positional, None)
            log.log_batch_progress(one, two, three, **{"loss": two, **keywords})
            log.log_validation(one, validations.marked(other), is_best=two)
            log.log_performance_metrics(one, two)
            log.start_epoch(one, two)
            log.end_epoch(one, made(other[0]))
            log.log_hyperparameters(made(row[0]))
            log.log_error(one, two, {"context": three})
            log.log_recovery(one, two, success=three)
            log.log_event(one, a=two, b=three)
            log.log_event(name, **{name: one})
            log.logger.warning(one)

        raised.clear()
        within(body)
        assert not raised, "".join(raised)

    call()
    assert log.close()
    found = {}
    for line in read_jsonl(tmp_path / "run_metrics.jsonl"):
        if line.get("probe") is not None:
            found.setdefault(int(line["probe"]), {}).update(line)
    assert len(found) >= 3 * examples
    records.compare(found)
    table = read_run(tmp_path, "run").validation
    validations.compare({int(line["probe"]): line for line in table.to_pylist()})
