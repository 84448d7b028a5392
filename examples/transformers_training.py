"""Hugging Face's Trainer with every optimizer step of every rank logged: one callback.

    python examples/transformers_training.py --steps 50 --log-dir logs
    torchrun --nproc-per-node 2 examples/transformers_training.py

The model is a tiny GPT-2 that learns to count, made here: nothing is downloaded. Afterwards: `advlog show logs
counting`.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from advlog_fast.integrations.transformers import AdvlogCallback


class Counting(Dataset[Any]):  # type: ignore[misc, unused-ignore]
    """Numbers that follow each other, each sequence from another start."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, at: int) -> dict[str, torch.Tensor]:
        numbers = (torch.arange(16) + at) % 32
        return {"input_ids": numbers, "labels": numbers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--log-dir", default="logs")
    parser.add_argument("--steps", type=int, default=50)
    args = parser.parse_args()
    model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=16, n_embd=32, n_layer=2, n_head=2))
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=os.path.join(args.log_dir, "counting"),
            max_steps=args.steps,
            learning_rate=0.005,
            eval_strategy="steps",
            eval_steps=25,
            save_strategy="no",
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=Counting(4096),
        eval_dataset=Counting(32),
        callbacks=[AdvlogCallback(args.log_dir, "counting")],
    )
    trainer.train()


if __name__ == "__main__":
    main()
