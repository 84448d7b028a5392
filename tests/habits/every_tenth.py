"""Every tenth batch is logged; a validation decides the best checkpoint; killed in the middle and started again:
`python every_tenth.py DIR [kill]`."""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from advlog_fast import AdvancedLogger

EPOCHS, BATCHES, SIZE = 4, 50, 32
folder = Path(sys.argv[1])
checkpoint = folder / "last.pt"

torch.manual_seed(0)
inputs = torch.randn(BATCHES, SIZE, 4)
targets = inputs.sum(2, keepdim=True)
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
first = 0
with AdvancedLogger(folder, "tenth", console="off", memory_interval_s=0, best_metric="val/mse", best_mode="min") as log:
    log.start_training({"lr": 0.02, "epochs": EPOCHS})
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        log.load_state_dict(saved["log"])
        first = saved["epoch"] + 1
    for epoch in range(first, EPOCHS):
        log.start_epoch(epoch, EPOCHS)
        for batch, (x, y) in enumerate(zip(inputs, targets, strict=True)):
            loss = nn.functional.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if batch % 10 == 0:
                log.log_batch_progress(epoch, batch, BATCHES, loss, samples=SIZE)
            if sys.argv[2:] and epoch == 2 and batch == 25:
                log.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        with torch.no_grad():
            error = nn.functional.mse_loss(model(inputs), targets).item()
        log.log_validation(epoch, {"train/loss": loss.item(), "val/mse": error if epoch != 3 else 9.0})
        log.end_epoch(epoch)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save({**state, "log": log.state_dict(), "epoch": epoch}, checkpoint)
    log.end_training()
