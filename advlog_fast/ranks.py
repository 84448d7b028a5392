"""Which process this is: its rank, its launch and its host, read from arguments and the launcher's variables."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from .exceptions import expected

_RANK_VARIABLES = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
_WORLD_VARIABLES = ("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


@dataclass(frozen=True)
class RankIdentity:
    """One process among those of its launch."""

    rank: int
    world_size: int
    launch_key: str | None
    """The same in every rank of one launch, another in every other launch; None without a launcher."""
    host: str
    pid: int


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


def rank_identity(rank: int | None, world_size: int | None, environ: Mapping[str, str] | None = None) -> RankIdentity:
    """This process's rank: the arguments, else torchrun's variables, SLURM's, Open MPI's, PMI's, else 0 of 1.

    :raises ValueError: a variable is no number, or the rank does not lie below the world size.
    """
    env = os.environ if environ is None else environ
    found_rank = _number(env, _RANK_VARIABLES) if rank is None else rank
    found_world = _number(env, _WORLD_VARIABLES) if world_size is None else world_size
    own = found_rank or 0
    world = own + 1 if found_world is None else max(found_world, 1)
    if own >= world:
        raise ValueError(expected("rank", f"a rank below the world size, {world}", own))
    return RankIdentity(own, world, _launch_key(env), socket.gethostname(), os.getpid())


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


def _launch_key(env: Mapping[str, str]) -> str | None:
    """TORCHELASTIC_RUN_ID alone is no key: it is the string "none" unless the user named the rendezvous."""
    parts = [
        env.get(name, "")
        for name in (
            "TORCHELASTIC_RUN_ID",
            "TORCHELASTIC_RESTART_COUNT",
            "SLURM_JOB_ID",
            "SLURM_STEP_ID",
            "OMPI_MCA_ess_base_jobid",
            "PMI_JOBID",
            "MASTER_ADDR",
            "MASTER_PORT",
        )
    ]
    return "|".join(parts) if any(parts) else None
