"""Which process this is: its rank, its launch and its host, read from arguments and the launcher's variables."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from ..exceptions import expected
from .processes import machine_id, process_start


@dataclass(frozen=True)
class _Launcher:
    """The variables of one launcher: of those given, the first that is set tells."""

    rank: tuple[str, ...]
    world_size: tuple[str, ...]
    local_rank: tuple[str, ...]
    names_launch: tuple[str, ...]
    """What together tells one launch from every other: the same in all of its ranks, on all of its machines."""


# The innermost first: mpirun and torchrun inherit SLURM's variables where they were started in a job of its, and those
# are then the same in all the processes of a machine. A step of SLURM is named by SLURM alone: torchrun may have been
# started in one step on each machine.
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
_BY_HAND = _Launcher((), ("WORLD_SIZE",), ("LOCAL_RANK",), ("MASTER_PORT",))


@dataclass(frozen=True)
class RankIdentity:
    """One process among those of its launch."""

    rank: int
    world_size: int
    launch_key: str | None
    """The same in every rank of one launch, on every machine, and in its restarts. Another in another launch, unless
    both are named alike (torchrun without `--rdzv-id` names none, and takes the same port each time). None without a
    launch of several."""
    host: str
    pid: int
    restart: int = 0
    """torchrun's count of restarts, which it keeps for each machine by itself."""
    local_rank: int | None = None
    """The rank among the processes of this host; None where nothing says it."""


@dataclass(frozen=True)
class RunIdentity:
    """One attempt of one run, as this process takes part in it."""

    run_id: str
    """32 hexadecimal digits, the same for every attempt and rank of the run."""
    name: str
    attempt: int
    rank: int
    world_size: int
    host: str
    pid: int
    local_rank: int | None = None
    """The rank among the processes of this host; None where nothing says it."""


def rank_identity(rank: int | None, world_size: int | None, environ: Mapping[str, str] | None = None) -> RankIdentity:
    """This process's rank: the arguments, else the variables of torchrun, Open MPI, PMI or SLURM, else 0 of 1.

    :raises ValueError: a variable is no number, or the rank does not lie below the world size.
    """
    env = os.environ if environ is None else environ
    launcher = next((each for each in _LAUNCHERS if env.get(each.rank[0])), _BY_HAND)
    found_rank = _number(env, launcher.rank) if rank is None else rank
    found_world = _number(env, launcher.world_size) if world_size is None else world_size
    own = found_rank or 0
    world = own + 1 if found_world is None else max(found_world, 1)
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
        # Every machine has a localhost of its own.
        local = address == "localhost" or address.startswith("127.") or address == "::1"
        named.append(f"MASTER_ADDR={host if local else address}")
    if not named and world_size > 1 and (parent := os.getppid()) > 1:
        # Started by hand, or by a program that passes the rank as an argument: the ranks are children of one parent.
        named.append(f"parent={machine_id()}/{parent}/{process_start(parent)}")
    return "|".join([*named, f"world={world_size}"]) if named else None
