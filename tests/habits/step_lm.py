"""A language model trained by steps, without epochs: it learns a sentence by heart, and is evaluated every 50 steps."""

import sys

import torch
from torch import nn

from advlog_fast import AdvancedLogger

TEXT = "the quick brown fox jumps over the lazy dog. " * 8
STEPS = 200

torch.manual_seed(0)
letters = sorted(set(TEXT))
data = torch.tensor([letters.index(letter) for letter in TEXT])
model = nn.Sequential(nn.Embedding(len(letters), 16), nn.Flatten(), nn.Linear(64, len(letters)))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
with AdvancedLogger(sys.argv[1], "lm", console="off") as log:
    tokens = 0
    for step in range(STEPS):
        starts = torch.randint(len(data) - 4, (32,))
        loss = nn.functional.cross_entropy(model(torch.stack([data[i : i + 4] for i in starts])), data[starts + 4])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tokens += 32 * 4
        log.log_batch_progress(None, None, None, loss, step=step, tokens=tokens)
        if step % 50 == 49:
            with torch.no_grad():
                whole = torch.stack([data[i : i + 4] for i in range(len(data) - 4)])
                log.log_metrics({"val/loss": nn.functional.cross_entropy(model(whole), data[4:])}, step=step)
