"""Gathers what the page of a run shows: facts, as JSON, and pictures, as columns of numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from ..pictures import Picture
from ..reader import Run
from ..reader.findings import Finding, spikes_of
from ..reader.story import settings_of
from ..records import TIMES
from .wire import Planes, clock_planes, heat_planes, picture_planes

FIRST_COLUMNS = ("loss", "gradient_norm", "batch_time", "data_time", "accuracy", "learning_rate")
_MARKS = 5
_EVENTS = 200
_ERRORS = 100
_DETAILS = 6
"""Metrics of which a report has each value around a finding."""


def page_of(
    run: Run,
    planes: Planes,
    *,
    metrics: Sequence[str] | None = None,
    width: int = 750,
    each: bool = False,
    details: bool = True,
    anonymous: bool = False,
) -> dict[str, Any]:
    """Returns the facts of a run, whose pictures are added to `planes`.

    :param metrics: those to show; None for all.
    :param width: buckets of a picture at least.
    :param each: each rank alone too.
    :param details: with each value around what is found.
    :param anonymous: numbers, steps, names of metrics and types of errors, and no other text.
    :raises ValueError: there is no such metric.
    """
    names = _in_order(run.metric_names() if metrics is None else metrics)
    overview, findings = run.told(), run.findings()
    pictures = {picture.metric: picture for picture in run.pictures(names, width=width)}
    first = next((pictures[name] for name in names if not run.is_of_validations(name)), None)
    charts = [_chart(pictures[name], planes, run.is_of_validations(name)) for name in names]
    if each:
        for chart, picture in zip(charts, run.pictures(names, width=max(width // 4, 1), ranks="each"), strict=True):
            chart["each"] = {"shift": picture.shift, "series": picture_planes(picture, planes)}
    heat = run.heat(width=max(min(width, 300), 1))
    page: dict[str, Any] = {
        "name": overview["name"],
        "status": overview["status"],
        "taken": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "x": first.x if first is not None else "step",
        "span": list(first.span) if first is not None else [0, 0],
        "shift": first.shift if first is not None else 0,
        "notes": list(first.notes) if first is not None else [],
        "kpis": _kpis(run, overview, pictures),
        "attempts": _attempts(run, overview),
        "findings": [_finding(each) for each in findings],
        "charts": charts,
        "heat": heat_planes(heat, planes),
        "ranks": _ranks(overview, heat),
        "account": _account(overview, first),
        "clock": _clock(run, first, width, planes),
        "details": _details(run, findings, names, planes) if details else [],
        "events": _events(run, first),
        "errors": _errors(run),
        "config": [[name, _shown(value)] for name, value in settings_of(overview["config"]).items()],
        "changes": [[name, _shown(a), _shown(b)] for name, (a, b) in overview["config_changes"].items()],
        "provenance": _provenance(run.summary),
    }
    return _without_texts(page) if anonymous else page


def _in_order(names: Sequence[str]) -> list[str]:
    first = [name for name in FIRST_COLUMNS if name in names]
    return first + [name for name in names if name not in first]


def _chart(picture: Picture, planes: Planes, is_validation: bool) -> dict[str, Any]:
    spikes = spikes_of(picture)
    return {
        "metric": picture.metric,
        "shift": picture.shift,
        "validation": is_validation,
        "x": picture.x,
        "span": list(picture.span),
        "series": picture_planes(picture, planes),
        "marks": [{"value": each.value, "step": each.step, "rank": each.rank} for each in spikes[:_MARKS]],
        "more": max(len(spikes) - _MARKS, 0),
        "records": picture.account["records"],
    }


def _clock(run: Run, first: Picture | None, width: int, planes: Planes) -> dict[str, Any] | None:
    """The times of the buckets of every chart: these lie on the same steps."""
    if first is None or first.x != "step" or not first.table.num_rows:
        return None
    picture = run.picture(first.metric, x="time", width=width)
    return {**clock_planes(picture, planes), "shift": picture.shift, "first": picture.table["x0"][0].as_py()}


def _details(run: Run, findings: Sequence[Finding], names: Sequence[str], planes: Planes) -> list[dict[str, Any]]:
    found = []
    for finding in findings[:_DETAILS]:
        if finding.span is None or finding.span[1] - finding.span[0] > 1000:
            continue
        own = [name for name in names if name == finding.metric]
        wanted = [name for name in dict.fromkeys([*own, *names]) if not run.is_of_validations(name)][:_DETAILS]
        pictures = run.pictures(wanted, span=finding.span, width=8192) if wanted else []
        charts = [
            {"metric": each.metric, "shift": each.shift, "series": picture_planes(each, planes)} for each in pictures
        ]
        found.append({"span": list(finding.span), "charts": charts})
    return found


def _kpis(run: Run, overview: Mapping[str, Any], pictures: Mapping[str, Picture]) -> list[dict[str, Any]]:
    told = overview["metrics"]
    found = []
    if "loss" in told:
        low = _lowest(pictures.get("loss"))
        note = f"lowest {_number(low[0])} at {pictures['loss'].x} {low[1]:,}" if low else None
        found.append(_kpi("loss, last", _number(told["loss"]["last"]), note))
    steps = max((row["last_step"] for row in overview["ranks"] if row["last_step"] is not None), default=None)
    epoch = _mapping(run.summary.get("last")).get("epoch")
    found.append(
        _kpi("last step", "–" if steps is None else f"{steps:,}", f"epoch {epoch:,}" if type(epoch) is int else None)
    )
    time = next((name for name in TIMES if name in told and told[name]["count"]), None)
    if time is not None:
        data = told.get("data_time", {}).get("mean")
        share = f"data {data / told[time]['mean']:.1%}" if data and time != "data_time" and told[time]["mean"] else None
        found.append(_kpi(f"{time}, mean", _seconds(told[time]["mean"]), share))
    lost = sum(overview["lost"].values())
    found.append(_kpi("records", f"{overview['records']:,}", f"{lost:,} lost", "bad" if lost else None))
    bad = sum(each[name] for each in told.values() for name in ("nan", "posinf", "neginf"))
    first = min(
        (each["first_nonfinite"] for each in told.values() if each["first_nonfinite"]),
        key=lambda at: str(at["timestamp"]),
        default=None,
    )
    where = f"first on rank {first['rank']}" if first and len(overview["ranks"]) > 1 else None
    found.append(_kpi("not finite", f"{bad:,}", where, "nan" if bad else None))
    cost = _mapping(run.summary.get("overhead"))
    if isinstance(cost.get("calls_share"), float):
        call = f"{_seconds(cost['call_s'])} a call" if isinstance(cost.get("call_s"), float) else None
        found.append(_kpi("cost of logging", f"{cost['calls_share']:.2%}", call))
    return found


def _kpi(label: str, value: str, note: str | None = None, tone: str | None = None) -> dict[str, Any]:
    return {"label": label, "value": value, "note": note, "tone": tone}


def _lowest(picture: Picture | None) -> tuple[float, int] | None:
    if picture is None:
        return None
    rows = [row for row in picture.table.to_pylist() if row["min"] is not None]
    lowest = min(rows, key=lambda row: row["min"], default=None)
    return None if lowest is None else (lowest["min"], lowest["argmin"])


def _attempts(run: Run, overview: Mapping[str, Any]) -> list[dict[str, Any]]:
    spans = run.attempt_spans()
    return [
        {
            "attempt": row["attempt"],
            "status": row["status"],
            "ranks": row["ranks"],
            "hosts": row["hosts"],
            "started": _time(row["started"]),
            "records": row["records"],
            "span": spans.get(row["attempt"]),
            "from": [row["resumed_from_attempt"], row["resumed_from_step"]],
        }
        for row in overview["attempts"]
    ]


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "text": finding.text,
        "metric": finding.metric,
        "rank": finding.rank,
        "step": finding.step,
        "span": list(finding.span) if finding.span else None,
    }


def _ranks(overview: Mapping[str, Any], heat: Any) -> list[dict[str, Any]]:
    ratios: dict[int, list[float]] = {}
    for rank, ratio in zip(heat.table["rank"].to_pylist(), heat.table["ratio"].to_pylist(), strict=True):
        if ratio is not None:
            ratios.setdefault(rank, []).append(ratio)
    return [
        {
            "rank": row["rank"],
            "host": row["host"],
            "status": row["status"],
            "records": row["records"],
            "last_step": row["last_step"],
            "ratio": math.fsum(ratios[row["rank"]]) / len(ratios[row["rank"]]) if ratios.get(row["rank"]) else None,
        }
        for row in overview["ranks"]
    ]


def _account(overview: Mapping[str, Any], first: Picture | None) -> dict[str, Any]:
    shown = first.account if first is not None else {"records": 0, "rows": 0}
    return {"shown": shown["records"], "rows": shown["rows"], "lost": dict(overview["lost"])}


def _events(run: Run, first: Picture | None) -> list[dict[str, Any]]:
    """What happened at a step: the user's events, epochs, validations, errors."""
    found = []
    for line in run.event_lines():
        step = line.get("step")
        if type(step) is not int or first is None or first.x != "step":
            continue
        kind = "own" if line.get("user_event") is True else line["event"]
        found.append({"step": step, "kind": kind, "text": line["event"], "rank": line["rank"]})
    errors = [each for each in found if each["kind"] == "error"]
    others = [each for each in found if each["kind"] != "error" and each["rank"] == 0]
    return (errors + others)[:_EVENTS]


def _errors(run: Run) -> list[dict[str, Any]]:
    rows = [line for line in run.event_lines() if line["event"] == "error" and line.get("user_event") is not True]
    return [
        {
            "attempt": line["attempt"],
            "rank": line["rank"],
            "time": _time(line["timestamp"]),
            "severity": _text(line.get("level")),
            "type": _text(line.get("type")),
            "message": _text(line.get("message")),
            "operation": _text(line.get("operation")),
            "step": line.get("step") if type(line.get("step")) is int else None,
            "trace": _text(line.get("traceback")),
        }
        for line in rows[-_ERRORS:]
    ]


def _provenance(summary: Mapping[str, Any]) -> list[list[str]]:
    told = summary.get("provenance")
    if not isinstance(told, dict):
        return []
    return [[name, _shown(value)] for name, value in settings_of(told).items() if value is not None]


def _without_texts(page: dict[str, Any]) -> dict[str, Any]:
    """Numbers, steps, names of metrics, statuses and types of errors: all that an anonymous page has."""
    kept = {
        name: page[name]
        for name in ("status", "x", "span", "shift", "notes", "kpis", "charts", "heat", "account", "clock", "details")
    }
    kept |= {"name": "run", "taken": None, "config": [], "changes": [], "provenance": []}
    kept["attempts"] = [{**each, "hosts": [], "started": None} for each in page["attempts"]]
    kept["findings"] = [
        {**each, "text": _KINDS.get(each["kind"], each["kind"]) if each["kind"] in _WITH_TEXT else each["text"]}
        for each in page["findings"]
    ]
    kept["ranks"] = [{**each, "host": None} for each in page["ranks"]]
    kept["events"] = [{**each, "text": "event"} if each["kind"] == "own" else each for each in page["events"]]
    kept["errors"] = [
        {**each, "message": None, "operation": None, "trace": None, "time": None} for each in page["errors"]
    ]
    return kept


_WITH_TEXT = ("ended", "error", "silent")
_KINDS = {"ended": "an attempt did not complete", "error": "there were errors", "silent": "a rank is silent"}


def _mapping(value: Any) -> Mapping[str, Any]:
    """What should be a mapping, of a file that may say anything."""
    return value if isinstance(value, dict) else {}


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")


def _text(value: Any, most: int = 20_000) -> str | None:
    return str(value)[:most] if value is not None else None


def _shown(value: Any) -> str:
    return (f"{value:.6g}" if isinstance(value, float) else str(value))[:2000]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _seconds(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"
