"""Guide: Integration with Optimization Demo; and the whole of it, examples/optimized_trainer.py."""

from pathlib import Path

import pytest
from run_files import batch_lines, events_of, json_lines, summary_of

from advlog_fast import AdvancedLogger, TrainingProgressTracker

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "optimized_trainer.py"


class OptimizedTrainer:
    """A trainer class as it stands; what it leaves open follows below."""

    def __init__(self, model, config, advanced_logger=None):
        self.advanced_logger = advanced_logger
        self.progress_tracker = None
        if advanced_logger:
            self.progress_tracker = TrainingProgressTracker(advanced_logger)
        self._complete(model, config)

    def train_epoch(self, dataloader, epoch=1, total_epochs=1):
        # Start epoch logging
        if self.advanced_logger:
            self.advanced_logger.start_epoch(epoch, total_epochs)

        for batch_idx, (data, targets) in enumerate(dataloader):
            # Training step with comprehensive logging
            loss, accuracy = self._train_step(data, targets)

            # Log batch progress
            if self.advanced_logger:
                self.advanced_logger.log_batch_progress(
                    epoch=epoch,
                    batch=batch_idx + 1,
                    total_batches=len(dataloader),
                    loss=loss,
                    accuracy=accuracy,
                    learning_rate=self.optimizer.param_groups[0]["lr"],
                    gradient_norm=self._calculate_gradient_norm(),
                )

                # Update progress tracker
                if self.progress_tracker:
                    self.progress_tracker.update_progress(epoch, batch_idx + 1, len(dataloader), total_epochs)

        metrics = {"loss": loss, "accuracy": accuracy}
        # End epoch logging
        if self.advanced_logger:
            self.advanced_logger.end_epoch(epoch, metrics)

    def _complete(self, model, config):
        import torch

        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=config["learning_rate"])
        self.losses = []

    def _train_step(self, data, targets):
        import torch

        self.optimizer.zero_grad()
        outputs = self.model(data)
        loss = torch.nn.functional.cross_entropy(outputs, targets)
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.item())
        return loss.item(), (outputs.argmax(dim=1) == targets).double().mean().item()

    def _calculate_gradient_norm(self):
        return sum(float(p.grad.norm()) ** 2 for p in self.model.parameters()) ** 0.5


@pytest.mark.torch
def test_the_guides_trainer_logs_every_batch_and_milestone(training):
    with AdvancedLogger(experiment_name="trainer") as advanced_logger:
        trainer = OptimizedTrainer(training.model, {"learning_rate": 0.1}, advanced_logger)
        for epoch in (1, 2):
            trainer.train_epoch(training.dataloader, epoch, total_epochs=2)
    logs = Path("logs")
    assert [row["loss"] for row in json_lines(logs / "trainer_metrics.jsonl")] == trainer.losses
    assert len(events_of(logs, "trainer", "milestone")) == 4 + 4 + 4
    assert len(events_of(logs, "trainer", "epoch_end")) == 2


@pytest.mark.torch
def test_the_guides_trainer_trains_without_a_logger(training):
    trainer = OptimizedTrainer(training.model, {"learning_rate": 0.1})
    trainer.train_epoch(training.dataloader)
    assert len(trainer.losses) == len(training.dataloader)
    assert not Path("logs").exists()


@pytest.mark.torch
def test_the_example_trains_and_leaves_its_logs(run_python, tmp_path):
    ended = run_python(EXAMPLE, "--epochs", "2", "--log-dir", tmp_path / "trained")
    assert ended.returncode == 0, ended.stderr
    logs = tmp_path / "trained"
    rows = json_lines(logs / "optimized_trainer_metrics.jsonl")
    assert {row["epoch"] for row in rows} == {1, 2}
    assert len(rows) == sum(row["batch"] == 1 for row in rows) * rows[0]["total_batches"]
    assert len(batch_lines(logs / "optimized_trainer_training.log")) == len(rows)
    summary = summary_of(logs, "optimized_trainer")
    assert summary["status"] == "completed"
    assert summary["total_metrics"] == len(rows)
    assert str(logs) in ended.stdout
