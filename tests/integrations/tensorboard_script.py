"""A training as its author wrote it for TensorBoard. A test changes the line that imports the writer."""

import argparse
import math

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter


def make_data(count, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 2, generator=generator)
    return x, (x.prod(1) > 0).long()


def accuracy(model, x, y):
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("log_dir")
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    torch.manual_seed(0)
    x, y = make_data(512, 1)
    x_val, y_val = make_data(128, 2)
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    writer = SummaryWriter(args.log_dir)
    writer.add_text("setup", f"adam, {args.epochs} epochs")
    step = 0
    for epoch in range(args.epochs):
        for start in range(0, len(x), 32):
            loss = nn.functional.cross_entropy(model(x[start : start + 32]), y[start : start + 32])
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            writer.add_scalar("Loss/train", loss, step)
            writer.add_scalar("Gradient norm", norm.item(), step)
            writer.add_scalar("LR", optimizer.param_groups[0]["lr"], global_step=step)
            step += 1
        train, val = accuracy(model, x, y), accuracy(model, x_val, y_val)
        writer.add_scalars("Accuracy", {"train": train, "val": val}, epoch)
        writer.add_scalar("epoch", epoch, step)
        writer.add_scalar("rank", 0, epoch)
        writer.flush()
    writer.add_scalar("special/nan", math.nan, 0)
    writer.add_scalar("special/inf", math.inf, 1)
    writer.add_scalar("Loss/train", 0.125, 3)  # a step that goes back
    writer.add_hparams({"lr": 0.02}, {"hparam/accuracy": float(val)}, run_name=".")
    writer.close()


if __name__ == "__main__":
    main()
