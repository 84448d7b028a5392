"""What deserves a look in a run: found in its pictures, its events and its accounts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..pictures import Heat, Picture
from ..records import CORE_METRICS

_METRICS = 24
_AWAY = 8.0
"""Times the width of the band around it that a value lies outside of the band: a spike."""
_BLOCK = 16
"""Buckets that have one band, with those of the blocks before and behind."""
_LEAST_BUCKETS = 24
_FLAT = 1e-3
"""The least width of a band, over its middle."""
_SPIKES = 3
"""That are told of one metric."""
_SLOW = 1.15
"""Times the median of the ranks from which a rank is slow."""
_SLOW_SHARE = 0.02
"""The share of the steps over which it must be, together."""
_AROUND = 100
"""Steps before and behind a single one that are shown."""


@dataclass(frozen=True)
class Finding:
    """Something that deserves a look.

    :ivar kind: "nonfinite", "spike", "slow", "ended", "error", "missing", "silent" or "lost".
    :ivar text: a sentence.
    :ivar metric: the one that shows it; None where none does.
    :ivar rank: the one that had it; None where none had it alone.
    :ivar step: where it begins; None where it has no step.
    :ivar span: the steps to look at, the first and the last.
    :ivar weight: the more, the worse.
    """

    kind: str
    text: str
    metric: str | None = None
    rank: int | None = None
    step: int | None = None
    span: tuple[int, int] | None = None
    weight: float = 0.0


class Looked(Protocol):
    """What findings are found in: a run."""

    def told(self) -> dict[str, Any]: ...

    def metric_names(self) -> list[str]: ...

    def is_of_validations(self, metric: str) -> bool: ...

    def picture(self, metric: str, *, x: Any, span: tuple[int, int], ranks: Any) -> Picture: ...

    def pictures(self, metrics: Sequence[str]) -> list[Picture]: ...

    def heat(self) -> Heat: ...


def findings_of(run: Looked) -> list[Finding]:
    """See :meth:`Looks.findings`."""
    overview = run.told()
    names = run.metric_names()
    chosen = [name for name in CORE_METRICS if name in names]
    chosen += [name for name in names if name not in chosen]
    pictures = [picture for picture in run.pictures(chosen[:_METRICS]) if picture.table.num_rows]
    found = [
        *_ends(overview),
        *_nonfinite(run, pictures),
        *(finding for picture in pictures for finding in _spikes(picture)),
        *_slow(run),
        *_accounts(overview),
    ]
    return sorted(found, key=lambda each: -each.weight)


def _ends(overview: dict[str, Any]) -> Iterator[Finding]:
    for attempt in overview["attempts"]:
        if attempt["status"] in ("completed", "running"):
            continue
        told = [error for error in overview["last_errors"] if error["attempt"] == attempt["attempt"]]
        why = f": {told[-1]['type']}: {told[-1]['message']}" if told else ""
        weight = 100.0 if attempt is overview["attempts"][-1] else 60.0
        yield Finding("ended", f"attempt {attempt['attempt']} {_ended(attempt['status'])}{why}", weight=weight)


def _ended(status: str) -> str:
    return {"failed": "failed", "killed": "was killed", "interrupted": "was interrupted"}.get(status, f"is {status}")


def _nonfinite(run: Looked, pictures: Sequence[Picture]) -> Iterator[Finding]:
    """Of each metric, where it first was not finite. Metrics that were not at the same steps are told together."""
    found: dict[tuple[int, int, bool], list[tuple[Picture, dict[str, int], int | None]]] = {}
    for picture in pictures:
        bad = [row for row in picture.table.to_pylist() if row["nan"] + row["posinf"] + row["neginf"]]
        if bad:
            first, rank = _first_bad(run, picture, bad[0])
            counts = {name: sum(row[name] for row in bad) for name in ("nan", "posinf", "neginf")}
            last = bad[-1]["x1"]
            recovers = any(row["count"] and row["x0"] > last for row in picture.table.to_pylist())
            found.setdefault((first, last, recovers), []).append((picture, counts, rank))
    for (first, last, recovers), told in found.items():
        picture, counts, rank = told[0]
        whole = picture.span
        of = f" on rank {rank}" if rank is not None else ""
        kinds = [f"{count:,} {word}" for name, word in _WORDS.items() if (count := counts[name])]
        until = "then it recovers" if recovers else "to the end"
        others = [each[0].metric for each in told[1:]]
        also = f"; {_listed(others)} too" if others else ""
        text = f"{picture.metric} is not finite from {picture.x} {first:,}{of} on: {', '.join(kinds)}, {until}{also}"
        weight = 80.0 if recovers else 90.0
        yield Finding("nonfinite", text, picture.metric, rank, first, _around(first, last, whole), weight)


_WORDS = {"nan": "NaN", "posinf": "inf", "neginf": "-inf"}


def _listed(names: Sequence[str], most: int = 3) -> str:
    shown = list(names[:most]) + ([f"{len(names) - most} more"] if len(names) > most else [])
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _first_bad(run: Looked, picture: Picture, bucket: dict[str, Any]) -> tuple[int, int | None]:
    """Returns the step and the rank of the first value of a bucket that is not finite."""
    low, high = bucket["x0"], bucket["x1"]
    if run.is_of_validations(picture.metric):
        return low, None
    rank = None
    while True:
        closer = run.picture(picture.metric, x=picture.x, span=(low, high), ranks="each")
        rows = [row for row in closer.table.to_pylist() if row["nan"] + row["posinf"] + row["neginf"]]
        if not rows:  # a live run, whose files have moved on
            return low, rank
        first = min(rows, key=lambda row: (row["x0"], row["rank"]))
        low, rank = max(first["x0"], low), first["rank"]
        if first["x0"] == first["x1"] or (low, min(first["x1"], high)) == (low, high):
            return low, rank
        high = min(first["x1"], high)


@dataclass(frozen=True)
class Spike:
    """A value far outside of the band around it.

    :ivar away: how far outside, over the width of the band.
    """

    away: float
    value: float
    step: int
    rank: int


def spikes_of(picture: Picture) -> list[Spike]:
    """Returns the values far outside of the band around them, the farthest first. The band is that of nearly all values
    of the buckets around, so that neither a slope nor a single rank makes a spike."""
    rows = [row for row in picture.table.to_pylist() if row["mean"] is not None]
    found: list[Spike] = []
    if len(rows) < _LEAST_BUCKETS:
        return found
    for begin in range(0, len(rows), _BLOCK):
        around = rows[max(begin - _BLOCK, 0) : begin + 2 * _BLOCK]
        low = _quantile([row["min"] for row in around], 0.1)
        high = _quantile([row["max"] for row in around], 0.9)
        middle = abs(low / 2 + high / 2)
        width = max(high - low, _FLAT * middle, 1e-300)
        for row in rows[begin : begin + _BLOCK]:
            if (away := (row["max"] - high) / width) > _AWAY:
                found.append(Spike(away, row["max"], row["argmax"], row["rank_max"]))
            if (away := (low - row["min"]) / width) > _AWAY:
                found.append(Spike(away, row["min"], row["argmin"], row["rank_min"]))
    return sorted(found, key=lambda each: -each.away)


def _spikes(picture: Picture) -> Iterator[Finding]:
    """The farthest spikes of a metric."""
    found = spikes_of(picture)
    ranks = set(picture.table["rank_max"].to_pylist()) - {None}
    more = len(found) - _SPIKES
    for number, each in enumerate(found[:_SPIKES]):
        of = f" of rank {each.rank}" if len(ranks) > 1 else ""
        text = f"{picture.metric} {each.value:.6g} in one record{of}, {each.away:,.0f} times the band's width away"
        if number == _SPIKES - 1 and more > 0:
            text += f"; {more:,} more such places"
        weight = 40.0 + min(math.log10(each.away), 10.0) - 5 * number - (0 if picture.metric == "loss" else 10)
        span = _around(each.step, each.step, picture.span)
        yield Finding("spike", text, picture.metric, each.rank, each.step, span, weight)


def _quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _slow(run: Looked) -> Iterator[Finding]:
    """Stretches over which a rank took longer than the others."""
    heat = run.heat()
    rows: dict[int, list[dict[str, Any]]] = {}
    for row in heat.table.to_pylist():
        rows.setdefault(row["rank"], []).append(row)
    if len(rows) < 2:
        return
    for rank, mine in rows.items():
        slow = [row for row in mine if row["ratio"] is not None and row["ratio"] >= _SLOW]
        if len(slow) < max(_SLOW_SHARE * len(mine), 2):
            continue
        episode = max(_episodes(mine), key=lambda each: sum(row["mean"] * (1 - 1 / row["ratio"]) for row in each))
        low, high = max(episode[0]["x0"], heat.span[0]), min(episode[-1]["x1"], heat.span[1])
        steps = high - low + 1
        ratio = sum(row["ratio"] for row in episode) / len(episode)
        excess_s = sum(row["mean"] * (1 - 1 / row["ratio"]) for row in episode) / len(episode)
        waited_s = excess_s * steps * (len(rows) - 1)
        text = (
            f"rank {rank} took {ratio:.2f} times the others' {heat.metric} for {steps:,} steps: "
            f"{_duration(waited_s)} of the others' waiting"
        )
        weight = 50.0 + min(ratio, 9.0) + math.log10(steps)
        yield Finding("slow", text, heat.metric, rank, low, (low, high), weight)


def _episodes(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Stretches of slow buckets; one bucket that is not slow interrupts none."""
    found: list[list[dict[str, Any]]] = []
    last = -9
    for at, row in enumerate(rows):
        if row["ratio"] is not None and row["ratio"] >= _SLOW:
            if at - last > 2:
                found.append([])
            found[-1].append(row)
            last = at
    return found


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _accounts(overview: dict[str, Any]) -> Iterator[Finding]:
    """What is missing, silent, or was lost."""
    if overview["missing"]:
        text = f"never came: {_ranks(overview['missing'])} of the world"
        yield Finding("missing", text, weight=70.0)
    for each in overview["silent"]:
        yield Finding("silent", f"rank {each['rank']} on {each['host']} is silent", rank=each["rank"], weight=75.0)
    for each in overview["stopped_early"]:
        text = f"rank {each['rank']} ({each['status']}) stopped at step {each['last_step']:,}, others at "
        text += f"{each['furthest_step']:,}"
        yield Finding("ended", text, rank=each["rank"], step=each["last_step"], weight=65.0)
    if overview["lost"]:
        count = sum(overview["lost"].values())
        yield Finding("lost", f"{count:,} records are in no file: {_listed(list(overview['lost']))}", weight=85.0)
    if overview["unresolved"]:
        count = sum(overview["unresolved"].values())
        yield Finding("lost", f"{count:,} values never came from the GPU", weight=30.0)
    if overview["errors"]:
        count = overview["errors"]
        last = overview["last_errors"][-1] if overview["last_errors"] else None
        what = f", the last {last['type']}: {last['message']}" if last else ""
        yield Finding("error", f"{count:,} error{'s' if count > 1 else ''}{what}", weight=45.0)


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {_listed(list(map(str, ranks)))}"


def _around(low: int, high: int, whole: tuple[int, int]) -> tuple[int, int]:
    return max(low - _AROUND, whole[0]), min(high + _AROUND, whole[1])
