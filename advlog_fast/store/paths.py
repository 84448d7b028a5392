"""Where everything of a run lies, and which names a run may have."""

from __future__ import annotations

import contextlib
import glob  # noqa: F401 - pathlib's; from 3.15 on it imports it at its first use, which may be at the exit
import re
from dataclasses import dataclass
from pathlib import Path

from ..exceptions import RunNotFoundError, expected

_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
_DEVICE_NAMES = frozenset(
    ("con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)))
)

# What takes a name apart again, for each that RunPaths makes and a reader meets. Not compiled until it is used.
_RUN_FILE = (
    r"(?P<name>.+)_(?:(?:metrics|system|events)(?:\.rank\d{5})?\.jsonl|(?:metrics|system)\.parquet"
    r"|summary(?:\.rank\d{5})?\.json)\Z"
)
_ATTEMPT = r"attempt=(?P<attempt>[0-9]{1,9})\Z"
_PART = r"rank(?P<rank>\d{5})-(?P<part>\d{6,})\.parquet\Z"
_SPOOL = r"(?P<stream>metrics|system)-attempt(?P<attempt>[0-9]{1,9})-rank(?P<rank>\d{5})-(?P<part>\d{6,})\.spool\Z"
_CLAIM = r"(?P<attempt>[0-9]{1,9})-rank(?P<rank>\d{5,})\.claim\Z"
_OF_A_RANK = r"attempt(?P<attempt>[0-9]{1,9})-rank(?P<rank>\d+)\.json\Z"
_PRIVATE = ".advlog"
_OTHER_RANKS = ".rank[0-9][0-9][0-9][0-9][0-9]"

PartKey = tuple[int, int, int]
"""Attempt, rank, part: the order of a run's records."""


def run_names(log_dir: Path) -> list[str]:
    """The runs that left anything in a log folder, by name."""
    try:
        found = {match["name"] for entry in log_dir.iterdir() if (match := re.match(_RUN_FILE, entry.name))}
        with contextlib.suppress(FileNotFoundError):
            found.update(entry.name for entry in (log_dir / _PRIVATE).iterdir() if entry.is_dir())
        found = set(filter(_SLUG.match, found))  # other programs name files likewise, with names that no run has
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found)


def check_run(log_dir: Path, name: str | None) -> None:
    """That the folder has a run of that name, or any.

    :raises RunNotFoundError: there is no such directory, or no such run in it; the message names those that there are.
    :raises ValueError: no run can have that name.
    """
    if name is not None:
        checked_name(name)
    names = run_names(log_dir)
    if names and (name is None or name in names):
        return
    if not log_dir.is_dir():
        reason = "is no directory" if log_dir.exists() else "does not exist"
        raise RunNotFoundError(f"log_dir: expected a directory of runs, got {str(log_dir)!r}, which {reason}")
    listed = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    there = f"the runs there are {listed}" if names else "there are no runs"
    if name is None:
        raise RunNotFoundError(f"log_dir: expected a directory of runs, got {str(log_dir)!r}, which has none")
    raise RunNotFoundError(f"name: expected a run in {str(log_dir)!r}, got {name!r}; {there}")


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
    wanted = (
        "1-100 letters, digits, '.', '_' or '-', the first a letter or digit and the last no dot, "
        f"and not a device name of Windows (such as {suggestion!r})"
    )
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

    def lines_of_all_ranks(self, what: str) -> list[Path]:
        """The JSON lines `what` ("metrics", "system" or "events") that there are, rank 0's first."""
        first = RunPaths(self.log_dir, self.name)._file(what, ".jsonl")
        others = sorted(self.log_dir.glob(first.stem + _OTHER_RANKS + first.suffix))
        return [path for path in (first, *others) if path.exists()]

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

    def parts_of_all_ranks(self, stream: str) -> dict[PartKey, Path]:
        """The parts that there are in the dataset of `stream`, of all attempts too."""
        return parts_in(self.dataset(stream))

    @property
    def private(self) -> Path:
        """What is ours and no reader's: claims, locks, spools, temporaries, the frozen schema."""
        return self.log_dir / _PRIVATE / self.name

    @property
    def attempts(self) -> Path:
        return self.private / "attempts"

    def claim(self, attempt: int) -> Path:
        """What this rank's process of an attempt says of itself."""
        return self.attempts / f"{attempt}-rank{self.rank:05d}.claim"

    def claims_of_all_ranks(self) -> dict[tuple[int, int], Path]:
        """The claims that there are, by attempt and rank."""
        found = {path: re.match(_CLAIM, path.name) for path in self.attempts.glob("*.claim")}
        return {(int(match["attempt"]), int(match["rank"])): path for path, match in found.items() if match}

    @property
    def lock(self) -> Path:
        return self.private / f"rank{self.rank:05d}.lock"

    @property
    def rings(self) -> Path:
        """Notes that say where each ring of the run lies."""
        return self.private / "rings"

    def ring_note(self, attempt: int) -> Path:
        return self.rings / f"attempt{attempt}-rank{self.rank:05d}.json"

    def ring_notes_of_all_ranks(self) -> dict[tuple[int, int], Path]:
        """The notes that there are, by attempt and rank."""
        return _by_attempt_and_rank(self.rings)

    def noted_attempts(self) -> list[int]:
        """The attempts of this rank whose rings are noted."""
        return sorted(attempt for attempt, rank in self.ring_notes_of_all_ranks() if rank == self.rank)

    @property
    def quarantine(self) -> Path:
        """What nobody can use, kept for a look at it."""
        return self.private / "set-aside"

    @property
    def ledgers(self) -> Path:
        """What became of the records of each ended attempt."""
        return self.private / "accounts"

    def ledgers_of_all_ranks(self) -> dict[tuple[int, int], Path]:
        """The ledgers that there are, by attempt and rank."""
        return _by_attempt_and_rank(self.ledgers)

    def ledger(self, attempt: int) -> Path:
        return self.ledgers / f"attempt{attempt}-rank{self.rank:05d}.json"

    @property
    def temporary(self) -> Path:
        return self.private / "tmp"

    @property
    def spools(self) -> Path:
        return self.private / "spool"

    def spool(self, stream: str, attempt: int, part: int) -> Path:
        """The spool that becomes part `part`."""
        return self.spools / f"{stream}-attempt{attempt}-rank{self.rank:05d}-{part:06d}.spool"

    def spools_of_all_ranks(self, stream: str) -> dict[PartKey, Path]:
        """The spools of `stream` that there are, of all attempts too."""
        found: dict[PartKey, Path] = {}
        for path in self.spools.glob("*.spool"):
            match = re.match(_SPOOL, path.name)
            if match and match["stream"] == stream:
                found[int(match["attempt"]), int(match["rank"]), int(match["part"])] = path
        return found

    def spools_of_attempt(self, stream: str, attempt: int) -> list[tuple[int, Path]]:
        """This rank's spools of `stream`, each with its part, in their order."""
        found = sorted(self.spools_of_all_ranks(stream).items())
        return [(part, path) for (of, rank, part), path in found if (of, rank) == (attempt, self.rank)]

    def schema(self, stream: str) -> Path:
        """The metric columns of `stream`, frozen at the run's first part: a JSON list of names."""
        return self.private / f"{stream}_schema.json"

    @property
    def compaction(self) -> Path:
        """Where a compaction makes the datasets anew."""
        return self.private / "compact"


def parts_in(dataset: Path) -> dict[PartKey, Path]:
    """The parts that there are in a folder laid out as a dataset."""
    found = {path: part_key(path) for path in dataset.glob("*/*.parquet")}
    return {key: path for path, key in found.items() if key is not None}


def part_key(path: Path) -> PartKey | None:
    """Which part a file of a dataset is, by its name; None: it is none."""
    folder, part = re.match(_ATTEMPT, path.parent.name), re.match(_PART, path.name)
    return (int(folder["attempt"]), int(part["rank"]), int(part["part"])) if folder and part else None


def _by_attempt_and_rank(folder: Path) -> dict[tuple[int, int], Path]:
    found = {path: re.match(_OF_A_RANK, path.name) for path in folder.glob("*.json")}
    return {(int(match["attempt"]), int(match["rank"])): path for path, match in found.items() if match}
