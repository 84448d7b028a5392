"""Guide: Logger Configuration, Log Levels, Log Rotation."""

import logging
import time
from pathlib import Path

import pytest
from run_files import batch_lines, json_lines

from advlog_fast import AdvancedLogger


def test_logger_configuration():
    advanced_logger = AdvancedLogger(
        log_dir="logs",  # Log directory
        experiment_name="my_experiment",  # Experiment name
        log_level=logging.INFO,  # Logging level
        max_log_files=10,  # Max log files to keep
        max_log_size=10 * 1024 * 1024,  # Max log file size (10MB)
    )
    assert advanced_logger.close()
    assert Path("logs/my_experiment_main.log").exists()


def test_log_rotation():
    """The call leaves the directory and the name to their defaults."""
    # Automatic log rotation
    advanced_logger = AdvancedLogger(
        max_log_files=10,  # Keep 10 log files
        max_log_size=50 * 1024 * 1024,  # 50MB per file
    )
    assert advanced_logger.close()
    assert Path("logs/experiment_main.log").exists()


def test_rotation_keeps_so_many_files_and_none_larger():
    """Six batches of lines through three files of 1,024 bytes: the newest lines are the ones that stand."""
    with AdvancedLogger(max_log_files=3, max_log_size=1024) as advanced_logger:
        for batch in range(1, 201):
            advanced_logger.log_batch_progress(1, batch, 200, 1.0 / batch)
    series = sorted(Path("logs").glob("experiment_training.log*"))
    assert 1 < len(series) <= 3
    assert all(path.stat().st_size <= 1024 for path in series)
    # .2 is older than .1, which is older than the file without a number.
    oldest_first = sorted(series, key=lambda path: -int(path.suffix[1:]) if path.suffix[1:].isdigit() else 0)
    batches = [int(line.fields["batch"].split("/")[0]) for path in oldest_first for line in batch_lines(path)]
    assert batches == list(range(batches[0], 201))


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL])
def test_log_levels_filter_text_and_never_metrics(level):
    """Batch lines are INFO; whatever the level, the metrics are all there."""
    with AdvancedLogger(log_level=level) as advanced_logger:
        advanced_logger.log_batch_progress(1, 1, 1, 0.5)
        advanced_logger.log_error(ValueError("bad"), operation="check")
    expected_lines = 1 if level <= logging.INFO else 0
    log = Path("logs/experiment_training.log")
    assert len(batch_lines(log) if log.exists() else []) == expected_lines
    assert len(json_lines(Path("logs/experiment_metrics.jsonl"))) == 1
    assert "ValueError: bad" in Path("logs/experiment_errors.log").read_text()


def test_lines_appear_while_training_runs(advanced_logger):
    """A line is in the file a second after its call at the latest, without a flush."""
    advanced_logger.log_batch_progress(1, 1, 10, 0.5)
    time.sleep(1.0)
    assert len(batch_lines(Path("logs/my_experiment_training.log"))) == 1
    assert len(json_lines(Path("logs/my_experiment_metrics.jsonl"))) == 1
