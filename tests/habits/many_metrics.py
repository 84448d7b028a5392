"""16 metrics in a dict each step, and the norm of each of 2,000 weights every tenth."""

import sys

import torch
from torch import nn

from advlog_fast import AdvancedLogger

STEPS = 40

torch.manual_seed(0)
model = nn.Linear(1000, 2)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
with AdvancedLogger(sys.argv[1], "many", console="off", memory_interval_s=0) as log:
    for step in range(STEPS):
        x = torch.randn(32, 1000)
        losses = nn.functional.mse_loss(model(x), x[:, :2], reduction="none").mean(0)
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        gradient = model.weight.grad
        log.log_metrics(
            {
                **{f"loss/{i}": one.item() for i, one in enumerate(losses)},
                **{f"gradient/{i}": part.norm() for i, part in enumerate(gradient.chunk(14, dim=1))},
            },
            step=step,
        )
        if step % 10 == 0:
            flat = model.weight.detach().flatten().tolist()
            log.log_metrics({f"weight/{i:04d}": value for i, value in enumerate(flat)}, step=step)
