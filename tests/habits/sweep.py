"""Twenty learning rates in one process, a run each; one of them fails, and the sweep goes on."""

import sys

import torch
from torch import nn

from advlog_fast import AdvancedLogger

STEPS = 15

for trial in range(20):
    torch.manual_seed(0)
    rate = 10 ** (-3 + trial / 5)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    try:
        with AdvancedLogger(sys.argv[1], f"trial{trial:02d}", console="off", memory_interval_s=0) as log:
            log.start_training({"lr": rate})
            for step in range(1, STEPS + 1):
                x = torch.randn(16, 4)
                loss = nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                log.log_batch_progress(1, step, STEPS, loss)
                if trial == 13 and step == 10:
                    raise RuntimeError("CUDA out of memory, it says")
    except RuntimeError:
        continue
