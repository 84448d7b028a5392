"""What deserves a look in a run: found in its pictures, its events and its accounts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

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
_NEAR = 3
"""Buckets before and behind a spike, of which one must be in the band."""
_SLOW = 0.15
"""What a slow rank takes longer than the others, at least,"""
_NOISE = 5.0
"""and so many times the noise."""
_SLOW_SHARE = 0.01
"""The share of the buckets over which it must be, one after another."""
_WORTH = 0.005
"""The share of a rank's time that the others must have waited together."""
_AROUND = 100
"""Records before and behind a single one that are shown."""
_MESSAGE = 200
"""Characters of an error's message."""


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

    def picture(self, metric: str, *, x: Any, span: tuple[int, int], width: int, ranks: Any) -> Picture: ...

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
        why = f": {_error(told[-1])}" if told else ""
        weight = 100.0 if attempt is overview["attempts"][-1] else 60.0
        yield Finding("ended", f"attempt {attempt['attempt']} {_ended(attempt['status'])}{why}", weight=weight)


def _ended(status: str) -> str:
    return {"failed": "failed", "killed": "was killed", "interrupted": "was interrupted"}.get(status, f"is {status}")


def _error(error: dict[str, Any]) -> str:
    """Its type, and the first line of what it says."""
    message = str(error["message"] or "").strip().partition("\n")[0]
    shown = message if len(message) <= _MESSAGE else f"{message[: _MESSAGE - 3]}..."
    return f"{error['type']}: {shown}" if shown else str(error["type"])


class _Bad(NamedTuple):
    """Where a metric is not finite."""

    metric: str
    x: str
    counts: dict[str, int]
    values: int
    ranks: list[int]
    world: int
    whole: tuple[int, int]
    stride: int


_WORDS = {"nan": "NaN", "posinf": "inf", "neginf": "-inf"}


def _nonfinite(run: Looked, pictures: Sequence[Picture]) -> Iterator[Finding]:
    """Of each metric, where it is not finite. Metrics that are so at the same steps are told together."""
    found: dict[tuple[int, int, bool, bool], list[_Bad]] = {}
    for picture in pictures:
        rows = picture.table.to_pylist()
        bad = [row for row in rows if _count_bad(row)]
        if not bad:
            continue
        last = bad[-1]["x1"]
        recovers = any(row["count"] and row["x0"] > last for row in rows)
        between = [row for row in rows if bad[0]["x0"] < row["x0"] < last]
        holds = all(_count_bad(row) or not row["count"] for row in between)
        ranks, world, first = _where(run, picture, bad[0])
        counts = {name: sum(row[name] for row in bad) for name in _WORDS}
        values = sum(row["count"] + _count_bad(row) for row in rows)
        told = _Bad(picture.metric, picture.x, counts, values, ranks, world, picture.span, _stride(picture))
        found.setdefault((first, last, recovers, holds), []).append(told)
    for (first, last, recovers, holds), each in found.items():
        yield _of_bad(first, last, each, recovers=recovers, holds=holds)


def _of_bad(first: int, last: int, found: list[_Bad], *, recovers: bool, holds: bool) -> Finding:
    told = found[0]
    of = ""
    if told.world > 1 and told.ranks:
        of = f", on rank {told.ranks[0]}" if len(told.ranks) == 1 else f", on {len(told.ranks)} ranks"
    kinds = ", ".join(f"{count:,} {word}" for name, word in _WORDS.items() if (count := told.counts[name]))
    also = f"; {_listed([each.metric for each in found[1:]])} too" if found[1:] else ""
    if holds:
        until = "then it recovers" if recovers else "to the end"
        text = f"{told.metric} is not finite from {told.x} {first:,} on{of}: {kinds}, {until}{also}"
    else:
        often = f"{kinds} of {told.values:,}"
        text = f"{told.metric} is not finite now and then, first at {told.x} {first:,}{of}: {often}{also}"
    rank = told.ranks[0] if len(told.ranks) == 1 else None
    span = _around(first, min(last, told.whole[1]) if holds else first, told.whole, told.stride)
    return Finding("nonfinite", text, told.metric, rank, first, span, 80.0 if recovers else 90.0)


def _count_bad(row: dict[str, Any]) -> int:
    return int(row["nan"] + row["posinf"] + row["neginf"])


def _stride(picture: Picture) -> int:
    """About how many steps lie from one record of a rank to the next."""
    ranks = max(len(set(picture.table["rank_max"].to_pylist()) - {None}), 1)
    return max((picture.span[1] - picture.span[0]) * ranks // max(picture.account["records"], 1), 1)


def _listed(names: Sequence[str], most: int = 3) -> str:
    shown = list(names[:most]) + ([f"{len(names) - most} more"] if len(names) > most else [])
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _where(run: Looked, picture: Picture, bucket: dict[str, Any]) -> tuple[list[int], int, int]:
    """Returns the ranks that have such values at all, of how many ranks, and the step of the first in a bucket."""
    low, high = bucket["x0"], bucket["x1"]
    if run.is_of_validations(picture.metric):
        return [], 1, low
    whole = run.picture(picture.metric, x=picture.x, span=picture.span, width=1, ranks="each").table.to_pylist()
    ranks = sorted({row["rank"] for row in whole if _count_bad(row)})
    while low < high:
        closer = run.picture(picture.metric, x=picture.x, span=(low, high), width=1500, ranks="each")
        rows = [row for row in closer.table.to_pylist() if _count_bad(row)]
        if not rows:  # a live run, whose files have moved on
            break
        first = min(rows, key=lambda row: (row["x0"], row["rank"]))
        ends = max(first["x0"], low), min(first["x1"], high)
        if ends == (low, high):
            break
        low, high = ends
    return ranks, len({row["rank"] for row in whole}), low


@dataclass(frozen=True)
class Spike:
    """A value far outside of the band around it.

    :ivar away: how far outside, over the width of the band.
    :ivar around: the value that all others around have; None where they differ.
    """

    away: float
    value: float
    step: int
    rank: int
    around: float | None


def spikes_of(picture: Picture) -> list[Spike]:
    """Returns the values far outside of the band around them, the farthest first. The band is that of nearly all values
    of the buckets around, so that neither a slope nor a single rank makes a spike; and the values must come back into
    it on both sides, so that neither a new level nor the beginning of a run does."""
    rows = [row for row in picture.table.to_pylist() if row["mean"] is not None]
    found: list[Spike] = []
    if len(rows) < _LEAST_BUCKETS:
        return found
    for begin in range(0, len(rows), _BLOCK):
        around = rows[max(begin - _BLOCK, 0) : begin + 2 * _BLOCK]
        low = _quantile([row["min"] for row in around], 0.1)
        high = _quantile([row["max"] for row in around], 0.9)
        width = max(high - low, _FLAT * abs(low / 2 + high / 2))
        flat = low if low == high else None
        for at in range(begin, min(begin + _BLOCK, len(rows))):
            row = rows[at]
            for value, step, rank, beyond in (
                (row["max"], row["argmax"], row["rank_max"], row["max"] - high),
                (row["min"], row["argmin"], row["rank_min"], low - row["min"]),
            ):
                away = beyond / width if width else math.inf if beyond > 0 else 0.0
                if away > _AWAY and _comes_back(rows, at, low, high, width):
                    found.append(Spike(away, value, step, rank, flat))
    return sorted(found, key=lambda each: -each.away)


def _comes_back(rows: list[dict[str, Any]], at: int, low: float, high: float, width: float) -> bool:
    """Whether there is a bucket near the band shortly before this one, and shortly behind."""

    def is_near(row: dict[str, Any]) -> bool:
        return bool(row["max"] <= high + width and row["min"] >= low - width)

    before, behind = rows[max(at - _NEAR, 0) : at], rows[at + 1 : at + 1 + _NEAR]
    return any(map(is_near, before)) and any(map(is_near, behind))


def _spikes(picture: Picture) -> Iterator[Finding]:
    """The farthest spikes of a metric."""
    found = spikes_of(picture)
    ranks = set(picture.table["rank_max"].to_pylist()) - {None}
    more = len(found) - _SPIKES
    for number, each in enumerate(found[:_SPIKES]):
        of = f" of rank {each.rank}" if len(ranks) > 1 else ""
        text = f"{picture.metric} {each.value:.6g} at {picture.x} {each.step:,}{of}, "
        if each.around is not None:
            text += f"and {each.around:.6g} around it"
        else:
            text += f"{each.away:,.0f} times the band's width away"
        if number == _SPIKES - 1 and more > 0:
            text += f"; {more:,} more such place{'s' if more > 1 else ''}"
        weight = 40.0 + min(math.log10(each.away), 10.0) - 5 * number - (0 if picture.metric == "loss" else 10)
        span = _around(each.step, each.step, picture.span, _stride(picture))
        yield Finding("spike", text, picture.metric, each.rank, each.step, span, weight)


def _quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


class _Slow(NamedTuple):
    """A bucket in which a rank is compared with the others."""

    x0: int
    x1: int
    ratio: float
    waited_s: float
    """What the others wait for it, together."""
    records: int


def _slow(run: Looked) -> Iterator[Finding]:
    """Stretches over which a rank took longer than the others, by more than their own noise, and held them up for a
    share of the run that is worth a look."""
    heat = run.heat()
    rows: dict[int, list[dict[str, Any]]] = {}
    for row in heat.table.to_pylist():
        rows.setdefault(row["rank"], []).append(row)
    if len(rows) < 2:
        return
    compared = {rank: list(_compared(rank, rows)) for rank in rows}
    least = 1 + max(_SLOW, _NOISE * _noise(compared.values()))
    spent_s = max(sum(row["mean"] * row["count"] for row in mine if row["mean"] is not None) for mine in rows.values())
    for rank, mine in compared.items():
        for episode in _episodes(mine, least):
            waited_s = sum(each.waited_s for each in episode)
            if len(episode) < max(_SLOW_SHARE * len(mine), 3) or waited_s < _WORTH * spent_s:
                continue
            low, high = max(episode[0].x0, heat.span[0]), min(episode[-1].x1, heat.span[1])
            ratio = math.fsum(each.ratio for each in episode) / len(episode)
            records = sum(each.records for each in episode)
            text = (
                f"rank {rank} took {ratio:.2f} times the others' {heat.metric} for {records:,} records: "
                f"{_duration(waited_s)} of the others' waiting"
            )
            weight = 50.0 + min(ratio, 9.0) + min(10.0, 100 * waited_s / spent_s)
            yield Finding("slow", text, heat.metric, rank, low, (low, high), weight)


def _noise(compared: Iterable[list[_Slow | None]]) -> float:
    """What half of all buckets lie away from the usual one of their rank, at least."""
    distances: list[float] = []
    for mine in compared:
        ratios = [each.ratio for each in mine if each is not None]
        usual = statistics.median(ratios) if ratios else 0.0
        distances += [abs(ratio - usual) for ratio in ratios]
    return statistics.median(distances) if distances else 0.0


def _compared(rank: int, rows: dict[int, list[dict[str, Any]]]) -> Iterator[_Slow | None]:
    """Each bucket of a rank beside those of the others; None where it or all of them have none."""
    for at, row in enumerate(rows[rank]):
        others = [mine[at]["mean"] for other, mine in rows.items() if other != rank and mine[at]["mean"] is not None]
        typical = statistics.median(others) if others else 0.0
        if row["mean"] is None or not typical > 0 or not math.isfinite(row["mean"] / typical):
            yield None
            continue
        waited_s = sum(max(row["mean"] - other, 0.0) for other in others) * row["count"]
        yield _Slow(row["x0"], row["x1"], row["mean"] / typical, waited_s, row["count"])


def _episodes(rows: list[_Slow | None], least: float) -> list[list[_Slow]]:
    """Stretches of slow buckets; one bucket that is not slow interrupts none."""
    found: list[list[_Slow]] = []
    last = -9
    for at, row in enumerate(rows):
        if row is not None and row.ratio >= least:
            if at - last > 2:
                found.append([])
            found[-1].append(row)
            last = at
    return found


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


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
        ended = {row["attempt"] for row in overview["attempts"] if row["status"] not in ("completed", "running")}
        # That of an attempt which did not complete is told with its end.
        what = f", the last {_error(last)}" if last and last["attempt"] not in ended else ""
        yield Finding("error", f"{count:,} error{'s' if count > 1 else ''}{what}", weight=45.0)


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {_listed(list(map(str, ranks)))}"


def _around(low: int, high: int, whole: tuple[int, int], stride: int) -> tuple[int, int]:
    return max(low - _AROUND * stride, whole[0]), min(high + _AROUND * stride, whole[1])
