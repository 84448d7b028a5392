"""Guide: Training Loop Integration."""

from pathlib import Path

import pytest
from run_files import batch_lines, events_of, json_lines, physical_lines, summary_of, text_lines


def calculate_accuracy(outputs, targets):
    return (outputs.argmax(dim=1) == targets).double().mean().item()


def calculate_gradient_norm(model):
    return sum(float(p.grad.norm()) ** 2 for p in model.parameters()) ** 0.5


@pytest.mark.torch
@pytest.mark.parametrize("loss_is", ["a float", "a tensor with its graph"])
def test_training_loop_integration(advanced_logger, training, loss_is):
    """A plain training loop runs as it stands, and every value it logs comes back to the bit."""
    model, optimizer, validate = training.model, training.optimizer, training.validate
    dataloader, val_dataloader = training.dataloader, training.val_dataloader
    num_epochs, best_accuracy = 3, 0.0
    train_losses, val_accuracies = [], []
    expected = []

    def train_step(data, targets):
        loss = training.train_step(data, targets)
        train_losses.append(loss.item())
        return loss if loss_is == "a tensor with its graph" else loss.item()

    # Log hyperparameters
    hyperparams = {
        "learning_rate": 1e-3,
        "batch_size": 32,
        "optimizer": "AdamW",
        "scheduler": "CosineAnnealingWarmRestarts",
    }
    advanced_logger.log_hyperparameters(hyperparams)

    # Log model information
    advanced_logger.log_model_info(model)

    # Training loop
    for epoch in range(num_epochs):
        # Start epoch
        advanced_logger.start_epoch(epoch + 1, num_epochs)

        for batch_idx, (data, targets) in enumerate(dataloader):
            # Training step
            loss = train_step(data, targets)
            outputs = training.outputs
            accuracy = calculate_accuracy(outputs, targets)

            # Log batch progress
            advanced_logger.log_batch_progress(
                epoch=epoch + 1,
                batch=batch_idx + 1,
                total_batches=len(dataloader),
                loss=loss,
                accuracy=accuracy,
                learning_rate=optimizer.param_groups[0]["lr"],
                gradient_norm=calculate_gradient_norm(model),
            )
            expected.append((epoch + 1, batch_idx + 1, train_losses[-1], accuracy, calculate_gradient_norm(model)))

        # Validation
        val_metrics = validate(model, val_dataloader)
        is_best = val_metrics["accuracy"] > best_accuracy
        val_accuracies.append(val_metrics["accuracy"])
        best_accuracy = max(best_accuracy, val_metrics["accuracy"])

        # Log validation results
        advanced_logger.log_validation(epoch + 1, val_metrics, is_best)

        # End epoch
        advanced_logger.end_epoch(epoch + 1, val_metrics)

    # End training
    final_metrics = {
        "final_loss": train_losses[-1],
        "final_accuracy": val_accuracies[-1],
        "best_accuracy": best_accuracy,
    }
    advanced_logger.end_training(final_metrics)

    assert advanced_logger.close()
    logs = Path("logs")
    batches = len(dataloader)

    rows = json_lines(logs / "my_experiment_metrics.jsonl")
    names = ("epoch", "batch", "loss", "accuracy", "gradient_norm")
    assert [tuple(row[name] for name in names) for row in rows] == expected
    assert [row["seq"] for row in rows] == list(range(1, num_epochs * batches + 1))
    assert [row["step"] for row in rows] == list(range(1, num_epochs * batches + 1))
    keys = ["timestamp", "attempt", "rank", "seq", "epoch", "batch", "total_batches", "step"]
    assert {tuple(row) for row in rows} == {(*keys, "loss", "accuracy", "learning_rate", "gradient_norm")}
    assert {(row["attempt"], row["rank"], row["total_batches"]) for row in rows} == {(1, 0, batches)}
    assert {row["learning_rate"] for row in rows} == {1e-2}

    lines = batch_lines(logs / "my_experiment_training.log")
    assert [line.fields["batch"] for line in lines] == [f"{b + 1}/{batches}" for b in range(batches)] * num_epochs
    assert [line.fields["loss"] for line in lines] == [f"{row['loss']:.6g}" for row in rows]

    validations = [line for line in text_lines(logs / "my_experiment_training.log") if "validation" in line.text]
    assert [line.fields["accuracy"] for line in validations] == [f"{accuracy:.6g}" for accuracy in val_accuracies]
    assert validations[0].fields["best"] == "true"

    for event, count in (("epoch_start", num_epochs), ("validation", num_epochs), ("epoch_end", num_epochs)):
        assert len(events_of(logs, "my_experiment", event)) == count
    # The event stands after the last batch of its epoch.
    assert [row["seq"] for row in events_of(logs, "my_experiment", "epoch_end")] == [
        batches * (epoch + 1) for epoch in range(num_epochs)
    ]

    summary = summary_of(logs, "my_experiment")
    assert summary["status"] == "completed"
    assert summary["total_metrics"] == num_epochs * batches
    assert summary["total_errors"] == 0
    assert summary["hyperparameters"] == hyperparams
    assert summary["loss_stats"]["min"] == min(train_losses)
    assert summary["loss_stats"]["max"] == max(train_losses)


@pytest.mark.torch
def test_text_and_jsonl_hold_the_same_records_in_the_order_they_were_logged(advanced_logger, training):
    """Each epoch's lines stand between its start and its end."""
    for epoch in range(1, 3):
        advanced_logger.start_epoch(epoch, 2)
        for batch, (data, targets) in enumerate(training.dataloader, start=1):
            loss = training.train_step(data, targets).item()
            advanced_logger.log_batch_progress(epoch, batch, len(training.dataloader), loss)
        advanced_logger.end_epoch(epoch)
    assert advanced_logger.close()

    text = "\n".join(physical_lines(Path("logs/my_experiment_training.log")))
    last_of_first, first_of_second = text.index(" epoch=1 batch=6/6 "), text.index(" epoch=2 batch=1/6 ")
    assert last_of_first < first_of_second
    rows = json_lines(Path("logs/my_experiment_metrics.jsonl"))
    lines = batch_lines(Path("logs/my_experiment_training.log"))
    assert [line.timestamp for line in lines] == [row["timestamp"] for row in rows]
