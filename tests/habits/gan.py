"""A GAN that learns a normal distribution: two losses a batch, logged by two calls."""

import sys

import torch
from torch import nn

from advlog_fast import AdvancedLogger

STEPS = 100

torch.manual_seed(0)
generator = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
critic = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 1))
for_generator = torch.optim.Adam(generator.parameters(), lr=1e-2)
for_critic = torch.optim.Adam(critic.parameters(), lr=1e-2)
says = nn.functional.binary_cross_entropy_with_logits
with AdvancedLogger(sys.argv[1], "gan", console="off") as log:
    for step in range(STEPS):
        real, noise = 3 + torch.randn(64, 1), torch.randn(64, 2)
        made = generator(noise)
        loss_d = says(critic(real), torch.ones(64, 1)) + says(critic(made.detach()), torch.zeros(64, 1))
        for_critic.zero_grad()
        loss_d.backward()
        for_critic.step()
        log.log_metrics({"loss_d": loss_d.item()}, step=step)
        loss_g = says(critic(made), torch.ones(64, 1))
        for_generator.zero_grad()
        loss_g.backward()
        for_generator.step()
        log.log_metrics({"loss_g": loss_g.item(), "fake_mean": made.mean()}, step=step)
