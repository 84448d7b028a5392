"""DistributedDataParallel with every batch of every rank logged; restarted, it goes on from its checkpoint.

    torchrun --standalone --nproc-per-node 4 --max-restarts 2 examples/ddp_torchrun.py --log-dir logs

With nccl where there is a GPU for every rank of a machine, else with gloo on CPUs. Without torchrun it trains alone:

    python examples/ddp_torchrun.py

`ddp_torchrun.sbatch` beside it starts it on two nodes under SLURM.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, Subset, TensorDataset

from advlog_fast import AdvancedLogger


class OwnTime:
    """Seconds that this rank needs for a batch by itself, however long it then waits for the others."""

    def __init__(self, model: DistributedDataParallel, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._began = self._ended = self._now()
        model.register_comm_hook(dist.group.WORLD, lambda group, bucket: allreduce_hook(group, self._noted(bucket)))

    def start(self) -> None:
        self._began = self._now()

    def seconds(self) -> float:
        """From the start of the batch until its last gradient was computed; on a GPU to be asked after `item()`."""
        if self._cuda:
            return float(self._began.elapsed_time(self._ended)) / 1000
        return float(self._ended - self._began)

    def _noted(self, bucket: Any) -> Any:
        # backward() returns when the slowest rank's gradients have come: a step takes equally long on all ranks, and
        # tells nothing of any. DDP hands over each bucket of this rank's own gradients when it is ready, and sends it
        # while backward goes on; with the last one the rank's work is done, and its waiting begins.
        if bucket.is_last():
            self._ended = self._now()
        return bucket

    def _now(self) -> Any:
        """On a GPU the moment in its stream: the host is ahead of it."""
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call, unused-ignore]
        event.record()
        return event


class DistributedTrainer:
    """Trains a classifier on all ranks, and saves and loads where it is."""

    def __init__(self, args: argparse.Namespace, device: torch.device, log: AdvancedLogger) -> None:
        self.args, self.device, self.log = args, device, log
        self.rank = dist.get_rank()
        self.dataset = clusters(8192)
        self.sampler: DistributedSampler[Any] = DistributedSampler(self.dataset, drop_last=True)
        self.batches = len(self.sampler) // args.batch_size
        self.step = 0

        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
        self.network = network.to(device)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3)
        self.criterion = nn.CrossEntropyLoss()
        self.load()
        self.model = DistributedDataParallel(self.network, device_ids=[device] if device.type == "cuda" else None)
        self.own_time = OwnTime(self.model, device)

    def fit(self) -> None:
        """Train from where the checkpoint was, to the end of the last epoch."""
        for epoch in range(self.step // self.batches + 1, self.args.epochs + 1):
            self.log.start_epoch(epoch, self.args.epochs)
            self.train_epoch(epoch)
            self.log.end_epoch(epoch)

    def train_epoch(self, epoch: int) -> None:
        done = self.step % self.batches
        self.own_time.start()
        batch_start = time.perf_counter()
        for batch, (data, targets) in enumerate(self.dataloader(epoch, done), start=done + 1):
            inputs, labels = data.to(self.device), targets.to(self.device)
            data_time = time.perf_counter() - batch_start
            try:
                loss, accuracy, gradient_norm = self._train_step(inputs, labels)
            except Exception as error:
                self.log.log_error(error, operation="train_step", context={"epoch": epoch, "batch": batch})
                raise
            self.log.log_batch_progress(
                epoch=epoch,
                batch=batch,
                total_batches=self.batches,
                loss=loss,
                accuracy=accuracy,
                learning_rate=self.optimizer.param_groups[0]["lr"],
                gradient_norm=gradient_norm,
                batch_time=self.own_time.seconds(),
                data_time=data_time,
                samples=len(targets),
            )
            self.step += 1
            if self.step % self.args.checkpoint_every == 0 or self.step == self.batches * self.args.epochs:
                self.save()
            self.own_time.start()
            batch_start = time.perf_counter()

    def dataloader(self, epoch: int, done: int) -> DataLoader[Any]:
        """This rank's batches of the epoch but the first `done`; their order is the same in every attempt."""
        self.sampler.set_epoch(epoch)
        rest = list(self.sampler)[done * self.args.batch_size : self.batches * self.args.batch_size]
        return DataLoader(Subset(self.dataset, rest), batch_size=self.args.batch_size)

    def save(self) -> None:
        """Rank 0 writes a checkpoint. A kill meanwhile leaves the one before: it is replaced by a rename."""
        if self.rank != 0:
            return
        checkpoint = {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "log": self.log.state_dict(),
        }
        temporary = self.args.checkpoint.with_suffix(".tmp")
        torch.save(checkpoint, temporary)
        temporary.replace(self.args.checkpoint)

    def load(self) -> None:
        """All ranks load the same one: there is no next before all of them have trained together."""
        if not self.args.checkpoint.exists():
            return
        checkpoint = torch.load(self.args.checkpoint, map_location=self.device, weights_only=True)
        self.network.load_state_dict(checkpoint["model"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.step = checkpoint["step"]
        self.log.load_state_dict(checkpoint["log"])

    def _train_step(self, inputs: torch.Tensor, labels: torch.Tensor) -> tuple[float, float, float]:
        if self.rank == self.args.slow_rank:
            with self.model.no_sync():
                self.criterion(self.model(inputs[::2]), labels[::2]).backward()
        self.optimizer.zero_grad()
        outputs = self.model(inputs)
        loss = self.criterion(outputs, labels)
        loss.backward()
        gradient_norm = nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=1.0)
        self.optimizer.step()
        accuracy = (outputs.argmax(dim=1) == labels).double().mean()
        return loss.item(), accuracy.item(), gradient_norm.item()


def clusters(count: int) -> TensorDataset:
    """Points about ten centres in 64 dimensions and which it is of each, the same on every rank."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 10
    centres = torch.rand(10, 64, generator=random)
    return TensorDataset(centres[labels] + 0.5 * torch.randn(count, 64, generator=random), labels)


def join_ranks(attempt: int) -> torch.device:
    """Meet the other ranks that torchrun has started, if it has; the device of this one."""
    local_rank, local_world = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cuda = torch.cuda.device_count() >= local_world
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    backend = "nccl" if cuda else "gloo"
    if "RANK" in os.environ:
        store, rank, world_size = next(rendezvous("env://"))
    else:
        store, rank, world_size = next(rendezvous("tcp://127.0.0.1:0", rank=0, world_size=1))
    # torchrun keeps its store over restarts, and with it the addresses of ranks that are gone (torch 2.13). The number
    # of the attempt is the same on all ranks, and another after each restart.
    store = dist.PrefixStore(f"attempt {attempt}", store)  # type: ignore[attr-defined, unused-ignore]
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)
    return device


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a classifier on several ranks with everything logged.")
    parser.add_argument("--log-dir", type=Path, default=Path("logs"))
    parser.add_argument("--checkpoint", type=Path, help="default: ddp_torchrun.pt in the log directory")
    parser.add_argument("--checkpoint-every", type=int, default=50, metavar="STEPS")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64, help="of each rank")
    parser.add_argument("--slow-rank", type=int, metavar="RANK", help="this one works 1.5 times as long on each batch")
    args = parser.parse_args()
    args.checkpoint = args.checkpoint or args.log_dir / "ddp_torchrun.pt"

    # Made on every rank alike: it finds rank, world and attempt in the launcher's variables.
    with AdvancedLogger(args.log_dir, "ddp_torchrun") as log:
        device = join_ranks(log.attempt)
        log.start_training(args)
        trainer = DistributedTrainer(args, device, log)
        trainer.fit()
        log.end_training()
        summary = log.reduce_summary()
    if dist.get_rank() == 0 and not summary["total_metrics"]:
        print(f"nothing is left to train: {args.checkpoint} is at the end of epoch {args.epochs}")
    elif dist.get_rank() == 0:
        loss = summary["loss_stats"]
        print(
            f"{summary['total_metrics']} batches on {summary['world_size']} ranks, "
            f"loss {loss['mean']:.4f} (min {loss['min']:.4f}), {summary['total_errors']} errors: {args.log_dir}"
        )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
