"""Guide: Error Handling Integration, and the best practice of logging errors with their context."""

from pathlib import Path

import pytest
from run_files import error_entries, events_of, summary_of


def test_error_handling_integration(advanced_logger):
    """An error that leaves a training context and is then logged by the caller is one error."""
    model = dataloader = None
    current_epoch, current_batch = 2, 17

    def train_epoch(model, dataloader):
        raise RuntimeError("a damaged batch")

    try:
        # Training operation
        with advanced_logger.training_context("model_training"):
            train_epoch(model, dataloader)

    except Exception as e:
        # Log error with context
        advanced_logger.log_error(
            error=e,
            operation="model_training",
            context={"epoch": current_epoch, "batch": current_batch, "model_state": "training"},
            severity="ERROR",
        )
    else:
        pytest.fail("the context swallowed the error")

    assert advanced_logger.close()
    (error, traceback), (added, _) = error_entries(Path("logs/my_experiment_errors.log"))
    assert (error.level, error.fields["operation"]) == ("ERROR", "model_training")
    assert error.fields["type"] == "RuntimeError"
    assert error.fields["message"] == '"a damaged batch"'
    assert any("in train_epoch" in line for line in traceback)
    assert (added.fields["id"], added.fields["epoch"], added.fields["batch"]) == (
        error.fields["id"],
        "2",
        "17",
    )
    assert summary_of(Path("logs"), "my_experiment")["total_errors"] == 1


@pytest.mark.torch
def test_comprehensive_error_logging(advanced_logger, training):
    """A context may hold what JSON lacks: the error is logged all the same, the device as readable text."""
    model, current_epoch, current_batch = training.model, 1, 3

    def operation():
        return model(training.dataloader.dataset.tensors[0][:, :3])

    # Always log errors with context
    try:
        operation()
    except Exception as e:
        advanced_logger.log_error(
            error=e,
            operation="operation_name",
            context={
                "epoch": current_epoch,
                "batch": current_batch,
                "model_state": model.training,
                "device": next(model.parameters()).device,
            },
        )

    assert advanced_logger.close()
    ((header, traceback),) = error_entries(Path("logs/my_experiment_errors.log"))
    assert header.fields["operation"] == "operation_name"
    assert header.fields["type"] == "RuntimeError"
    assert "shape" in header.fields["category"]
    assert any("in operation" in line for line in traceback)
    (event,) = events_of(Path("logs"), "my_experiment", "error")
    assert event["context"]["device"] == "cpu"
    assert event["context"]["model_state"] is True
