"""Becomes a daemon, as long trainings on a server do, and trains there."""

import os
import sys

import torch
from torch import nn

from advlog_fast import AdvancedLogger

if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
os.chdir("/")
for descriptor in (0, 1, 2):
    os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)

torch.manual_seed(0)
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with AdvancedLogger(sys.argv[1], "daemon") as log:
    log.start_training()
    for step in range(1, 31):
        x = torch.randn(16, 4)
        loss = nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log.log_batch_progress(1, step, 30, loss)
