"""Guide: Core Components, Basic Setup, Log Files Generated."""

import dataclasses
import logging
from datetime import datetime
from pathlib import Path

from run_files import events_of, json_lines, summary_of, text_lines

from advlog_fast import AdvancedLogger, ErrorLog, TrainingMetrics, TrainingProgressTracker


def test_basic_setup():
    """The first block runs as it stands, and the configuration is found again."""
    advanced_logger = AdvancedLogger(log_dir="logs", experiment_name="my_experiment", log_level=logging.INFO)

    # Start training
    config = {"model": "ResNet18", "batch_size": 32, "epochs": 10, "learning_rate": 1e-3}
    advanced_logger.start_training(config)

    assert TrainingProgressTracker(advanced_logger) is not None
    assert advanced_logger.close()
    assert summary_of(Path("logs"), "my_experiment")["config"] == config
    assert len(events_of(Path("logs"), "my_experiment", "training_start")) == 1


def test_the_files_of_the_guide_stand_and_hold_what_it_says():
    with AdvancedLogger(log_dir="logs", experiment_name="experiment") as advanced_logger:
        advanced_logger.start_training({"model": "ResNet18"})
        advanced_logger.start_epoch(1, 1)
        advanced_logger.log_batch_progress(epoch=1, batch=1, total_batches=1, loss=0.5)
        advanced_logger.log_error(ValueError("bad value"), operation="check")
        advanced_logger.end_epoch(1, {"accuracy": 0.5})
        advanced_logger.end_training({"final_loss": 0.5})

    logs = Path("logs")
    assert any("ResNet18" in line.text for line in text_lines(logs / "experiment_main.log"))
    assert any(line.text.startswith("epoch=1 batch=1/1") for line in text_lines(logs / "experiment_training.log"))
    assert "ValueError: bad value" in (logs / "experiment_errors.log").read_text()
    assert [row["loss"] for row in json_lines(logs / "experiment_metrics.jsonl")] == [0.5]
    assert summary_of(logs, "experiment")["total_metrics"] == 1


def test_training_metrics_has_the_guides_fields_and_defaults():
    fields = [(f.name, f.default) for f in dataclasses.fields(TrainingMetrics)]
    required = [(name, dataclasses.MISSING) for name in ("epoch", "batch", "total_batches", "loss")]
    optional = (
        "accuracy",
        "learning_rate",
        "gradient_norm",
        "memory_usage",
        "batch_time",
        "data_time",
        "timestamp",
    )
    assert fields == required + [(name, None) for name in optional]


def test_error_log_has_the_guides_fields_and_defaults():
    names = ("error_type", "error_message", "operation", "timestamp", "traceback", "context", "severity")
    assert tuple(f.name for f in dataclasses.fields(ErrorLog)) == names
    error = ErrorLog("ValueError", "bad", "check", datetime(2026, 1, 1), "", {})
    assert error.severity == "ERROR"
