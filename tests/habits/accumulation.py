"""Gradients of four batches are accumulated; evaluated in the loop, at the step of the batch before."""

import sys

import torch
from torch import nn

from advlog_fast import AdvancedLogger

STEPS, MICRO = 20, 4

torch.manual_seed(0)
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with AdvancedLogger(sys.argv[1], "accumulated", console="off") as log:
    for step in range(1, STEPS + 1):
        total = 0.0
        for _ in range(MICRO):
            x = torch.randn(16, 4)
            loss = nn.functional.mse_loss(model(x), x.sum(1, keepdim=True)) / MICRO
            loss.backward()
            total += loss.item()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        log.log_batch_progress(1, step, STEPS, total, learning_rate=0.1, gradient_norm=norm)
        if step % 5 == 0:
            x = torch.randn(256, 4)
            with torch.no_grad():
                log.log_metrics({"eval/mse": nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))}, step=step)
