"""A whole training run in torch with everything logged: batches, epochs, validation, milestones, errors.

    python examples/optimized_trainer.py --epochs 5 --log-dir logs

On a GPU if there is one. The data are scikit-learn's images of digits, or random clusters without it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from advlog_fast import AdvancedLogger, TrainingProgressTracker


class OptimizedTrainer:
    """Trains a classifier; with a logger it logs every batch, without one it only trains."""

    def __init__(self, model: Any, config: dict[str, Any], advanced_logger: AdvancedLogger | None = None) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device)
        self.config = config
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config["learning_rate"])
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=config["epochs"])
        self.criterion = nn.CrossEntropyLoss()
        self.advanced_logger = advanced_logger
        self.progress_tracker = None
        if advanced_logger:
            self.progress_tracker = TrainingProgressTracker(advanced_logger)

    def fit(self, dataloader: Any, val_dataloader: Any) -> dict[str, float]:
        """Train for the configured epochs; the final metrics."""
        log, epochs = self.advanced_logger, self.config["epochs"]
        if log:
            log.start_training(self.config)
            log.log_hyperparameters({**self.config, "optimizer": type(self.optimizer).__name__})
            log.log_model_info(self.model)
        best_accuracy = 0.0
        metrics: dict[str, float] = {}
        for epoch in range(1, epochs + 1):
            self.train_epoch(dataloader, epoch, epochs)
            metrics = self.validate(val_dataloader)
            if log:
                log.log_validation(epoch, metrics, is_best=metrics["accuracy"] > best_accuracy)
                log.end_epoch(epoch, metrics)
                log.log_memory_usage()
            best_accuracy = max(best_accuracy, metrics["accuracy"])
            self.scheduler.step()
        final = {f"final_{name}": value for name, value in metrics.items()} | {"best_accuracy": best_accuracy}
        if log:
            log.end_training(final)
        return final

    def train_epoch(self, dataloader: Any, epoch: int = 1, total_epochs: int = 1) -> None:
        log = self.advanced_logger
        if log:
            log.start_epoch(epoch, total_epochs)
        self.model.train()
        batch_start = time.perf_counter()
        for batch, (data, targets) in enumerate(dataloader, start=1):
            data_time = time.perf_counter() - batch_start
            try:
                loss, accuracy, gradient_norm = self._train_step(data, targets)
            except Exception as error:
                if log:
                    context = {
                        "epoch": epoch,
                        "batch": batch,
                        "shape": tuple(data.shape),
                        "device": self.device,
                    }
                    log.log_error(error, operation="train_step", context=context)
                raise
            if log:
                log.log_batch_progress(
                    epoch=epoch,
                    batch=batch,
                    total_batches=len(dataloader),
                    loss=loss,
                    accuracy=accuracy,
                    learning_rate=self.optimizer.param_groups[0]["lr"],
                    gradient_norm=gradient_norm,
                    batch_time=time.perf_counter() - batch_start,
                    data_time=data_time,
                    samples=len(targets),
                )
            if self.progress_tracker:
                self.progress_tracker.update_progress(epoch, batch, len(dataloader), total_epochs)
            batch_start = time.perf_counter()

    def validate(self, dataloader: Any) -> dict[str, float]:
        self.model.eval()
        loss = 0.0
        right = count = 0
        with torch.no_grad():
            for data, targets in dataloader:
                outputs, on_device = self.model(data.to(self.device)), targets.to(self.device)
                loss += self.criterion(outputs, on_device).item() * len(targets)
                right += int((outputs.argmax(dim=1) == on_device).sum())
                count += len(targets)
        return {"loss": loss / count, "accuracy": right / count}

    def _train_step(self, data: Any, targets: Any) -> tuple[float, float, float]:
        data, targets = data.to(self.device), targets.to(self.device)
        self.optimizer.zero_grad()
        outputs = self.model(data)
        loss = self.criterion(outputs, targets)
        loss.backward()
        gradient_norm = nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=1.0)
        self.optimizer.step()
        accuracy = (outputs.argmax(dim=1) == targets).double().mean()
        return loss.item(), accuracy.item(), gradient_norm.item()


def images() -> tuple[torch.Tensor, torch.Tensor]:
    """64 pixels an image, and which of 10 classes it shows."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        targets = torch.arange(1797) % 10
        centres = torch.rand(10, 64)
        return centres[targets] + 0.3 * torch.randn(1797, 64), targets
    inputs, targets = load_digits(return_X_y=True)
    return torch.tensor(inputs / 16.0, dtype=torch.float32), torch.tensor(targets)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a classifier with everything logged.")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--log-dir", type=Path, default=Path("logs"))
    args = parser.parse_args()

    torch.manual_seed(0)
    inputs, targets = images()
    order = torch.randperm(len(targets))
    train, test = order[:-360], order[-360:]
    dataloader = DataLoader(TensorDataset(inputs[train], targets[train]), batch_size=32, shuffle=True)
    val_dataloader = DataLoader(TensorDataset(inputs[test], targets[test]), batch_size=360)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    config = {"model": "64-128-10", "batch_size": 32, "epochs": args.epochs, "learning_rate": 3e-3}

    with AdvancedLogger(args.log_dir, "optimized_trainer") as advanced_logger:
        trainer = OptimizedTrainer(model, config, advanced_logger)
        with advanced_logger.training_context("model_training"):
            final = trainer.fit(dataloader, val_dataloader)
        summary = advanced_logger.get_training_summary()

    print(f"accuracy {final['final_accuracy']:.1%}, best {final['best_accuracy']:.1%}")
    print(f"{summary['total_metrics']} batches logged in {summary['training_duration']}: {args.log_dir}")


if __name__ == "__main__":
    main()
