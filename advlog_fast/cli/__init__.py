"""The `advlog` command. Each subcommand is a module of this folder, listed in `_COMMANDS`.

Never does work of its own: a command checks its arguments, calls a function of the package and prints. Door: `main`.
Read first: this file.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import os
import resource
import sys
from collections.abc import Sequence
from typing import Protocol

from ..exceptions import AdvlogError
from . import bench, compact, compare, demo, export, ls, mirror, recover, report, show, ui, verify, watch
from .table import say


class Command(Protocol):
    """The interface of a subcommand's module."""

    HELP: str
    """One line, for `advlog --help`."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int:
        """Run the command and return the exit status: 0 for success, 1 if the user must look at something."""


_COMMANDS: dict[str, Command] = {
    "bench": bench,
    "compact": compact,
    "compare": compare,
    "demo": demo,
    "export": export,
    "ls": ls,
    "mirror": mirror,
    "recover": recover,
    "report": report,
    "show": show,
    "ui": ui,
    "verify": verify,
    "watch": watch,
}

_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run `advlog` with `argv` (default: the process's arguments) and return its exit status.

    :raises SystemExit: the arguments are wrong (status 2), or ask for help or the version (status 0).
    """
    parser = argparse.ArgumentParser(prog="advlog", description="Logs of training runs.")
    parser.add_argument("--version", action="version", version=f"advlog {_version()}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in _COMMANDS.items():
        command.add_arguments(subparsers.add_parser(name, help=command.HELP, description=command.HELP))
    args = parser.parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name may have what the terminal's encoding lacks
    _allow_many_files()
    try:
        status = _COMMANDS[args.command].run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of the output closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (AdvlogError, OSError, ValueError) as error:
        say(f"advlog {args.command}: {error}", sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED


def _allow_many_files() -> None:
    """Raise the limit of open files: a run of a thousand ranks needs an open file or lock for each."""
    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _version() -> str:
    try:
        return importlib.metadata.version("advlog-fast")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
