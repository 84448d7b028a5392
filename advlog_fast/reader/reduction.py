"""Reduces the summaries of all ranks to one during the training, over torch's process group."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from ..control.summaries import duration_text
from .statistics import of_ranks

_GUIDE_STATS = ("min", "max", "mean", "std")
_EARLY_S = 0.01
"""How much too early a wait of torch, in whole milliseconds, may end."""
_OF_A_RANK = ("rank", "host", "pid", "status", "attempt", "total_metrics", "total_errors", "duration_s")
_TOLD = (*_OF_A_RANK, "metrics", "last", "performance")


def reduce_summary(summary: Mapping[str, Any], world_size: int, timeout_s: float, group: Any) -> dict[str, Any]:
    """See :meth:`AdvancedLogger.reduce_summary`.

    :param summary: this rank's.
    """
    torch = sys.modules.get("torch")
    distributed = None if torch is None else torch.distributed
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        told = json.dumps({name: summary[name] for name in _TOLD if name in summary})
        summaries = [json.loads(data) for data in _gathered(torch, told.encode(), timeout_s, group)]
    elif world_size == 1:
        summaries = [dict(summary)]
    else:
        raise RuntimeError(
            f"reduce_summary: expected an initialised torch.distributed process group of {world_size} ranks, got none"
        )
    return reduced(summaries)


def reduced(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """The summaries of all ranks as one."""
    metrics = of_ranks(summaries)
    ranks = []
    for summary in summaries:
        told = {name: summary.get(name) for name in _OF_A_RANK}
        last, performance = summary.get("last") or {}, summary.get("performance") or {}
        told |= {"step": last.get("step"), "epoch": last.get("epoch")}
        told |= {name: (performance.get(name) or {}).get("mean") for name in ("batch_time", "data_time")}
        ranks.append(told)
    return {
        "world_size": len(summaries),
        "total_metrics": sum(summary.get("total_metrics") or 0 for summary in summaries),
        "total_errors": sum(summary.get("total_errors") or 0 for summary in summaries),
        "training_duration": duration_text(int(max(summary.get("duration_s") or 0 for summary in summaries))),
        "loss_stats": _guide_stats(metrics, "loss"),
        "accuracy_stats": _guide_stats(metrics, "accuracy"),
        "metrics": metrics,
        "ranks": ranks,
    }


def _guide_stats(metrics: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, float]:
    return {key: metrics.get(name, {}).get(key, math.nan) for key in _GUIDE_STATS}


def _gathered(torch: Any, mine: bytes, timeout_s: float, group: Any) -> list[bytes]:
    """Returns the summary of each rank of the group, in the order of the ranks.

    :raises TimeoutError: not all ranks came in time.
    """
    distributed = torch.distributed
    deadline = time.monotonic() + timeout_s
    on_gpu = distributed.get_backend(group) == "nccl"
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    world_size = distributed.get_world_size(group)

    def gather(tensor: Any) -> list[Any]:
        parts = [torch.empty_like(tensor) for _ in range(world_size)]
        work = distributed.all_gather(parts, tensor, group=group, async_op=True)
        left_s = max(deadline - time.monotonic(), 0.001)
        try:
            work.wait(timedelta(seconds=left_s))
        except RuntimeError as error:
            if time.monotonic() < deadline - _EARLY_S:
                raise
            reason = f"reduce_summary: expected {world_size} ranks within {timeout_s} s, and not all of them came"
            raise TimeoutError(reason) from error
        return parts

    sizes = [int(size) for size in gather(torch.tensor([len(mine)], dtype=torch.int64, device=device))]
    padded = bytearray(mine.ljust(max(sizes), b"\0"))
    data = torch.frombuffer(padded, dtype=torch.uint8).to(device)
    return [bytes(part.cpu().tolist()[:size]) for part, size in zip(gather(data), sizes, strict=True)]
