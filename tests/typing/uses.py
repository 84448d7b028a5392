"""Every public name as a user's strict program uses it; mypy reads this, and nothing runs it.

An annotation that gets lost is Any, which `assert_type` tells from what stands here; where a wrong argument has to be
an error, its `type: ignore` is an error itself once mypy has nothing to ignore.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from typing_extensions import assert_type

import advlog_fast
from advlog_fast import (
    AdvancedLogger,
    AdvlogError,
    Comparison,
    ErrorLog,
    Followed,
    Health,
    Heat,
    LoggerConfig,
    Picture,
    Run,
    RunBusyError,
    RunNotFoundError,
    TrainingMetrics,
    TrainingProgressTracker,
    compare,
    follow,
    list_runs,
    read_jsonl,
    read_run,
    safe_name,
)


def logs(loss: object, arguments: argparse.Namespace) -> None:
    AdvancedLogger(Path("logs"), "run", "INFO", 10, 1 << 20)
    AdvancedLogger("logs", max_log_files="10")  # type: ignore[arg-type]
    with AdvancedLogger(
        "logs",
        "run",
        logging.INFO,
        metrics=["perplexity"],
        rank=0,
        world_size=1,
        console="off",
        ring_dir=Path("rings"),
        overflow="drop_newest",
        overflow_timeout_s=None,
        memory_interval_s=0,
        fsync="interval",
    ) as log:
        assert_type(log, AdvancedLogger)
        assert_type(log.config, LoggerConfig)
        assert_type(log.enabled, bool)
        assert_type(log.attempt, int)
        assert_type(log.log_level, int)
        assert_type(log.paths, dict[str, Path])
        assert_type(log.logger, logging.Logger)
        log.start_training(arguments)
        log.log_hyperparameters({"batch_size": 64})
        log.log_model_info(arguments)
        log.start_epoch(1, total_epochs=3)
        log.log_batch_progress(1, 1, None, loss, learning_rate=1e-3, step=1, samples=64, grads={"head": 0.5})
        log.log_batch_progress("1", 1, 10, 0.5)  # type: ignore[arg-type]
        log.log_performance_metrics(0.12, data_time=0.03)
        log.log_batch_progress(None, None, math.inf, 0.5)
        log.log_metrics({"val": {"loss": 0.4}}, step=1)
        log.log_metrics(None)
        log.log_metrics(TrainingMetrics(1, 2, 10, 0.4), step="2")  # type: ignore[arg-type]
        log.log_metrics(0.4)  # type: ignore[arg-type]
        log.log_validation(1, {"accuracy": 0.9}, is_best=True)
        log.log_validation(1, 0.9)  # type: ignore[arg-type]
        with log.training_context("evaluate"):
            log.log_event("checkpoint", path="epoch1.pt")
        log.log_event(1)  # type: ignore[arg-type]
        log.log_recovery("forward", "halved the batch size", success=True)
        log.log_recovery("forward", "halved the batch size", success="yes")  # type: ignore[arg-type]
        log.end_epoch(1, {"loss": 0.3})
        log.end_epoch("1")  # type: ignore[arg-type]
        log.load_state_dict(log.state_dict())
        log.load_state_dict(None)
        log.end_training({"loss": 0.3})
        log.end_training(0.3)  # type: ignore[arg-type]
        assert_type(log.state_dict(), dict[str, Any])
        assert_type(log.get_training_summary(), dict[str, Any])
        assert_type(log.reduce_summary(timeout_s=1.0), dict[str, Any])
        assert_type(log.flush(timeout=1), bool)
        assert_type(log.close("1"), bool)  # type: ignore[arg-type]
        sample = log.log_memory_usage()
        if sample is not None:
            assert_type(sample.time_ns, int)
            assert_type(sample.cpu_memory_gb, float | None)
            assert_type(sample.metrics(), dict[str, float])


async def logs_in_a_task(log: AdvancedLogger) -> None:
    async with log.training_context("evaluate"):
        log.log_event("evaluated")


def errors(log: AdvancedLogger) -> None:
    try:
        read_run("logs", "unknown")
    except RunNotFoundError as error:
        entry = log.log_error(error, "reading", {"name": "unknown"}, "WARNING")
        assert_type(entry, ErrorLog)
        assert_type(entry.error_type, str)
        assert_type(entry.timestamp, datetime)
        assert_type(entry.context, dict[str, Any])
        missing: FileNotFoundError = error
        log.log_error(missing)
    except RunBusyError as error:
        base: AdvlogError = error
        log.log_error(base, 1)  # type: ignore[arg-type]
    log.log_error(12)  # type: ignore[arg-type]


def tracks(log: AdvancedLogger) -> None:
    tracker = TrainingProgressTracker(log)
    tracker.update_progress(1, 1, None, 3)
    tracker.update_progress(1, 1, math.inf, None)
    tracker.update_progress(1, 1, 10, "3")  # type: ignore[arg-type]
    TrainingProgressTracker("run")  # type: ignore[arg-type]


def asks(log: AdvancedLogger) -> None:
    health = log.health()
    assert_type(health, Health)
    assert_type(health.offered, int)
    assert_type(health.dropped_at_entry, Mapping[str, int])
    assert_type(health.sinks["text"].written, int)
    assert_type(health.sinks["text"].error, str | None)
    assert_type(health.call.p99_s, float)
    assert_type(health.ring_path, str | None)


def configures() -> None:
    config = LoggerConfig(Path("logs"), "run", console="plain", fsync="always")
    assert_type(config.log_dir, Path)
    assert_type(config.log_level, int)
    assert_type(config.metrics, tuple[str, ...])
    assert_type(config.overflow_timeout_s, float | None)
    LoggerConfig(console="loud")  # type: ignore[arg-type]
    config.rank = 1  # type: ignore[misc]


def keeps(metrics: TrainingMetrics) -> None:
    assert_type(metrics.loss, float)
    assert_type(metrics.accuracy, float | None)
    assert_type(metrics.memory_usage, Mapping[str, float] | None)
    TrainingMetrics(1, 1, 10, "0.5")  # type: ignore[arg-type]


def reads() -> None:
    run = read_run(Path("logs"), "run", attempts="all")
    assert_type(run, Run)
    assert_type(run.log_dir, Path)
    assert_type(run.name, str)
    assert_type(run.run_id, str | None)
    assert_type(run.attempts, list[int])
    assert_type(run.metrics, pa.Table)
    assert_type(run.system, pa.Table)
    assert_type(run.validation, pa.Table)
    assert_type(run.events, pa.Table)
    assert_type(run.errors, pa.Table)
    assert_type(run.processes, pa.Table)
    assert_type(run.summary, dict[str, Any])
    assert_type(run.scan(["step", "loss"], stream="metrics"), Iterator[pa.RecordBatch])
    assert_type(run.series("loss", reduce=None), pa.Table)
    assert_type(run.step_times("batch_time"), pa.Table)
    assert_type(run.stragglers(ratio=1.2), pa.Table)
    assert_type(run.overview(), dict[str, Any])
    assert_type(run.by_step(["loss"]), pa.Table)
    assert_type(run.picture("loss", x="time", span=(1, 2), ranks=[0]), Picture)
    assert_type(run.heat("batch_time"), Heat)
    assert_type(compare([run, run], "loss"), Comparison)
    followed = next(follow("logs", "run", wait_s=1.0))
    assert_type(followed, Followed)
    assert_type(followed.rows, pa.RecordBatch | None)
    assert_type(followed.cut, tuple[int, int, int] | None)
    assert_type(list(follow("logs", since=followed.cursor)), list[Followed])
    assert_type(list_runs("logs", metric="accuracy"), pa.Table)
    assert_type(safe_name("my project"), str)
    assert_type(read_jsonl("logs/run_metrics.jsonl", rotated=False), list[dict[str, Any]])
    run.series(1)  # type: ignore[arg-type]
    run.stragglers("1.2")  # type: ignore[arg-type]
    run.scan(1)  # type: ignore[arg-type]
    read_run(1)  # type: ignore[arg-type]
    read_run("logs", attempts="newest")  # type: ignore[arg-type]
    list_runs(1)  # type: ignore[arg-type]
    follow("logs", since=3)  # type: ignore[arg-type]
    safe_name(1)  # type: ignore[arg-type]
    read_jsonl(1)  # type: ignore[arg-type]
    assert_type(advlog_fast.__version__, str)
