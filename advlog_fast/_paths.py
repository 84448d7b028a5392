"""Where everything of a run lies, and which names a run may have."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .exceptions import expected

_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
_DEVICE_NAMES = frozenset(
    ("con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)))
)


def checked_name(name: object) -> str:
    """The experiment name, if it can safely be part of a file name on any system.

    :raises TypeError: it is no string.
    :raises ValueError: it is not 1-100 letters, digits, `.`, `_` or `-`, or does not begin with a letter or
        digit, or ends with a dot, or is a device name of Windows. The message suggests a name that is allowed.
    """
    if not isinstance(name, str):
        raise TypeError(expected("experiment_name", "a string", name))
    if _SLUG.match(name) and not name.endswith(".") and name.split(".")[0].lower() not in _DEVICE_NAMES:
        return name
    suggestion = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:100] or "experiment"
    if suggestion.split(".")[0].lower() in _DEVICE_NAMES:
        suggestion = "run_" + suggestion
    wanted = f"1-100 letters, digits, '.', '_' or '-', the first a letter or digit (such as {suggestion!r})"
    raise ValueError(expected("experiment_name", wanted, name))


@dataclass(frozen=True)
class RunPaths:
    """The files of one rank of one run."""

    log_dir: Path
    name: str
    rank: int = 0

    def _file(self, what: str, suffix: str) -> Path:
        rank = f".rank{self.rank:05d}" if self.rank else ""
        return self.log_dir / f"{self.name}_{what}{rank}{suffix}"

    @property
    def main_log(self) -> Path:
        return self._file("main", ".log")

    @property
    def training_log(self) -> Path:
        return self._file("training", ".log")

    @property
    def errors_log(self) -> Path:
        return self._file("errors", ".log")

    @property
    def metrics_jsonl(self) -> Path:
        return self._file("metrics", ".jsonl")

    @property
    def system_jsonl(self) -> Path:
        return self._file("system", ".jsonl")

    @property
    def events_jsonl(self) -> Path:
        return self._file("events", ".jsonl")

    @property
    def summary(self) -> Path:
        return self._file("summary", ".json")

    def dataset(self, stream: str) -> Path:
        """The Parquet folder of `stream` ("metrics" or "system"), of all ranks and attempts."""
        return self.log_dir / f"{self.name}_{stream}.parquet"

    @property
    def metrics_parquet(self) -> Path:
        return self.dataset("metrics")

    @property
    def system_parquet(self) -> Path:
        return self.dataset("system")

    def part(self, stream: str, attempt: int, part: int) -> Path:
        """Part `part` (from 1) of this rank in the dataset of `stream`."""
        return self.dataset(stream) / f"attempt={attempt}" / f"rank{self.rank:05d}-{part:06d}.parquet"

    @property
    def private(self) -> Path:
        """What is ours and no reader's: claims, locks, spools, temporaries, the frozen schema."""
        return self.log_dir / ".advlog" / self.name

    @property
    def attempts(self) -> Path:
        return self.private / "attempts"

    @property
    def lock(self) -> Path:
        return self.private / f"rank{self.rank:05d}.lock"

    @property
    def temporary(self) -> Path:
        return self.private / "tmp"

    @property
    def spools(self) -> Path:
        return self.private / "spool"

    def spool(self, stream: str, attempt: int, part: int) -> Path:
        """The spool that becomes part `part`."""
        return self.spools / f"{stream}-attempt{attempt}-rank{self.rank:05d}-{part:06d}.spool"

    def schema(self, stream: str) -> Path:
        """The metric columns of `stream`, frozen at the run's first part: a JSON list of names."""
        return self.private / f"{stream}_schema.json"
