"""Records the origin of a run, so that it can be repeated: the command, the machine, the software and the commit."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._hooks import importing
from .masking import masked_arguments
from .text import clipped

GIT_TIMEOUT_S = 2.0
"""The time limit for git, in seconds: a working tree on a sleeping network disk must not delay a start."""

JOB_VARIABLES = (
    "SLURM_JOB_ID",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "TORCHELASTIC_RUN_ID",
    "PBS_JOBID",
    "LSB_JOBID",
    "JOB_ID",
    "OAR_JOB_ID",
    "FLUX_JOB_ID",
    "RAY_JOB_ID",
    "KUBERNETES_POD_NAME",
    "AWS_BATCH_JOB_ID",
    "SM_TRAINING_JOB_NAME",
    "CLOUD_ML_JOB_ID",
)
"""The variables by which a scheduler or launcher tells a process its job."""

PACKAGES = (
    "advlog_fast",
    "torch",
    "numpy",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "torchvision",
    "transformers",
    "datasets",
    "accelerate",
    "lightning",
    "pytorch-lightning",
    "deepspeed",
    "tensorflow",
    "jax",
)
"""Whose versions are noted where they are installed."""

_MAX_ARGUMENTS = 1000
_MAX_ARGUMENT_BYTES = 1000


def gather() -> dict[str, Any]:
    """Everything known of this process's origin, as plain JSON types.

    Keys: `command` (with the interpreter's own arguments, secrets masked), `cwd`, `host`, `pid`, `job`,
    `python`, `platform`, `torch`, `cpu`, `memory_total_gb` (1024**3 bytes), `packages`, `git`. What cannot be
    found out is None; never raises. It takes some ten milliseconds, and at most about two seconds where git
    hangs. CUDA is not started for it.
    """
    probes: dict[str, Callable[[], Any]] = {
        "command": _command,
        "cwd": os.getcwd,
        "host": socket.gethostname,
        "pid": os.getpid,
        "job": _job,
        "python": _python,
        "platform": _platform,
        "torch": _torch,
        "cpu": _cpu,
        "memory_total_gb": _memory_total_gb,
        "packages": _packages,
        "git": _git,
    }
    return {name: _answer(probe) for name, probe in probes.items()}


def _answer(probe: Callable[[], Any]) -> Any:
    try:
        return probe()
    except Exception:  # noqa: BLE001 - whatever a probe meets, it costs that answer only
        return None


def _command() -> list[str]:
    shown = masked_arguments(sys.orig_argv[:_MAX_ARGUMENTS])
    if len(sys.orig_argv) > _MAX_ARGUMENTS:
        shown.append(f"... {len(sys.orig_argv) - _MAX_ARGUMENTS} more")
    return [clipped(argument, _MAX_ARGUMENT_BYTES) for argument in shown]


def _job() -> dict[str, str] | None:
    # torchrun says "none" where the user named no rendezvous: that names no job.
    variables = {name: value for name in JOB_VARIABLES if (value := os.environ.get(name)) and value != "none"}
    return variables or None


def _python() -> dict[str, Any]:
    return {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
    }


def _platform() -> str:
    # Not platform.platform(): it reads through the interpreter's file, and may start a process.
    system = os.uname()
    return f"{system.sysname}-{system.release}-{system.machine}"


def _torch() -> dict[str, Any] | None:
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    state: dict[str, Any] = {
        "version": _answer(lambda: str(torch.__version__)),
        "cuda": _answer(lambda: torch.version.cuda),
        "hip": _answer(lambda: torch.version.hip),
        "devices": None,
    }
    # Asking which devices there are starts CUDA, and then no fork may use it: only where it runs already.
    if _answer(lambda: bool(torch.cuda.is_initialized())):
        state["devices"] = _answer(lambda: [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())])
    return state


def _cpu() -> dict[str, Any]:
    return {
        "count": os.cpu_count(),
        "usable": _answer(lambda: len(os.sched_getaffinity(0))),
        "model": _answer(_cpu_model),
    }


def _cpu_model() -> str | None:
    if sys.platform == "darwin":
        return None
    with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model", "cpu model"):
                return value.strip()
    return None


def _memory_total_gb() -> float:
    with importing():
        import psutil

    return round(float(psutil.virtual_memory().total) / 1024**3, 3)


def _packages() -> dict[str, str]:
    versions: dict[str, str] = {}
    for name in PACKAGES:
        with contextlib.suppress(Exception):
            versions[name] = importlib.metadata.version(name)
    return versions


def _git() -> dict[str, Any] | None:
    """The commit that the main script, else the working directory, stands in."""
    deadline = time.monotonic() + GIT_TIMEOUT_S
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    script = Path(main).resolve() if main else None
    places = [script.parent] if script else []
    for place in dict.fromkeys([*places, Path.cwd()]):
        commit = _run_git(["rev-parse", "--verify", "HEAD"], place, deadline)
        if commit:
            status = ["status", "--porcelain"]
            changes = _run_git([*status, "--untracked-files=no"], place, deadline)
            if changes == "" and script:
                # What the commit does not have at all is a change too, where it is what runs.
                changes = _run_git([*status, "--untracked-files=all", "--", str(script)], place, deadline) or ""
            branch = _run_git(["symbolic-ref", "--short", "-q", "HEAD"], place, deadline)
            return {
                "commit": commit,
                "branch": branch or None,
                "dirty": None if changes is None else bool(changes),
            }
    return None


def _run_git(arguments: list[str], place: Path, deadline: float) -> str | None:
    """Returns what git prints; None where it fails or is not done by the deadline."""
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        return None
    # No lock that a commit beside us would trip over, no helper process of git's, no question to the user.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    git = subprocess.Popen(  # noqa: S603 - fixed arguments
        ["git", "-c", "core.fsmonitor=false", *arguments],  # noqa: S607 - the user's own git, wherever it is
        cwd=place,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        output, _ = git.communicate(timeout=remaining)
    except BaseException as error:
        git.kill()
        # Bounded: a git that hangs in the kernel dies only when its disk answers. Another dies as soon as it runs,
        # which takes a while where as many processes start as a node has ranks.
        with contextlib.suppress(subprocess.TimeoutExpired):
            git.wait(GIT_TIMEOUT_S)
        if isinstance(error, subprocess.TimeoutExpired):
            return None
        raise
    finally:
        if git.stdout is not None:
            git.stdout.close()
    return output.decode(errors="replace").strip() if git.returncode == 0 else None
