"""One summary of all ranks while they train, over a real process group; and what it says where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from advlog_fast import AdvancedLogger

PROGRAM = """
import json, os, sys, time
import torch
import torch.distributed as dist
from advlog_fast import AdvancedLogger

rank, world_size, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
store = dist.FileStore(os.path.join(folder, "store"), world_size)
dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
with AdvancedLogger(os.path.join(folder, "logs"), "run", console="off", rank=rank, world_size=world_size) as log:
    for batch in range(1, 11):
        log.log_batch_progress(1, batch, 10, float(rank), batch_time=0.1 * (rank + 1), mine=batch)
    if rank == 1:
        log.log_error("broken", "op")
    CALL
dist.barrier()
dist.destroy_process_group()
"""


def processes(tmp_path: Path, world_size: int, call: str) -> list[str]:
    """What each rank printed."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("    CALL", textwrap.indent(textwrap.dedent(call).strip(), "    ")))
    command = [sys.executable, str(program)]
    started = [
        subprocess.Popen(
            [*command, str(rank), str(world_size), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]
    ended = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0] * world_size, [stderr for _, stderr in ended]
    return [stdout for stdout, _ in ended]


@pytest.mark.torch
def test_every_rank_gets_the_same_summary_of_all(tmp_path):
    out = processes(tmp_path, 3, "print(json.dumps(log.reduce_summary()))")
    found = [json.loads(text) for text in out]
    assert found[0] == found[1] == found[2]
    summary = found[0]
    assert (summary["world_size"], summary["total_metrics"], summary["total_errors"]) == (3, 30, 1)
    assert summary["loss_stats"] == {"min": 0.0, "max": 2.0, "mean": 1.0, "std": pytest.approx((2 / 3) ** 0.5)}
    assert summary["metrics"]["mine"]["count"] == 30
    assert summary["metrics"]["mine"]["mean"] == pytest.approx(5.5)
    ranks = [(told["rank"], told["total_metrics"], told["step"], told["batch_time"]) for told in summary["ranks"]]
    assert ranks == [(rank, 10, 10, pytest.approx(0.1 * (rank + 1))) for rank in range(3)]


@pytest.mark.torch
def test_a_rank_that_does_not_come_ends_the_wait_and_not_the_training(tmp_path):
    call = """
    if rank == 0:
        try:
            log.reduce_summary(timeout_s=0.5)
        except TimeoutError as error:
            print(error)
        os._exit(0)
    time.sleep(3)
    os._exit(0)
    """
    out = processes(tmp_path, 2, call)
    assert out[0] == "reduce_summary: expected 2 ranks within 0.5 s, and not all of them came\n"


def test_alone_it_is_this_rank_s(tmp_path):
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        log.log_batch_progress(1, 1, 2, 0.5)
        log.log_batch_progress(1, 2, 2, 1.5, accuracy=0.25)
        found = log.reduce_summary()
    assert (found["world_size"], found["total_metrics"], found["total_errors"]) == (1, 2, 0)
    assert found["loss_stats"] == {"min": 0.5, "max": 1.5, "mean": 1.0, "std": 0.5}
    assert found["accuracy_stats"]["mean"] == 0.25
    assert [told["rank"] for told in found["ranks"]] == [0]


def test_of_many_ranks_without_a_process_group_it_is_an_error_that_says_so(tmp_path):
    with AdvancedLogger(tmp_path, "run", console="off", rank=0, world_size=4) as log:
        with pytest.raises(RuntimeError, match=r"an initialised torch\.distributed process group of 4 ranks, got none"):
            log.reduce_summary()
        with pytest.raises(TypeError, match="timeout_s: expected seconds, got str 'long'"):
            log.reduce_summary(timeout_s="long")
