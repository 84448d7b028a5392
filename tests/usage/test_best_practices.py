"""Guide: Best Practices 2 to 4; the first stands in test_error_handling.py."""

import time
from datetime import datetime, timezone
from pathlib import Path

from run_files import json_lines

from advlog_fast import TrainingMetrics


def test_regular_progress_updates(advanced_logger):
    """Logging every tenth batch logs those batches, under their own numbers and steps."""
    for batch_idx in range(25):
        # Log progress at regular intervals
        if batch_idx % 10 == 0:  # Every 10 batches
            advanced_logger.log_batch_progress(epoch=1, batch=batch_idx + 1, total_batches=25, loss=0.5)
            advanced_logger.log_memory_usage()

    assert advanced_logger.close()
    rows = json_lines(Path("logs/my_experiment_metrics.jsonl"))
    assert [(row["batch"], row["step"]) for row in rows] == [(1, 1), (11, 11), (21, 21)]
    samples = [r for r in json_lines(Path("logs/my_experiment_system.jsonl")) if r["kind"] == "memory"]
    assert len(samples) >= 3


def test_performance_monitoring(advanced_logger):
    data_start_time = batch_start_time = time.time()

    # Monitor performance bottlenecks
    start_time = time.time()
    data_time = time.time() - data_start_time
    batch_time = time.time() - batch_start_time

    advanced_logger.log_performance_metrics(batch_time, data_time)

    assert start_time > 0
    assert advanced_logger.close()
    rows = [r for r in json_lines(Path("logs/my_experiment_system.jsonl")) if r["kind"] == "performance"]
    assert [(row["batch_time"], row["data_time"]) for row in rows] == [(batch_time, data_time)]


def test_structured_data_logging(advanced_logger):
    """The example only builds the metrics; logging them gives one row with every value under its name."""
    epoch, batch, total_batches, loss, accuracy, lr, grad_norm = 2, 3, 10, 0.25, 0.9, 1e-3, 1.5
    memory_info = {"cpu_gb": 1.5}
    batch_time, data_time = 0.5, 0.125

    # Use structured metrics for analysis
    metrics = TrainingMetrics(
        epoch=epoch,
        batch=batch,
        total_batches=total_batches,
        loss=loss,
        accuracy=accuracy,
        learning_rate=lr,
        gradient_norm=grad_norm,
        memory_usage=memory_info,
        batch_time=batch_time,
        data_time=data_time,
        timestamp=datetime.now(),
    )
    advanced_logger.log_metrics(metrics)

    assert advanced_logger.close()
    (row,) = json_lines(Path("logs/my_experiment_metrics.jsonl"))
    # A naive time is local time.
    utc = metrics.timestamp.astimezone(timezone.utc)
    assert row.pop("timestamp") == utc.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert row == {
        "attempt": 1,
        "rank": 0,
        "seq": 1,
        "epoch": 2,
        "batch": 3,
        "total_batches": 10,
        "step": 13,
        "loss": 0.25,
        "accuracy": 0.9,
        "learning_rate": 1e-3,
        "gradient_norm": 1.5,
        "batch_time": 0.5,
        "data_time": 0.125,
        "memory_usage/cpu_gb": 1.5,
    }
