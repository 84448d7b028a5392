"""Reinforcement learning: a walk on a line whose end is a reward. No episode has ended at first: its return is None."""

import sys

import torch

from advlog_fast import AdvancedLogger

STEPS = 300

torch.manual_seed(0)
preference = torch.zeros(5, 2, requires_grad=True)
optimizer = torch.optim.Adam([preference], lr=0.1)
place, begun, last_return, episodes = 0, 0, None, 0
steps_taken: list[torch.Tensor] = []
with AdvancedLogger(sys.argv[1], "walk", console="off") as log:
    for step in range(STEPS):
        choice = torch.distributions.Categorical(logits=preference[place])
        action = choice.sample()
        steps_taken.append(choice.log_prob(action))
        place = max(0, place + (1 if action else -1))
        loss = None
        if place == 5 or step - begun == 60:
            last_return = (1.0 if place == 5 else 0.0) - 0.01 * (step - begun)
            loss = -(last_return * torch.stack(steps_taken).sum())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps_taken.clear()
            place, begun, episodes = 0, step + 1, episodes + 1
        log.log_metrics({"episode_return": last_return, "loss": loss}, step=step)
        log.log_batch_progress(None, step, None, loss, episode=episodes)
