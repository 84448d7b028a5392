"""A Lightning training with every batch of every rank logged: one callback, and a logger for what `self.log` gives.

    python examples/lightning_training.py --epochs 3 --log-dir logs
    python examples/lightning_training.py --devices 2

Afterwards: `advlog show logs lightning`.
"""

from __future__ import annotations

import argparse
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from advlog_fast.integrations.lightning import AdvlogCallback, AdvlogLogger


class Classifier(pl.LightningModule):  # type: ignore[misc] # Lightning may not be installed
    """Two classes of points, by a small network."""

    def __init__(self, learning_rate: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        points, classes = batch
        scores = self.network(points)
        loss = nn.functional.cross_entropy(scores, classes)
        self.log("train_loss", loss)
        # Beside the loss, the callback logs each single number that is returned.
        return {"loss": loss, "accuracy": (scores.argmax(1) == classes).float().mean()}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        points, classes = batch
        scores = self.network(points)
        self.log("val_loss", nn.functional.cross_entropy(scores, classes), sync_dist=True)
        self.log("val_accuracy", (scores.argmax(1) == classes).float().mean(), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), self.hparams["learning_rate"])


def data(count: int, seed: int) -> DataLoader[Any]:
    points = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    classes = (points.prod(1) > 0).long()
    return DataLoader(TensorDataset(points, classes), batch_size=32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--log-dir", default="logs")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--devices", type=int, default=1)
    args = parser.parse_args()
    trainer = pl.Trainer(
        max_epochs=args.epochs,
        accelerator="auto" if torch.cuda.is_available() else "cpu",
        devices=args.devices,
        logger=AdvlogLogger(args.log_dir),
        callbacks=[AdvlogCallback()],  # into the logger's run
    )
    trainer.fit(Classifier(), data(1024, seed=1), data(256, seed=2))


if __name__ == "__main__":
    main()
