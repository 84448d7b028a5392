"""The results of a run of the benchmarks, for people: pytest-benchmark's JSON into a smaller one and a page.

report.py RAW.json results/NAME
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Figures = dict[str, dict[str, Any]]
"""By benchmark, such as `bench_call[3.12]`."""

CAVEATS = """\
- One run of one machine, which may have done other things: trust ratios within the run, and single figures less.
- Every run of a program is a process of its own. Figures are medians over the runs; what is compared ran in turn.
- "CPU a record" is what the whole process took, all threads, Python's loop over the values included, less a process
  that only imports the package and makes the values. At full speed the ring is always full, and the call waits.
- Values are random float64 with all their digits, the slowest to format and to compress."""


@dataclass(frozen=True)
class Goal:
    """A line of the table of goals."""

    what: str
    value: Callable[[Figures], float]
    bar: float
    moonshot: float
    unit: str = ""
    at_least: bool = False

    def row(self, figures: Figures) -> str:
        try:
            value = self.value(figures)
        except KeyError as missing:
            return f"| {self.what} | not measured ({missing.args[0]}) | | | |"
        sign = "≥" if self.at_least else "≤"

        def holds(limit: float) -> bool:
            return value >= limit if self.at_least else value <= limit

        verdict = "moonshot" if holds(self.moonshot) else "met" if holds(self.bar) else "**missed**"
        cells = (self.what, f"{value:.4g}{self.unit}", f"{sign} {self.bar:g}", f"{sign} {self.moonshot:g}", verdict)
        return row(cells)


def row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    names = list(head)
    return "\n".join([row(names), row("---" for _ in names), *(row(cells) for cells in rows)])


def call_goals(version: str) -> list[Goal]:
    """Of the call, on one version of Python."""
    name = f"bench_call[{version}]"
    bar, moonshot = (1.15, 1.0) if version in ("3.10", "3.11") else (1.35, 1.1)
    p999_us = _of(name, "contended", "log", "p99.9_ns", scale=1e-3)
    return [
        Goal(f"{version}: the call over an empty Python method", _of(name, "ratio"), bar, moonshot),
        Goal(f"{version}: the same with 3 more metrics", _of(name, "ratio_with_extras"), 1.7, 1.3),
        Goal(f"{version}: p99.9 of the call, another thread busy", p999_us, 2, 1, " µs"),
        Goal(f"{version}: of a million, calls over 1 ms beyond the empty method's", _excess(name), 10, 0),
    ]


def goals(figures: Figures) -> list[Goal]:
    a_second = _of("bench_record", "million_records_a_second")
    loop = _of("bench_slowdown[1-100]", "ratio")
    memory_mb = _of("bench_memory", "growth_bytes", scale=1e-6)
    return [
        *(goal for version in calls(figures) for goal in call_goals(version)),
        Goal("user CPU a record, text + JSONL + Parquet", _of("bench_record", "user_us"), 0.8, 0.5, " µs"),
        Goal("CPU a record, system time too", _of("bench_record", "cpu_us"), 1.2, 0.7, " µs"),
        Goal("million records a second, sustained", a_second, 1.0, 2.0, at_least=True),
        Goal("GIL-held share of the background's CPU time", _of("bench_gil", "share", scale=100), 3, 0.5, " %"),
        Goal("a loop of 1 ms steps, logged, over the same without", loop, 1.002, 1.0005),
        Goal("Parquet bytes a row", _of("bench_record", "bytes_a_record", "parquet"), 44, 38),
        Goal("`import advlog_fast`", _of("bench_import", "import_ms"), 40, 20, " ms"),
        Goal("a push from C, clock included", _of("bench_ring[push]", "ns"), 40, 25, " ns"),
        Goal("resident memory, records 99-100 million over 1-2 million", memory_mb, 8, 0, " MB"),
    ]


def _of(name: str, *path: str, scale: float = 1.0) -> Callable[[Figures], float]:
    def value(figures: Figures) -> float:
        found: Any = figures[name]
        for each in path:
            found = found[each]
        return float(found) * scale

    return value


def _excess(name: str) -> Callable[[Figures], float]:
    def value(figures: Figures) -> float:
        log, empty = (figures[name]["contended"][who] for who in ("log", "empty"))
        return float(log["over_1_ms"] / log["calls"] - empty["over_1_ms"] / empty["calls"]) * 1e6

    return value


def calls(figures: Figures) -> list[str]:
    """The versions of Python that the call was measured on."""
    found = [name.removeprefix("bench_call[").removesuffix("]") for name in figures if name.startswith("bench_call[")]
    return sorted(found, key=lambda version: [int(part) for part in version.split(".")])


def page(machine: dict[str, Any], date: str, figures: Figures) -> str:
    head = ["what", "seen", "bar", "moonshot", ""]
    rows = [goal.row(figures) for goal in goals(figures)]
    parts = [
        "# Benchmark results",
        f"{date}: " + ", ".join(f"{name} {value}" for name, value in machine.items()),
        CAVEATS,
    ]
    if not all("| not measured" in each for each in rows):  # else: a run of some benchmarks that have none
        parts += ["## Goals", "\n".join([table(head, []), *rows])]
    parts += [
        part
        for section in (
            _calls,
            _mapping,
            _core,
            _sinks,
            _steps,
            _follow,
            _hung_sink,
            _sampler,
            _gpu,
            _many_rows,
            _integrations,
            _peers,
        )
        for part in section(figures)
    ]
    return "\n\n".join(parts) + "\n"


def _calls(figures: Figures) -> Iterable[str]:
    versions = calls(figures)
    if not versions:
        return
    yield "## The call, ns"
    rows: list[list[object]] = []
    for version in versions:
        found = figures[f"bench_call[{version}]"]
        for who in ("empty", "log", "cffi"):
            alone, contended = found["alone"][who], found["contended"][who]
            quantiles = [
                f"{of[q]:.0f}" for of in (alone, contended) for q in ("p50_ns", "p99_ns", "p99.9_ns", "max_ns")
            ]
            rows.append([version, who, f"{found['call_ns'][who]:.1f}", *quantiles])
    names = ["p50", "p99", "p99.9", "max"]
    yield table(["Python", "method", "in a burst", *names, *(f"{name}, busy" for name in names)], rows)
    clock = figures[f"bench_call[{versions[0]}]"]["clock_ns"]
    yield (
        "In a burst: a call of many timed as one, the loop taken off. The others: each call between two reads of a "
        f"clock, which take {clock:.0f} ns of it; busy: while another Python thread never rests. cffi: the same record "
        "pushed through cffi, which lets go of the GIL in each call."
    )


def _core(figures: Figures) -> Iterable[str]:
    names = [name for name in figures if name.startswith(("bench_ring[", "bench_formatter[", "bench_python["))]
    if names:
        yield "## The C core, and Python's own"
        yield table(
            ["what", "ns", "instructions"],
            (
                [_case(name), f"{figures[name]['ns']:.1f}", f"{figures[name].get('instructions', math.nan):.0f}"]
                for name in names
            ),
        )


def _case(name: str) -> str:
    """What stands in the brackets."""
    return name.partition("[")[2].rstrip("]")


def _sinks(figures: Figures) -> Iterable[str]:
    names = [name for name in figures if name == "bench_record" or name.startswith("bench_sink[")]
    if names:
        keys = ("user_us", "system_us", "cpu_us", "million_records_a_second")
        yield "## Sinks, µs of CPU a record"
        yield table(
            ["sinks", "user", "system", "all", "million records/s", "bytes a record", "peak MiB"],
            (
                [
                    _case(name) or "all",
                    *(f"{figures[name][key]:.2f}" for key in keys),
                    ", ".join(f"{sink} {size:.1f}" for sink, size in figures[name]["bytes_a_record"].items()),
                    f"{figures[name]['peak_mib']:.0f}",
                ]
                for name in names
            ),
        )


def _steps(figures: Figures) -> Iterable[str]:
    names = [name for name in figures if name.startswith("bench_slowdown[")]
    if names:
        keys = ("ratio", "ratio_of_medians", "ratio_of_fastest")
        yield "## A training loop, logged every step, over the same without"
        yield table(
            ["step, ms", "median of the pairs' ratios", "ratio of the medians", "ratio of the fastest"],
            ([f"{figures[name]['step_ms']:.2f}", *(f"{figures[name][key]:.4f}" for key in keys)] for name in names),
        )


def _hung_sink(figures: Figures) -> Iterable[str]:
    found = figures.get("bench_hung_sink")
    if found:
        yield "## A sink whose write hangs"
        yield table(
            ["the call, ns", "p50", "p99.9", "max"],
            (
                [name, *(f"{found[key][q]:.0f}" for q in ("p50_ns", "p99.9_ns", "max_ns"))]
                for name, key in (
                    ("before", "before"),
                    ("it hangs, the ring has room", "with_room"),
                    ("it hangs, the ring is full", "full"),
                )
            ),
        )
        yield (
            f"It hung for {found['seconds']:.0f} s. {found['full_over_half_a_second']} call waited for room, as long "
            f"as `overflow_timeout_s` says; {found['dropped']} were refused at once, and counted. `close(timeout=2)` "
            f"came back after {found['close_s']:.2f} s, {found['pending']} records pending: a recovery writes them."
        )


def _mapping(figures: Figures) -> Iterable[str]:
    found = figures.get("bench_mapping")
    if found:
        took = found["call_ns"]
        yield "## Mappings of metrics"
        yield table(
            ["log_metrics(metrics, step=i)", "ns a call", "over keywords"],
            (
                [name, f"{ns:.0f}", f"{ratio:.2f}"]
                for name, ns, ratio in (
                    ("five metrics as keywords of `log_batch_progress`", took["keywords"], 1.0),
                    ("the five in a mapping that exists", took["mapping"], found["mapping_ratio"]),
                    (
                        "in a literal, less what making it costs",
                        took["literal"] - took["literal_alone"],
                        found["literal_ratio"],
                    ),
                    (
                        "keys made by f-strings, less what making them costs",
                        took["made_keys"] - took["made_keys_alone"],
                        found["made_keys_ratio"],
                    ),
                    ("the same with making them", took["made_keys"], found["whole_made_keys_ratio"]),
                )
            ),
        )
        yield (
            f"16 metrics: {took['sixteen']:.0f} ns. 2,000 metrics: {took['two_thousand'] / 1e3:.0f} us, in the several "
            f"records that they need. A call with a new name, once 65,535 are known: {took['name_beyond']:.0f} ns. One "
            f"with a value that is no number, again and again: {took['no_number'] / 1e3:.1f} us."
        )


def _follow(figures: Figures) -> Iterable[str]:
    found = figures.get("bench_follow")
    if found:
        followed = found["followed"]
        yield "## Following a run"
        yield (
            f"A writer at full speed, {followed['records_per_s'] / 1e6:.2f} million records a second on one core, "
            f"takes {found['over_alone']:.3f} times as long while `follow` reads it on another core; beside a process "
            f"that only counts there, {found['over_alone'] / found['over_counter']:.3f} times. The last row of a batch "
            f"comes {followed['lag_median_s']:.2f} s after its call in the median, at most "
            f"{followed['lag_max_s']:.2f} s."
        )


def _sampler(figures: Figures) -> Iterable[str]:
    found = figures.get("bench_sampler")
    if found:
        yield "## Memory samples"
        yield (
            f"One a second takes {100 * found['share_of_a_core']:.2f} % of a core, "
            f"{found['cpu_us_a_sample']:.0f} us of CPU each."
        )
    found = figures.get("bench_hung_driver")
    if found:
        quantiles = {"p50": "p50_ns", "p99": "p99_ns", "p99.9": "p99.9_ns", "max": "max_ns"}
        yield table(
            ["the call, ns, a thousand a second", *quantiles],
            (
                [name, *(f"{found[key][q]:.0f}" for q in quantiles.values())]
                for name, key in (
                    ("the GPU's driver answers", "before"),
                    (f"it hangs, for {found['seconds']:.0f} s", "hanging"),
                    ("it answers again", "after"),
                )
            ),
        )


def _gpu(figures: Figures) -> Iterable[str]:
    runs = [figures[key] for key in figures if key.startswith("bench_gpu[")]
    if runs:
        yield f"## Tensors of a GPU, {runs[0]['device']}"
        yield table(
            ["a step", "tensors logged", "how", "pace of no logging", "the call, p50", "p99"],
            (
                [
                    f"{run['ways']['nothing']['step_ms']:.2f} ms",
                    str(run["tensors"]),
                    way,
                    f"{100 * found['throughput']:.2f} %",
                    f"{found['call_us_p50']:.1f} us",
                    f"{found['call_us_p99']:.1f} us",
                ]
                for run in runs
                for way, found in run["ways"].items()
                if way != "nothing"
            ),
        )
    calls = [figures[key] for key in figures if key.startswith("bench_gpu_call[")]
    if calls:
        yield f"## A call with values on a GPU, {calls[0]['device']}"
        yield table(
            ["values", "how", "GPU idle: p50", "p99", "behind queued work: p50", "p99", "GPU's time", "first value"],
            (
                [
                    str(call["scalars"]),
                    way,
                    *(f"{found[when][at]:.1f} us" for when in ("idle_us", "queued_us") for at in ("p50", "p99")),
                    f"{call['gpu_us']:.2f} us" if way == "deferred" and call["gpu_us"] is not None else "",
                    f"{call['first_ms']:.0f} ms" if way == "deferred" else "",
                ]
                for call in calls
                for way, found in call["ways"].items()
            ),
        )


def _many_rows(figures: Figures) -> Iterable[str]:
    found = figures.get("bench_many_rows")
    if found:
        yield f"## {found['rows'] / 1e6:.0f} million rows of eight ranks"
        yield table(
            [
                "the dataset",
                "files a rank",
                "bytes a row",
                "`advlog show`",
                "million rows/s",
                "DuckDB, group by rank",
                "million rows/s",
            ],
            (
                [
                    name,
                    f"{found[key]['files_a_rank']:.0f}",
                    f"{found[key]['bytes_a_row']:.1f}",
                    f"{found[key]['show_s']:.1f} s",
                    f"{found[key]['show_million_rows_a_second']:.1f}",
                    f"{found[key]['group_by_s']:.2f} s",
                    f"{found[key]['group_by_million_rows_a_second']:.0f}",
                ]
                for name, key in (("as logged", "parts"), ("compacted", "compacted"))
            ),
        )
        yield (
            f"Logged by eight processes of one launch at {found['logged_million_rows_a_second']:.2f} million rows/s. "
            f"`advlog compact` took {found['compact_s']:.0f} s, {found['compact_million_rows_a_second']:.1f} "
            "million rows/s. `advlog show` is the whole command, its start too; DuckDB is the query alone."
        )


def _integrations(figures: Figures) -> Iterable[str]:
    found = {
        (name, step_ms): figures[key]
        for name in ("lightning", "transformers", "accelerate")
        for step_ms in (0, 1, 5)
        if (key := f"bench_integrations[{name}-{step_ms}]") in figures
    }
    if not found:
        return
    yield "## Trainers"
    yield (
        "Two trainings in one process take turns step by step, one of them without any logger, so that what disturbs "
        "the machine disturbs both. The ratio of their median steps, the least and the most of ten parts of the run, "
        "and what a step takes longer; `nothing` is two trainings without a logger: the noise. A step is the "
        "framework's own work and so many milliseconds of matrix products on the CPU."
    )
    yield table(
        ["trainer", "work", "logger", "step, ms", "ratio", "least", "most", "added, us"],
        (
            [
                name,
                f"{step_ms} ms",
                way,
                f"{told['step_ms']:.2f}",
                f"{told['ratio']:.3f}",
                f"{told['ratio_least']:.3f}",
                f"{told['ratio_most']:.3f}",
                f"{told['added_us']:.0f}",
            ]
            for (name, step_ms), each in found.items()
            for way, told in each["ways"].items()
        ),
    )


def _peers(figures: Figures) -> Iterable[str]:
    peers: dict[str, dict[str, Any]] = figures.get("bench_peers", {}).get("peers", {})
    if peers:
        yield "## Peers, µs a step"
        keys = ("call_p50_us", "call_p99_us", "call_p99.9_us", "call_mean_us", "cpu_us", "bytes_a_step")
        yield table(
            ["peer", "version", "steps", "call p50", "p99", "p99.9", "mean", "CPU", "bytes"],
            (
                [name, found.get("version", ""), found.get("steps", ""), *(f"{found[key]:.3g}" for key in keys)]
                if "cpu_us" in found
                else [name, found.get("version", ""), found.get("skipped", "not measured"), *[""] * len(keys)]
                for name, found in peers.items()
            ),
        )


def main(raw: Path, target: Path) -> None:
    results = json.loads(raw.read_text())
    figures = {
        bench["name"]: bench["extra_info"]["figures"]
        for bench in results["benchmarks"]
        if "figures" in bench["extra_info"]
    }
    machine, date = results["machine_info"], results["datetime"][:10]
    kept = {"date": date, "machine": machine, "figures": figures}
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_suffix(".json").write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    target.with_suffix(".md").write_text(page(machine, date, figures))
    sys.stdout.write(target.with_suffix(".md").read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
