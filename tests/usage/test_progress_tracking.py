"""Guide: Progress Tracking."""

from pathlib import Path

from run_files import events_of

from advlog_fast import TrainingProgressTracker


def test_progress_tracking(advanced_logger):
    """Each of 25, 50, 75 and 90 % is told once for each epoch and once for the whole."""
    num_epochs, num_batches = 4, 20

    # Initialize progress tracker
    progress_tracker = TrainingProgressTracker(advanced_logger)

    # Update progress during training
    for epoch in range(num_epochs):
        for batch in range(num_batches):
            # Update progress
            progress_tracker.update_progress(epoch + 1, batch + 1, num_batches, num_epochs)

    assert advanced_logger.close()
    milestones = events_of(Path("logs"), "my_experiment", "milestone")
    by_epoch = [(row["epoch"], row["batch"], row["percent"]) for row in milestones if row["scope"] == "epoch"]
    whole = [(row["epoch"], row["batch"], row["percent"]) for row in milestones if row["scope"] == "overall"]
    marks = [(5, 25), (10, 50), (15, 75), (18, 90)]
    assert by_epoch == [(epoch, *mark) for epoch in range(1, 5) for mark in marks]
    assert whole == [(1, 20, 25), (2, 20, 50), (3, 20, 75), (4, 12, 90)]
    text = Path("logs/my_experiment_training.log").read_text()
    assert text.count("milestone") == len(milestones)
