"""Guide: Monitoring and Analysis, Error Alerting, Performance Monitoring in production."""

import json
from pathlib import Path

import pytest
from run_files import text_lines

from advlog_fast import AdvancedLogger


def logged_training(**options):
    logger = AdvancedLogger(log_dir="logs", experiment_name="experiment", **options)
    for batch in range(1, 11):
        logger.log_batch_progress(1, batch, 10, loss=batch / 4, accuracy=batch / 16)
    return logger


def test_real_time_monitoring(capsys):
    """The summary covers every call that returned before it, while training runs."""
    with logged_training(console="off") as advanced_logger:
        # Monitor training in real-time
        summary = advanced_logger.get_training_summary()
        print(f"Training Progress: {summary['total_metrics']} metrics logged")
        print(f"Errors Encountered: {summary['total_errors']}")
        print(f"Current Loss: {summary['loss_stats']['mean']:.4f}")

    assert capsys.readouterr().out.splitlines() == [
        "Training Progress: 10 metrics logged",
        "Errors Encountered: 0",
        "Current Loss: 1.3750",
    ]


def test_log_analysis(capsys):
    """Plain pandas reads the metrics: the numbers are numbers."""
    pd = pytest.importorskip("pandas")
    logged_training().close()

    # Analyze JSON metrics
    with open("logs/experiment_metrics.jsonl", "r") as f:  # noqa: UP015 - as users write it
        metrics = [json.loads(line) for line in f]

    df = pd.DataFrame(metrics)
    print(df.describe())

    described = df.describe()
    assert described.loc["count", "loss"] == 10
    assert described.loc["mean", "loss"] == 1.375
    assert described.loc["max", "accuracy"] == 0.625
    assert "loss" in capsys.readouterr().out


def test_error_alerting():
    """Each error counts at once."""
    threshold, alerts = 2, []
    send_alert = alerts.append
    with logged_training() as advanced_logger:
        for number in range(3):
            advanced_logger.log_error(OSError(f"lost connection {number}"), operation="read")

        # Monitor error rates
        summary = advanced_logger.get_training_summary()
        if summary["total_errors"] > threshold:
            send_alert(f"High error rate: {summary['total_errors']} errors")

    assert alerts == ["High error rate: 3 errors"]


def test_performance_monitoring_in_production():
    """The logger of the standard library that belongs to the run writes to its main log."""
    threshold = 1.0
    with logged_training() as advanced_logger:
        logger = advanced_logger.logger

        # Monitor training performance
        summary = advanced_logger.get_training_summary()
        if summary["loss_stats"]["mean"] > threshold:
            logger.warning("Training loss is high, consider adjusting hyperparameters")

    warnings = [line for line in text_lines(Path("logs/experiment_main.log")) if line.level == "WARNING"]
    assert any("Training loss is high, consider adjusting hyperparameters" in line.text for line in warnings)
