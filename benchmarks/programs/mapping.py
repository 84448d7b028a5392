"""What a mapping of metrics costs over the same metrics as keywords, in ns; and what the ends of it cost: a record of
2,000 metrics, a new name on a full table, a value that is no number.

    mapping.py DIRECTORY [BURSTS [CALLS]]
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workload import report

import advlog_fast
from advlog_fast.cli.bench import own_code

FIVE = {"loss": 0.6931471805599453, "accuracy": 0.25, "lr": 1e-3, "entropy": 2.5, "perplexity": 3.5}
SIXTEEN = {f"metric_{i}": i + 0.5 for i in range(16)}
MANY = {f"layer_{i}/norm": i + 0.5 for i in range(2000)}
PART = "train"
NAMES = 65_535
RARE = 20
"""How many fewer calls the dear ones get."""


def nothing(_log: Any, calls: int) -> None:
    for _ in range(calls):
        pass


def keywords(log: Any, calls: int) -> None:
    for i in range(calls):
        log.log_batch_progress(
            None,
            None,
            None,
            loss=0.6931471805599453,
            accuracy=0.25,
            lr=1e-3,
            entropy=2.5,
            perplexity=3.5,
            step=i,
        )


def mapping(log: Any, calls: int) -> None:
    for i in range(calls):
        log.log_metrics(FIVE, step=i)


def literal(log: Any, calls: int) -> None:
    for i in range(calls):
        log.log_metrics(
            {"loss": 0.6931471805599453, "accuracy": 0.25, "lr": 1e-3, "entropy": 2.5, "perplexity": 3.5}, step=i
        )


def literal_alone(_log: Any, calls: int) -> None:
    for _ in range(calls):
        _ = {"loss": 0.6931471805599453, "accuracy": 0.25, "lr": 1e-3, "entropy": 2.5, "perplexity": 3.5}


def made_keys(log: Any, calls: int) -> None:
    for i in range(calls):
        log.log_metrics(
            {
                f"{PART}/loss": 0.6931471805599453,
                f"{PART}/accuracy": 0.25,
                f"{PART}/lr": 1e-3,
                f"{PART}/entropy": 2.5,
                f"{PART}/perplexity": 3.5,
            },
            step=i,
        )


def made_keys_alone(_log: Any, calls: int) -> None:
    for _ in range(calls):
        _ = {
            f"{PART}/loss": 0.6931471805599453,
            f"{PART}/accuracy": 0.25,
            f"{PART}/lr": 1e-3,
            f"{PART}/entropy": 2.5,
            f"{PART}/perplexity": 3.5,
        }


def sixteen(log: Any, calls: int) -> None:
    for i in range(calls):
        log.log_metrics(SIXTEEN, step=i)


def two_thousand(log: Any, calls: int) -> None:
    for i in range(calls):
        log.log_metrics(MANY, step=i)


def no_number(log: Any, calls: int) -> None:
    for i in range(calls):
        log.log_metrics({"loss": 0.5, "note": "text"}, step=i)


def name_beyond(log: Any, calls: int) -> None:
    for i in range(calls):
        log.log_metrics({"loss": 0.5, f"beyond_{i}": 0.5}, step=i)


def medians(log: Any, subjects: tuple[Callable[[Any, int], None], ...], bursts: int, calls: int) -> dict[str, float]:
    """A burst is a fraction of the ring, and begins after a flush: what is measured is the call."""
    timed = [own_code(subject) for subject in subjects]
    took: dict[str, list[float]] = {subject.__name__: [] for subject in subjects}
    for _ in range(bursts):
        for subject, burst in zip(subjects, timed, strict=True):
            log.flush()
            began = time.perf_counter_ns()
            burst(log, calls)
            took[subject.__name__].append((time.perf_counter_ns() - began) / calls)
    return {name: statistics.median(times) for name, times in took.items()}


def main(directory: Path, bursts: int, calls: int) -> None:
    options: dict[str, Any] = {"console": "off", "memory_interval_s": 0}
    log = advlog_fast.AdvancedLogger(directory, "calls", **options)
    frequent = (nothing, keywords, mapping, literal, literal_alone, made_keys, made_keys_alone, sixteen)
    call = medians(log, frequent, bursts, calls)
    call |= medians(log, (two_thousand,), bursts, calls // (16 * RARE))
    log.close()

    warnings.simplefilter("ignore")
    log = advlog_fast.AdvancedLogger(directory, "misuse", **options)
    call |= medians(log, (no_number,), bursts, calls // RARE)
    for first in range(0, NAMES, 1000):
        log.log_metrics({f"name_{i}": 0.5 for i in range(first, first + 1000)})
    call |= medians(log, (name_beyond,), bursts, calls // RARE)
    log.close()

    loop = call.pop("nothing")
    net = {name: took - loop for name, took in call.items()}
    report(
        call_ns=net,
        mapping_ratio=net["mapping"] / net["keywords"],
        literal_ratio=(net["literal"] - net["literal_alone"]) / net["keywords"],
        made_keys_ratio=(net["made_keys"] - net["made_keys_alone"]) / net["keywords"],
        whole_made_keys_ratio=net["made_keys"] / net["keywords"],
        bursts=bursts,
        calls=calls,
    )


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        int(sys.argv[2]) if len(sys.argv) > 2 else 60,
        int(sys.argv[3]) if len(sys.argv) > 3 else 6000,
    )
