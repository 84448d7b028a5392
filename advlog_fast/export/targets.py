"""What a target is, which ones there are, and how `--to` names one."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..exceptions import AdvlogError, tell
from .records import Record, Series

if TYPE_CHECKING:
    import pyarrow as pa

DEFAULT_POINTS: dict[str, int | None] = {
    "tensorboard": 900,  # it shows a random sample of a tag that has more than 1,000
    "wandb": 2000,
    "mlflow": 2000,
    "prometheus": None,
    "csv": None,
}
"""The kinds of targets, and how many points of a metric each gets; None for all."""


class ExportError(AdvlogError):
    """An export cannot be made: a package is missing, or what is in the target's place is not the target's."""


@dataclass(frozen=True)
class Run:
    """What a target may know of the run."""

    name: str
    run_id: str
    """Random, of hexadecimal digits; a copy without one has digits made of its directory."""
    config: Mapping[str, Any]
    """Its settings, by their paths."""
    dropped: Callable[[], Mapping[int, int]] = dict
    """Tells how many records each rank of the newest attempt could not take in."""


class Target:
    """Where a run goes to.

    `resume` comes first, and `close` last. Whatever is sent twice after a kill, the target holds once.
    """

    takes_columns = False
    """Whether it takes whole batches (`add`), and no records (`send`)."""
    superseded: Literal["told", "hidden", "kept"] = "kept"
    """What becomes of points that a later attempt supersedes: the target shows of which attempt a point is, or can hide
    them, or neither."""

    def resume(self, memory: Mapping[str, Any] | None) -> bool:
        """Go on from what `memory` returned in an earlier process, None for the first one, and leave out of what is
        sent next what the target has beyond it. Return whether the target still has what it had then.

        :raises ExportError: what is in the target's place is not the target's.
        """
        return memory is None or isinstance(memory, dict)

    def send(self, series: Series, records: Iterable[Record]) -> None:
        """Take values of a series."""
        raise NotImplementedError

    def add(self, batch: pa.RecordBatch) -> None:
        """Take all columns of a batch."""
        raise NotImplementedError

    def hide_from(self, series: Series, step: int) -> None:
        """Hide the points of earlier attempts from a step on."""
        raise NotImplementedError

    def accept(self) -> bool:
        """Return once a kill of this process can lose nothing of what was sent; False if the target cannot tell."""
        raise NotImplementedError

    def memory(self) -> dict[str, Any]:
        """Return what a later process needs to go on, as JSON has it."""
        return {}

    def errors(self) -> tuple[type[Exception], ...]:
        """Return the errors of the target's own package, which say what failed there."""
        return ()

    def ended(self, status: str) -> None:
        """Learn how the run has ended."""

    def close(self) -> None:
        """End it; after this, a kill can lose nothing of what was sent."""


@dataclass(frozen=True)
class Destination:
    """A target as the user names it."""

    kind: str
    place: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.place}"

    def key(self, ranks: str) -> str:
        """Return a name for the file that says how far a run was sent there."""
        digest = hashlib.blake2s(f"{self}\n{ranks}".encode(errors="surrogateescape"), digest_size=8).hexdigest()
        return f"{self.kind}-{digest}"

    def connect(self, run: Run) -> Target:
        """Return the target, with nothing written there yet.

        :raises ExportError: its package is not installed.
        """
        module = importlib.import_module(f"{__package__}.to_{self.kind}")
        target: Target = module.connect(self.place, run)
        return target


def parse_target(text: str) -> Destination:
    """Return the target that a text names, such as `tensorboard:runs/a`.

    :raises ValueError: it names none.

    >>> str(parse_target("csv:points.csv"))
    'csv:points.csv'
    """
    kind, colon, place = text.partition(":")
    if kind not in DEFAULT_POINTS or not colon or not place or "\0" in place:
        kinds = "tensorboard:PATH, wandb:PROJECT, mlflow:URI, prometheus:FILE, csv:PATH"
        raise ValueError(f"--to: expected one of {kinds}, got {text!r}")
    return Destination(kind, place)


def require(module: str, extra: str) -> None:
    """Check that a package is installed, without importing it.

    :raises ExportError: it is not; the message names the extra that brings it.
    """
    try:
        spec = importlib.util.find_spec(module)
        found = spec is not None and spec.origin is not None  # a folder `wandb` of logs is no package
    except ValueError:  # a module in sys.modules that has no spec
        found = module in sys.modules
    if not found:
        raise missing(extra, module)


def missing(extra: str, module: str | None) -> ExportError:
    """Return the error for a package that is not installed."""
    return ExportError(f"{extra} needs the package {module}: pip install 'advlog-fast[{extra}]'")


class Notice:
    """Says on standard error what a target cannot hold, each thing once."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, kind: str, message: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            tell(message)


def name_of(text: str, wanted: str, most: int, *, like: str | None = None) -> str:
    """Return a text as a name that a target takes: other characters become `_`, and a hash tells such names apart.

    :param wanted: the characters that may stay, as a pattern has them between brackets.
    :param like: what to make the name of, where the text itself cannot be one.
    """
    name = re.sub(rf"[^{wanted}]", "_", text if like is None else like)
    if name == text and len(name) <= most:
        return name
    digest = hashlib.blake2s(text.encode(errors="surrogatepass"), digest_size=4).hexdigest()
    return f"{name[: most - 9]}-{digest}"
