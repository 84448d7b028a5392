"""Under torchrun, rank 0 alone logs; the others train with it and have no logger."""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

STEPS = 20

dist.init_process_group("gloo")
rank = dist.get_rank()
log = None
if rank == 0:
    from advlog_fast import AdvancedLogger

    log = AdvancedLogger(sys.argv[1], "main", console="off", rank=0, world_size=1)
torch.manual_seed(rank)
model = DistributedDataParallel(nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(1, STEPS + 1):
    x = torch.randn(16, 4)
    loss = nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if log:
        log.log_batch_progress(1, step, STEPS, loss)
if log:
    log.close()
dist.barrier()  # so that no rank leaves the group while another still talks to it
dist.destroy_process_group()
