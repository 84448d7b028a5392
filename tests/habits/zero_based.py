"""Epochs and batches counted from 0, as `range` and `enumerate` do."""

import sys

import torch
from torch import nn

from advlog_fast import AdvancedLogger

EPOCHS, BATCHES = 3, 20

torch.manual_seed(0)
inputs = torch.randn(BATCHES, 32, 4)
targets = inputs.sum(2, keepdim=True)
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with AdvancedLogger(sys.argv[1], "zero", console="off") as log:
    log.start_training({"lr": 0.1, "epochs": EPOCHS})
    for epoch in range(EPOCHS):
        log.start_epoch(epoch, EPOCHS)
        for batch, (x, y) in enumerate(zip(inputs, targets, strict=True)):
            loss = nn.functional.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            log.log_batch_progress(epoch, batch, BATCHES, loss.item())
        log.end_epoch(epoch, {"loss": loss.item()})
    log.end_training({"loss": loss.item()})
