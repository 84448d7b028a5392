"""The rank, launch and host of this process, from arguments and the launcher's variables."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from ..exceptions import expected
from .processes import machine_id, process_start


@dataclass(frozen=True)
class _Launcher:
    """The environment variables of one launcher: the first that is set counts."""

    rank: tuple[str, ...]
    world_size: tuple[str, ...]
    local_rank: tuple[str, ...]
    names_launch: tuple[str, ...]
    """Variables that together identify one launch: equal in all of its ranks, on all of its machines."""


# The innermost launcher comes first: mpirun and torchrun inherit SLURM's variables in a SLURM job, and those are then
# equal in all processes of a machine. The launches of torchrun and mpirun leave out the step id: a user may start
# torchrun in a separate step on each machine.
_LAUNCHERS = (
    _Launcher(
        ("RANK",),
        ("WORLD_SIZE",),
        ("LOCAL_RANK",),
        ("TORCHELASTIC_RUN_ID", "MASTER_PORT", "SLURM_JOB_ID", "SLURM_RESTART_COUNT"),
    ),
    _Launcher(
        ("OMPI_COMM_WORLD_RANK",),
        ("OMPI_COMM_WORLD_SIZE",),
        ("OMPI_COMM_WORLD_LOCAL_RANK",),
        ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "SLURM_JOB_ID", "SLURM_RESTART_COUNT"),
    ),
    _Launcher(
        ("PMI_RANK",),
        ("PMI_SIZE",),
        ("MPI_LOCALRANKID", "PMI_LOCAL_RANK", "SLURM_LOCALID"),
        ("PMI_JOBID", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"),
    ),
    _Launcher(
        ("SLURM_PROCID",),
        ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
        ("SLURM_LOCALID",),
        ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"),
    ),
)
_SLURM = _LAUNCHERS[-1]
_SLURM_SPECIAL_STEPS = 0xFFFFFFF0
"""Numbers of steps from here on are no steps of srun: SLURM_BATCH_SCRIPT, SLURM_INTERACTIVE_STEP (slurm.h)."""
_BY_HAND = _Launcher((), ("WORLD_SIZE",), ("LOCAL_RANK",), ("MASTER_PORT",))


@dataclass(frozen=True)
class RankIdentity:
    """One process among those of its launch."""

    rank: int
    world_size: int
    launch_key: str | None
    """Equal in every rank of one launch, on every machine, and in its restarts. Two launches differ unless their names
    are equal (torchrun without `--rdzv-id` sets none, and uses the same port each time). None for a single process."""
    host: str
    pid: int
    restart: int = 0
    """torchrun's restart count, which it keeps separately on each machine."""
    local_rank: int | None = None
    """The rank among the processes of this host; None if no variable says it."""


@dataclass(frozen=True)
class RunIdentity:
    """This process's place in a run: the attempt and the rank."""

    run_id: str
    """32 hexadecimal digits, equal for every attempt and rank of the run."""
    name: str
    attempt: int
    rank: int
    world_size: int
    host: str
    pid: int
    local_rank: int | None = None
    """The rank among the processes of this host; None if no variable says it."""


def rank_identity(rank: int | None, world_size: int | None, environ: Mapping[str, str] | None = None) -> RankIdentity:
    """Returns this process's rank: from the arguments, else from torchrun, Open MPI, PMI or SLURM, else 0 of 1.

    :raises ValueError: a variable is no number, or the rank is not below the world size.
    """
    env = os.environ if environ is None else environ
    launcher = next(
        (each for each in _LAUNCHERS if env.get(each.rank[0]) and not _is_batch_script(env, each)), _BY_HAND
    )
    own = _number(env, launcher.rank) if rank is None else rank
    if own is None:
        own = _rank_of_lightning(env) if launcher is _BY_HAND and env.get("LOCAL_RANK") else 0
    size = _number(env, launcher.world_size) if world_size is None else world_size
    world = own + 1 if size is None else max(size, 1)
    if own >= world:
        raise ValueError(expected("rank", f"a rank below the world size, {world}", own))
    host = socket.gethostname()
    return RankIdentity(
        rank=own,
        world_size=world,
        launch_key=_launch_key(env, launcher, world, host),
        host=host,
        pid=os.getpid(),
        restart=_number(env, ("TORCHELASTIC_RESTART_COUNT",)) or 0,
        local_rank=_number(env, launcher.local_rank),
    )


def _is_batch_script(env: Mapping[str, str], launcher: _Launcher) -> bool:
    """Returns whether SLURM's variables are those of a job, in a process that no srun started: a batch script, an
    interactive shell. Then they say how many tasks the job has, and not how many processes log."""
    if launcher is not _SLURM:
        return False
    step = env.get("SLURM_STEP_ID") or env.get("SLURM_STEPID") or ""
    return step.isdecimal() and int(step) >= _SLURM_SPECIAL_STEPS


def _rank_of_lightning(env: Mapping[str, str]) -> int:
    """Returns the rank of a process that Lightning's own launcher started, which sets LOCAL_RANK and not RANK.

    :raises ValueError: it is on a further machine, and how many processes each has is not known.
    """
    local, node = _number(env, ("LOCAL_RANK",)) or 0, _number(env, ("NODE_RANK", "GROUP_RANK")) or 0
    if node == 0:
        return local
    each = _number(env, ("LOCAL_WORLD_SIZE",))
    if each is None:
        wanted = (
            "RANK beside LOCAL_RANK and NODE_RANK, as torchrun sets it; Lightning's own launcher does not: pass rank="
        )
        raise ValueError(expected("rank", wanted, None))
    return node * each + local


def _number(env: Mapping[str, str], variables: tuple[str, ...]) -> int | None:
    for name in variables:
        text = env.get(name)
        if text:
            try:
                value = int(text)
            except ValueError:
                raise ValueError(expected(name, "a number in the environment", text)) from None
            if value < 0:
                raise ValueError(expected(name, "a number from 0 on in the environment", value))
            return value
    return None


def _launch_key(env: Mapping[str, str], launcher: _Launcher, world_size: int, host: str) -> str | None:
    named = [f"{name}={env[name]}" for name in launcher.names_launch if env.get(name)]
    if named and (address := env.get("MASTER_ADDR")):
        # localhost names a different machine on each host.
        local = address == "localhost" or address.startswith("127.") or address == "::1"
        named.append(f"MASTER_ADDR={host if local else address}")
    if not named and world_size > 1 and (parent := os.getppid()) > 1:
        # Ranks started by hand, or by a program that passes rank=, are children of one parent.
        named.append(f"parent={machine_id()}/{parent}/{process_start(parent)}")
    return "|".join([*named, f"world={world_size}"]) if named else None
