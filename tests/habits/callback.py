"""A trainer's callback, given dicts of whatever the trainer has: a fraction of an epoch, strings, nested dicts."""

import sys
import warnings

import torch
from torch import nn

from advlog_fast import AdvancedLogger

STEPS, STEPS_AN_EPOCH = 30, 10


class Trainer:
    """A small one that calls back."""

    def __init__(self, callback):
        self.callback = callback
        self.model = nn.Linear(4, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def train(self):
        for step in range(1, STEPS + 1):
            x = torch.randn(16, 4)
            loss = nn.functional.mse_loss(self.model(x), x.sum(1, keepdim=True))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.callback(
                {
                    "loss": loss.item(),
                    "epoch": step / STEPS_AN_EPOCH,
                    "learning_rate": self.optimizer.param_groups[0]["lr"],
                    "phase": "train",
                    "norms": {"weight": self.model.weight.norm(), "bias": self.model.bias.norm()},
                    "best": None,
                },
                step,
            )


warnings.simplefilter("error")
torch.manual_seed(0)
with AdvancedLogger(sys.argv[1], "called_back", console="off") as log:
    Trainer(lambda logs, step: log.log_metrics(logs, step=step)).train()
