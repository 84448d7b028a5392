"""Guide: Memory Usage Monitoring, Performance Metrics, Context Managers, Training Summaries."""

import math
import re
import statistics
from pathlib import Path

import pytest
from run_files import error_entries, events_of, json_lines, summary_of


def test_memory_usage_monitoring(advanced_logger):
    """A row in the system stream holds the memory of this process in GB."""
    # Log current memory usage
    advanced_logger.log_memory_usage()

    assert advanced_logger.close()
    rows = [row for row in json_lines(Path("logs/my_experiment_system.jsonl")) if row["kind"] == "memory"]
    assert rows
    assert 0.01 < rows[0]["cpu_memory_gb"] < 100


def test_performance_metrics(advanced_logger):
    """A row each in the system stream, and their averages in the summary."""
    for batch_time, data_time in ((0.5, 0.1), (0.7, 0.1), (0.9, 0.4)):
        # Log performance metrics
        advanced_logger.log_performance_metrics(batch_time, data_time)

    assert advanced_logger.close()
    rows = [row for row in json_lines(Path("logs/my_experiment_system.jsonl")) if row["kind"] == "performance"]
    assert [(row["batch_time"], row["data_time"]) for row in rows] == [(0.5, 0.1), (0.7, 0.1), (0.9, 0.4)]
    performance = summary_of(Path("logs"), "my_experiment")["performance"]
    assert performance["batch_time"]["mean"] == pytest.approx(0.7)
    assert performance["data_time"]["mean"] == pytest.approx(0.2)


def test_context_manager_times_the_operation(advanced_logger):
    def preprocess_data():
        return sum(range(1000))

    # Safe operation context
    with advanced_logger.training_context("data_preprocessing"):
        # All operations are automatically logged
        # Errors are captured with context
        # Timing is automatically measured
        preprocess_data()

    assert advanced_logger.close()
    (started,) = events_of(Path("logs"), "my_experiment", "context_start")
    (ended,) = events_of(Path("logs"), "my_experiment", "context_end")
    assert started["context"] == ended["context"] == "data_preprocessing"
    assert ended["outcome"] == "completed"
    assert 0 <= ended["duration_s"] < 10
    assert "data_preprocessing" in Path("logs/my_experiment_main.log").read_text()


def test_context_manager_captures_an_error_and_raises_it_again(advanced_logger):
    def preprocess_data():
        raise KeyError("label")

    with (
        pytest.raises(KeyError, match="label"),
        advanced_logger.training_context("data_preprocessing"),
    ):
        preprocess_data()

    assert advanced_logger.close()
    ((header, traceback),) = error_entries(Path("logs/my_experiment_errors.log"))
    assert header.fields["operation"] == "data_preprocessing"
    assert header.fields["type"] == "KeyError"
    assert any("preprocess_data" in line for line in traceback)
    assert len(events_of(Path("logs"), "my_experiment", "error")) == 1


def test_training_summaries(advanced_logger):
    """The summary's first keys and shapes, with the numbers that numpy would give."""
    losses = [2.5, 1.25, 0.5, 0.1, 0.3]
    accuracies = [0.3, 0.6, 0.9, 0.95, 0.925]
    advanced_logger.start_training({})
    for batch, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True), start=1):
        advanced_logger.log_batch_progress(1, batch, 5, loss, accuracy)
    advanced_logger.log_error(ValueError("bad"), operation="check")

    # Get comprehensive training summary
    summary = advanced_logger.get_training_summary()

    assert summary["total_metrics"] == 5
    assert summary["total_errors"] == 1
    assert re.fullmatch(r"(\d+ days?, )?\d+:\d\d:\d\d", summary["training_duration"])
    for stats, values in ((summary["loss_stats"], losses), (summary["accuracy_stats"], accuracies)):
        assert (stats["min"], stats["max"]) == (min(values), max(values))
        assert stats["mean"] == pytest.approx(statistics.fmean(values))
        assert stats["std"] == pytest.approx(statistics.pstdev(values))


def test_summary_before_any_record_is_nan_in_the_dict_and_null_in_the_file(advanced_logger):
    advanced_logger.start_training({})
    summary = advanced_logger.get_training_summary()
    assert summary["total_metrics"] == 0
    assert all(math.isnan(summary["loss_stats"][key]) for key in ("min", "max", "mean", "std"))
    assert advanced_logger.close()
    written = summary_of(Path("logs"), "my_experiment")
    assert all(written["loss_stats"][key] is None for key in ("min", "max", "mean", "std"))
