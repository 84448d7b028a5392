"""The paths of a run's files, and the names that a run may have."""

from __future__ import annotations

import contextlib
import glob  # noqa: F401 - pathlib's; from 3.15 on it imports it at its first use, which may be at the exit
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from ..exceptions import RunNotFoundError, expected

_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
_DEVICE_NAMES = frozenset(
    ("con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)))
)

# These patterns parse the names that RunPaths makes. They are compiled at their first use.
RUN_FILE = (
    r"(?P<name>.+)_(?:(?:metrics|system|events)(?:\.rank\d{5})?\.jsonl|(?:metrics|system)\.parquet"
    r"|summary(?:\.rank\d{5})?\.json)\Z"
)
_ATTEMPT = r"attempt(?P<sign>[=-])(?P<attempt>[0-9]{1,9})\Z"
_PART = r"rank(?P<rank>\d{5})-(?P<part>\d{6,})\.parquet\Z"
_SPOOL = r"(?P<stream>metrics|system)-attempt(?P<attempt>[0-9]{1,9})-rank(?P<rank>\d{5})-(?P<part>\d{6,})\.spool\Z"
_CLAIM = r"(?P<attempt>[0-9]{1,9})-rank(?P<rank>\d{5,})\.claim\Z"
_RANK_FILE = r"attempt(?P<attempt>[0-9]{1,9})-rank(?P<rank>\d+)\.json\Z"
PRIVATE = ".advlog"
_RANK = r"(?:\.rank(?P<rank>\d{5}))?"
_RUN_FILES = (
    rf"(?P<name>[^/]+)_(?:main|training|errors){_RANK}\.log(?:\.[1-9][0-9]{{0,8}})?\Z",
    rf"(?P<name>[^/]+)_(?:metrics|system|events){_RANK}\.jsonl(?:\.[1-9][0-9]{{0,8}})?\Z",
    rf"(?P<name>[^/]+)_summary{_RANK}\.json\Z",
    r"(?P<name>[^/]+)_(?:metrics|system)\.parquet/attempt[=-][0-9]{1,9}/rank(?P<rank>\d{5})-\d{6,18}\.parquet\Z",
    r"\.advlog/(?P<name>[^/]+)/(?:run|first_epoch|metrics_schema|system_schema|attempts/[0-9]{1,9})\.json\Z",
    r"\.advlog/(?P<name>[^/]+)/attempts/[0-9]{1,9}-(?:rank(?P<rank>\d{5,9})(?:\.claim|-origin\.json)|origin\.json)\Z",
    r"\.advlog/(?P<name>[^/]+)/accounts/attempt[0-9]{1,9}-rank(?P<rank>\d{1,9})\.json\Z",
    r"\.advlog/(?P<name>[^/]+)/spool/(?:metrics|system)-attempt[0-9]{1,9}-rank(?P<rank>\d{5})-\d{6,18}\.spool\Z",
)
"""Of the paths, within a log folder, of the files that make a run for its readers and for its next start."""
_OTHER_RANKS = ".rank[0-9][0-9][0-9][0-9][0-9]"

PartKey = tuple[int, int, int]
"""(attempt, rank, part), which sorts in the order of a run's records."""


URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?:/|.*://)", re.DOTALL)
"""A URL, of one protocol or of several."""


def is_url(place: object) -> TypeGuard[str]:
    """Returns whether it is a URL, and no path of this machine."""
    return isinstance(place, str) and URL.match(place) is not None


def local_path(argument: str, path: str | os.PathLike[str]) -> Path:
    """Returns a path with `~` expanded, as a shell has it.

    :raises TypeError: it is no path.
    :raises ValueError: it has a NUL in it, names the home of an unknown user, or is a URL, whose files would silently
        lie in a folder of that name.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(expected(argument, "a path", path))
    text = os.fspath(path)
    if "\0" in os.fsdecode(text):
        raise ValueError(expected(argument, "a path without a NUL", text))
    # A Path has taken one of the two slashes away.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", os.fsdecode(text)):
        raise ValueError(expected(argument, "a path of this machine, not a URL", text))
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(expected(argument, "the home of a user of this machine", text)) from None


def run_names(log_dir: Path) -> list[str]:
    """Returns the names of the runs that have files in a log folder."""
    try:
        names = {match["name"] for entry in log_dir.iterdir() if (match := re.match(RUN_FILE, entry.name))}
        with contextlib.suppress(FileNotFoundError):
            names.update(entry.name for entry in (log_dir / PRIVATE).iterdir() if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(filter(_SLUG.match, names))  # files of other programs may match with a name that no run can have


def folders_with_runs(log_dir: Path) -> list[Path]:
    """Returns the folder, if it has runs, and those below it that do; it looks into no hidden folder and no dataset."""
    found = []
    for place, folders, _ in os.walk(log_dir):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not name.endswith(".parquet"))
        if run_names(Path(place)):
            found.append(Path(place))
    return found


def check_run(log_dir: Path, name: str | None) -> None:
    """Checks that the folder has a run of that name or, for None, any run.

    :raises RunNotFoundError: the folder does not exist, or has no such run; the message lists the runs that it has.
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
    existing = f"its runs are {listed}" if names else "it has no runs"
    if name is None:
        raise RunNotFoundError(f"log_dir: expected a directory of runs, got {str(log_dir)!r}, which has none")
    raise RunNotFoundError(f"name: expected a run in {str(log_dir)!r}, got {name!r}; {existing}")


def checked_name(name: object) -> str:
    """Returns the experiment name if it is safe as part of a file name on every system.

    :raises TypeError: the name is no string.
    :raises ValueError: the name is not 1-100 letters, digits, `.`, `_` or `-`, or does not begin with a letter or
        digit, or ends with a dot, or is a device name of Windows. The message suggests a name that is allowed.
    """
    if not isinstance(name, str):
        raise TypeError(expected("experiment_name", "a string", name))
    if _is_safe(name):
        return name
    wanted = (
        "1-100 letters, digits, '.', '_' or '-', the first a letter or digit and the last no dot, "
        f"and not a device name of Windows (such as {safe_name(name)!r}, which safe_name() makes of it)"
    )
    raise ValueError(expected("experiment_name", wanted, name))


def safe_name(text: str) -> str:
    """Return a text as a name that an experiment may have: what no file should be called becomes `_`.

    Use it where the name comes from elsewhere, such as a project's title or a sweep's overrides. An allowed name stays
    as it is. Texts that differ in signs only (`lr=1`, `lr 1`) give one name, and are then attempts of one run; where
    letters have to go, a hash of the text tells the names apart.

    :raises TypeError: it is no string.

    >>> safe_name("lr=0.1, my project")
    'lr_0.1_my_project'
    """
    if not isinstance(text, str):
        raise TypeError(expected("text", "a string", text))
    if _is_safe(text):
        return text
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-") or "experiment"
    if any(character.isalnum() and not character.isascii() for character in text):
        import hashlib

        name = f"{name[:91]}-{hashlib.blake2s(text.encode(errors='surrogatepass'), digest_size=4).hexdigest()}"
    return ("run_" + name if _is_device(name) else name)[:100].rstrip(".")


def _is_safe(name: str) -> bool:
    return bool(_SLUG.match(name)) and not name.endswith(".") and not _is_device(name)


def _is_device(name: str) -> bool:
    return name.partition(".")[0].lower() in _DEVICE_NAMES


def run_file_of(path: str) -> tuple[str, int | None] | None:
    """Returns the run and the rank whose file it is, by its path within a log folder; None for a file that no reader
    and no later start needs, and for any other path. The rank is None for a file of the run as a whole.

    A path that it takes leads to nowhere else: it has no `..`, and no folders but those of a run.
    """
    for pattern in _RUN_FILES:
        match = re.match(pattern, path)
        if match and _is_safe(match["name"]):
            rank = match.groupdict().get("rank")
            is_of_rank = rank is not None or not path.startswith(PRIVATE + "/")
            return match["name"], int(rank or 0) if is_of_rank else None
    return None


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
        """Returns the existing JSON lines files of `what` ("metrics", "system" or "events"), rank 0 first."""
        first = RunPaths(self.log_dir, self.name)._file(what, ".jsonl")
        others = sorted(self.log_dir.glob(first.stem + _OTHER_RANKS + first.suffix))
        return [path for path in (first, *others) if path.exists()]

    @staticmethod
    def rank_of(file: Path) -> int:
        """Returns the rank whose file of JSON lines it is."""
        match = re.search(r"\.rank(\d{5,})\.jsonl\Z", file.name)
        return int(match[1]) if match else 0

    @property
    def summary(self) -> Path:
        return self._file("summary", ".json")

    def dataset(self, stream: str) -> Path:
        """Returns the Parquet folder of `stream` ("metrics" or "system"), for all ranks and attempts."""
        return self.log_dir / f"{self.name}_{stream}.parquet"

    @property
    def metrics_parquet(self) -> Path:
        return self.dataset("metrics")

    @property
    def system_parquet(self) -> Path:
        return self.dataset("system")

    def part(self, stream: str, attempt: int, part: int, *, hive: bool = False) -> Path:
        """Returns the path of part `part` (from 1) of this rank in the dataset of `stream`.

        :param hive: in a dataset of an earlier version, whose folders alone name the attempt.
        """
        folder = f"attempt{'=' if hive else '-'}{attempt}"
        return self.dataset(stream) / folder / f"rank{self.rank:05d}-{part:06d}.parquet"

    def part_either_way(self, stream: str, attempt: int, part: int) -> tuple[Path, Path]:
        """Returns both paths that the part may have."""
        return self.part(stream, attempt, part), self.part(stream, attempt, part, hive=True)

    def parts_of_all_ranks(self, stream: str) -> dict[PartKey, Path]:
        """Returns the existing parts of the dataset of `stream`, for all ranks and attempts."""
        return parts_in(self.dataset(stream))

    @property
    def private(self) -> Path:
        """The folder of files that are not meant for readers: claims, locks, spools, temporaries, frozen schemas."""
        return self.log_dir / PRIVATE / self.name

    @property
    def attempts(self) -> Path:
        return self.private / "attempts"

    def claim(self, attempt: int) -> Path:
        """Returns the file in which this rank's process of an attempt describes itself."""
        return self.attempts / f"{attempt}-rank{self.rank:05d}.claim"

    def origin(self, attempt: int) -> Path:
        """Returns the file that says which state this rank's attempt was resumed from."""
        return self.attempts / f"{attempt}-rank{self.rank:05d}-origin.json"

    def claims_of_all_ranks(self) -> dict[tuple[int, int], Path]:
        """Returns the existing claims, by attempt and rank."""
        matches = {path: re.match(_CLAIM, path.name) for path in self.attempts.glob("*.claim")}
        return {(int(match["attempt"]), int(match["rank"])): path for path, match in matches.items() if match}

    @property
    def lock(self) -> Path:
        return self.private / f"rank{self.rank:05d}.lock"

    @property
    def rings(self) -> Path:
        """The folder of the notes that say where each ring of the run is."""
        return self.private / "rings"

    def ring_note(self, attempt: int) -> Path:
        return self.rings / f"attempt{attempt}-rank{self.rank:05d}.json"

    def ring_notes_of_all_ranks(self) -> dict[tuple[int, int], Path]:
        """Returns the existing ring notes, by attempt and rank."""
        return _by_attempt_and_rank(self.rings)

    def noted_attempts(self) -> list[int]:
        """Returns the attempts of this rank that have a ring note."""
        return sorted(attempt for attempt, rank in self.ring_notes_of_all_ranks() if rank == self.rank)

    @property
    def rotated_series(self) -> tuple[Path, ...]:
        """The files of lines that the drain writes and rotates."""
        return self.training_log, self.metrics_jsonl, self.system_jsonl

    @property
    def quarantine(self) -> Path:
        """The folder of files that recovery cannot use and keeps for inspection."""
        return self.private / "set-aside"

    @property
    def ledgers(self) -> Path:
        """The folder of the ledgers, one for each ended attempt of a rank."""
        return self.private / "accounts"

    def ledgers_of_all_ranks(self) -> dict[tuple[int, int], Path]:
        """Returns the existing ledgers, by attempt and rank."""
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
        """Returns the path of the spool that becomes part `part`."""
        return self.spools / f"{stream}-attempt{attempt}-rank{self.rank:05d}-{part:06d}.spool"

    def spools_of_all_ranks(self, stream: str) -> dict[PartKey, Path]:
        """Returns the existing spools of `stream`, for all ranks and attempts."""
        spools: dict[PartKey, Path] = {}
        for path in self.spools.glob("*.spool"):
            match = re.match(_SPOOL, path.name)
            if match and match["stream"] == stream:
                spools[int(match["attempt"]), int(match["rank"]), int(match["part"])] = path
        return spools

    def spools_of_attempt(self, stream: str, attempt: int) -> list[tuple[int, Path]]:
        """Returns this rank's spools of `stream` with their part numbers, in order."""
        spools = sorted(self.spools_of_all_ranks(stream).items())
        return [(key[2], path) for key, path in spools if key[:2] == (attempt, self.rank)]

    def schema(self, stream: str) -> Path:
        """Returns the path of the frozen metric columns of `stream`: a JSON list of names."""
        return self.private / f"{stream}_schema.json"

    @property
    def compaction(self) -> Path:
        """The folder in which a compaction builds the new datasets."""
        return self.private / "compact"


def parts_in(dataset: Path) -> dict[PartKey, Path]:
    """Returns the parts in a folder that is laid out as a dataset."""
    keys = {path: part_key(path) for path in dataset.glob("*/*.parquet")}
    return {key: path for path, key in keys.items() if key is not None}


def part_key(path: Path) -> PartKey | None:
    """Returns which part a file of a dataset is, by its name; None if it is not a part."""
    folder, part = re.match(_ATTEMPT, path.parent.name), re.match(_PART, path.name)
    return (int(folder["attempt"]), int(part["rank"]), int(part["part"])) if folder and part else None


def names_attempt(folder: str) -> bool:
    """Returns whether a folder of a dataset holds the parts of an attempt, by its name."""
    return re.match(_ATTEMPT, folder) is not None


def is_hive(folder: str) -> bool:
    """Returns whether it is one of a dataset of an earlier version."""
    match = re.match(_ATTEMPT, folder)
    return match is not None and match["sign"] == "="


def _by_attempt_and_rank(folder: Path) -> dict[tuple[int, int], Path]:
    matches = {path: re.match(_RANK_FILE, path.name) for path in folder.glob("*.json")}
    return {(int(match["attempt"]), int(match["rank"])): path for path, match in matches.items() if match}
