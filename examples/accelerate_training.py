"""A training loop with Accelerate, every optimizer step of every rank logged: one call before the loop.

    python examples/accelerate_training.py --epochs 2 --log-dir logs
    torchrun --nproc-per-node 2 examples/accelerate_training.py

Afterwards: `advlog show logs points`.
"""

from __future__ import annotations

import argparse

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from advlog_fast.integrations.accelerate import open_on_all_ranks, register


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--log-dir", default="logs")
    parser.add_argument("--epochs", type=int, default=2)
    args = parser.parse_args()
    register()  # has Accelerate know "advlog"
    accelerator = Accelerator(
        log_with="advlog",
        project_dir=args.log_dir,
        gradient_accumulation_steps=2,
        cpu=not torch.cuda.is_available(),
    )
    accelerator.init_trackers("points", {"learning_rate": 0.05})
    log = open_on_all_ranks(accelerator, "points")
    accelerator.register_for_checkpointing(log)  # a resumed training goes on in one series

    points = torch.randn(2048, 2, generator=torch.Generator().manual_seed(1))
    data = DataLoader(TensorDataset(points, (points.prod(1) > 0).long()), batch_size=32)
    model: nn.Module = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    model, optimizer, data = accelerator.prepare(model, optimizer, data)

    for epoch in range(1, args.epochs + 1):
        right = total = 0
        for batch, classes in data:
            with accelerator.accumulate(model):
                scores = model(batch)
                accelerator.backward(nn.functional.cross_entropy(scores, classes))
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            right += int((scores.argmax(1) == classes).sum())
            total += len(classes)
        accelerator.log({"epoch": epoch, "train_accuracy": right / total})
    accelerator.end_training()


if __name__ == "__main__":
    main()
