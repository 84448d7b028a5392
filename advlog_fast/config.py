"""The options of a logger, checked once when it is made."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from .exceptions import expected
from .records import ALL_DIGITS, CORE_METRICS, MAX_COLUMNS, SEVERITIES, mode_of, name_fault
from .store.paths import checked_name, local_path

ConsoleMode = Literal["auto", "plain", "off"]
Overflow = Literal["block", "drop_newest"]
Fsync = Literal["never", "interval", "always"]
TextRanks = Literal["rank0", "all"]
OnMisuse = Literal["warn", "raise"]

_SWITCH = {
    **dict.fromkeys(("1", "true", "t", "yes", "y", "on"), True),
    **dict.fromkeys(("0", "false", "f", "no", "n", "off", ""), False),
}
END_STATUSES = ("completed", "failed", "interrupted")
MIN_LOG_SIZE = 1024
MAX_SECONDS = 10**6
MIN_RING_BYTES = 64 * 1024
MAX_RING_BYTES = 1 << 30
MIN_DEFERRED_VALUES = 4096
MAX_DEFERRED_VALUES = 65_536


def checked_metric_name(name: object, argument: str = "metric name") -> str:
    """The name, if a metric may have it.

    :raises TypeError: it is no string.
    :raises ValueError: it is empty, reserved, longer than 255 bytes or not valid Unicode.
    """
    if not isinstance(name, str):
        raise TypeError(expected(argument, "a string", name))
    if wanted := name_fault(name):
        raise ValueError(expected(argument, wanted, name))
    return name


def status_of(error: BaseException | None) -> str | None:
    """The status that an exception makes of an attempt; None where it is none: a generator that is left early, an exit
    without a code."""
    if error is None or isinstance(error, (GeneratorExit, StopIteration, StopAsyncIteration)):
        return None
    if isinstance(error, SystemExit) and error.code in (None, 0):
        return None
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"


def end_status(status: object) -> str | None:
    """The status, if a run can end so, or None.

    :raises ValueError: it is neither.
    """
    if status is not None and status not in END_STATUSES:
        raise ValueError(expected("status", "one of " + ", ".join(END_STATUSES), status))
    return None if status is None else str(status)


def is_disabled() -> bool:
    """Whether the environment switches loggers off: `ADVLOG_DISABLED` is 1, true, yes or on.

    :raises ValueError: it is none of these, and not 0, false, no, off or empty either.
    """
    given = os.environ.get("ADVLOG_DISABLED", "")
    chosen = given.strip().lower()
    if chosen not in _SWITCH:
        raise ValueError(expected("ADVLOG_DISABLED", "1, true, yes, on, 0, false, no or off", given))
    return _SWITCH[chosen]


@dataclass(frozen=True)
class LoggerConfig:
    """The options of :class:`AdvancedLogger`: purpose, default, trade-off and failure of each. A wrong option raises
    when the logger is made; the message names the option, the expected value and the value passed.

    :param log_dir: the directory for all files of the run, with `~` for the home; created if missing. A URL raises
        ValueError. A directory that cannot be made or written raises OSError; a path that is not valid UTF-8 raises
        ValueError.
    :param experiment_name: the run's name, and the first part of each file's: 1-100 letters, digits, `.`, `_`, `-`, the
        first a letter or digit, and not a device name of Windows. A second start with the same name is a new attempt of
        the same run and writes into no file of earlier attempts; if another live process logs the rank, it raises
        RunBusyError.
    :param log_level: the lowest level that reaches the text logs and the console, as a number or a name ("INFO"). Batch
        lines are INFO. Metrics, events and errors.log are never filtered, so a higher level loses no data.
    :param max_log_files: files kept of each rotated series, those of earlier attempts and the current one included:
        1-1,000,000. Fewer files save disk: rotation deletes the oldest file, and its records count as `expired`. A
        JSONL file stays until its records are sealed in Parquet; with `parquet=False` its records are lost with it.
    :param max_log_size: bytes of each text, JSONL and event file before it rotates, at least 1024. A single longer line
        gets a file of its own.
    :param metrics: metric names, beside the built-in ones, that get a Parquet column of their own from the first part
        on, at most 1,000. A metric first logged after the first part goes into the column `extra`, unless you declare
        it here.
    :param group: what the run belongs to, such as a sweep; it stands in the summary and in `list_runs`.
    :param tags: words to find the run by, in the same places.
    :param best_metric: the metric of `log_validation` that decides which validation is the best. None leaves it to the
        names: an accuracy before a loss, that of a validation before one of the training.
    :param best_mode: "max" if more of it is better, "min" if less is; None where its name says so, as that of an
        accuracy or a loss does.
    :param first_epoch: the number of the first epoch, 0 or 1, from which steps are derived where a record has none.
        None infers it, once a run, from the first record that needs it: 0 if that is of epoch 0, else 1.
    :param text: write `NAME_training.log`. Off saves about a third of the drain's CPU.
    :param jsonl: write `NAME_metrics.jsonl` and `NAME_system.jsonl`. Off saves another third, but then no plain tool
        can read records as data before the first Parquet part.
    :param parquet: write the Parquet folders, which keep every record that rotation removes elsewhere. Off avoids
        importing pyarrow. With `text` and `jsonl` off too, records are only counted, in the summary.
    :param training_log_every: write one batch line in *n* to the training log, 1 for all; the other outputs keep every
        record.
    :param text_digits: significant digits of a value in the training log and the main log, 1-17; integral values below
        2^53 stand there in full. With 17 each value reads back to the bit, and so do a record's where neither `jsonl`
        nor `parquet` keeps its bits.
    :param text_ranks: which ranks write a training log: "rank0" or "all". "all" costs each rank's drain CPU time.
    :param rank: this process's rank, below `world_size`; None reads the launcher's environment (torchrun, SLURM,
        Open MPI, PMI), else 0. Two processes with one rank collide: the second raises RunBusyError.
    :param world_size: the number of ranks; None reads the launcher's environment, else one more than `rank`.
    :param console: what standard error shows on rank 0: "auto" is plain lines, and a live bar on a terminal; "plain" is
        lines only; "off" is nothing. It never shows a line for each batch. A line that the stream does not take is
        dropped and counted.
    :param ring_bytes: memory for records on their way, 128 bytes a slot: 64 KiB to 1 GiB, rounded down to a power of
        two of slots. A larger ring survives longer stalls of the disk. If shared memory is short, the ring takes a
        sixteenth of what is free there.
    :param ring_dir: where the ring's file lies; None is shared memory, which is faster than a disk and survives a
        SIGKILL too. It must lie on tmpfs, ext4 or xfs: other file systems may need a new block to store into one that
        they have allocated, and kill the process if the disk is full. On such a file system the ring lies in memory
        that dies with the process, and the main log says why. In a directory that others can write, the ring gets a
        directory of its own.
    :param overflow: what a full ring does: "block" waits for the drain; "drop_newest" drops the record at once. A
        dropped record is counted in `health()`.
    :param overflow_timeout_s: how long "block" waits, in seconds; None is forever. After one wait that timed out, calls
        drop records without waiting until half of the ring is free again.
    :param memory_interval_s: seconds between memory samples; 0 takes only those of `log_memory_usage`. A probe that
        hangs or fails makes samples stale, and never slows the training.
    :param part_interval_s: the longest time, in seconds from 0.1, that records wait to be sealed into a Parquet part.
        The first part is sealed after 10 s, each later one after twice the time before. A shorter time shows records to
        plain readers sooner, in more and smaller files.
    :param part_rows: seal a part after this many records, before the time if need be.
    :param close_timeout_s: how long, in seconds, `close()` and the exit wait for a disk or a GPU that hangs; 5 more if
        the disk delays the summary, too. Records left then count as pending, and the next start recovers them.
    :param deferred_values: how many values on GPUs may be on their way at a time: 4,096 to 65,536, rounded up to a
        power of two; 16 bytes of page-locked memory each. A record that finds no room has null in place of its values,
        and `unresolved` says "slab_full". Ask for more where a record has hundreds of them, such as the gradient norms
        of all layers, and the GPU is many steps behind. Their records wait in the ring, which must have room for them:
        see `ring_bytes`.
    :param deferred_timeout_s: how long, in seconds from the call, the drain waits for a value on a GPU; the training
        never waits. The value's record and those behind it wait with it. Then the value is null, and `unresolved` says
        "timeout". A nearly full ring and the end of `close()` shorten the wait.
    :param fsync: when lines and spools are synced to the disk: "never" leaves it to the system, and records survive
        everything but power loss; "interval" syncs every 5 s, outside the drain's thread; "always" syncs after each
        write of the drain, which then waits for the disk. After a failed fsync the drain starts a new file. Errors of
        severity ERROR and above, and Parquet parts, are always synced.
    :param handle_signals: True closes the logger at SIGTERM, then passes the signal to the previous handler. "note"
        flushes, writes an event `signal`, and passes it on; the logger stays open, and the status is not decided: for a
        trainer that handles the signal itself. If off, no handler is installed, and the next start recovers what a
        SIGTERM left. In a thread other than the main one, and where SIGTERM has a handler that is not Python's, it only
        warns.
    :param capture_logging: also send the records of the standard library's root logger to `NAME_main.log`. If the root
        logger has no other handler, its warnings then no longer reach standard error, where Python writes them only if
        there is no handler: add a `logging.StreamHandler` to keep them.
    :param enabled: False makes every call a no-op that touches no file; so does `ADVLOG_DISABLED=1` in the environment.
    :param on_misuse: what a call does with a value that cannot be logged as it came: no number, out of its column's
        range, under a name that no metric can have. The value is left out, and the rest of its record is logged
        (an integer that float64 cannot hold is rounded). "warn" warns once for each name and kind of misuse, and never
        raises; "raise" raises after the rest was logged, for tests and while you write the code. `health()` and the
        summary count by name. `ADVLOG_ON_MISUSE` in the environment overrides the option. What is wrong in the code at
        every call, such as a missing argument, always raises.
    :raises TypeError: an option has the wrong type.
    :raises ValueError: an option is out of its range.

    >>> LoggerConfig(metrics=("perplexity",)).metrics
    ('perplexity',)
    >>> log.config.max_log_files
    10
    """

    log_dir: Path = Path("logs")
    experiment_name: str = "experiment"
    log_level: int = logging.INFO
    max_log_files: int = 10
    max_log_size: int = 10 * 1024 * 1024
    metrics: tuple[str, ...] = ()
    group: str | None = None
    tags: tuple[str, ...] = ()
    best_metric: str | None = None
    best_mode: Literal["max", "min"] | None = None
    first_epoch: Literal[0, 1] | None = None
    text: bool = True
    jsonl: bool = True
    parquet: bool = True
    training_log_every: int = 1
    text_digits: int = 6
    text_ranks: TextRanks = "rank0"
    rank: int | None = None
    world_size: int | None = None
    console: ConsoleMode = "auto"
    ring_bytes: int = 4 * 1024 * 1024
    ring_dir: Path | None = None
    overflow: Overflow = "block"
    overflow_timeout_s: float | None = 1.0
    memory_interval_s: float = 5.0
    part_interval_s: float = 300.0
    part_rows: int = 1_000_000
    close_timeout_s: float = 30.0
    deferred_values: int = MIN_DEFERRED_VALUES
    deferred_timeout_s: float = 60.0
    fsync: Fsync = "never"
    handle_signals: bool | Literal["note"] = False
    capture_logging: bool = False
    enabled: bool = True
    on_misuse: OnMisuse = "warn"

    @property
    def raises_on_misuse(self) -> bool:
        """Whether a misuse raises: what the environment says, else the option.

        :raises ValueError: `ADVLOG_ON_MISUSE` is neither "warn" nor "raise".
        """
        chosen = os.environ.get("ADVLOG_ON_MISUSE", "").strip().lower() or self.on_misuse
        if chosen not in get_args(OnMisuse):
            raise ValueError(expected("ADVLOG_ON_MISUSE", "'warn' or 'raise'", os.environ["ADVLOG_ON_MISUSE"]))
        return chosen == "raise"

    def writes_text(self, rank: int) -> bool:
        """Whether that rank writes a training log."""
        return self.text and (rank == 0 or self.text_ranks == "all")

    @property
    def record_digits(self) -> int:
        """The significant digits of a record's values in the training log."""
        return self.text_digits if self.jsonl or self.parquet else ALL_DIGITS

    def outputs(self, rank: int) -> list[str]:
        """The files that a rank writes, by what is in them."""
        text = self.writes_text(rank)
        return [
            "main_log",
            *(["training_log"] if text else []),
            "errors_log",
            "events_jsonl",
            "summary",
            *(["metrics_jsonl"] if self.jsonl else []),
            *(["metrics_parquet"] if self.parquet else []),
            *(["system_jsonl"] if self.jsonl else []),
            *(["system_parquet"] if self.parquet else []),
        ]

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "log_dir", _unicode_path(local_path("log_dir", self.log_dir)))
        checked_name(self.experiment_name)
        set_(self, "log_level", _level(self.log_level))
        if self.ring_dir is not None:
            set_(self, "ring_dir", local_path("ring_dir", self.ring_dir))
        set_(self, "metrics", _metric_names(self.metrics))
        if self.group is not None:
            _texts("group", [self.group])
        set_(self, "tags", _texts("tags", self.tags))
        _best(self.best_metric, self.best_mode)
        if self.first_epoch is not None:
            _integer("first_epoch", self.first_epoch, 0, 1)
        if self.handle_signals != "note" and not isinstance(self.handle_signals, bool):
            raise TypeError(expected("handle_signals", "True, False or 'note'", self.handle_signals))
        for name in ("text", "jsonl", "parquet", "capture_logging", "enabled"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(expected(name, "True or False", getattr(self, name)))
        for name, choices in (
            ("console", ConsoleMode),
            ("overflow", Overflow),
            ("fsync", Fsync),
            ("text_ranks", TextRanks),
            ("on_misuse", OnMisuse),
        ):
            if getattr(self, name) not in get_args(choices):
                wanted = " or ".join(map(repr, get_args(choices)))
                raise ValueError(expected(name, wanted, getattr(self, name)))
        _integer("max_log_files", self.max_log_files, 1, 1_000_000)
        _integer("max_log_size", self.max_log_size, MIN_LOG_SIZE, 1 << 50)
        _integer("training_log_every", self.training_log_every, 1, (1 << 32) - 1)
        _integer("text_digits", self.text_digits, 1, ALL_DIGITS)
        _integer("ring_bytes", self.ring_bytes, MIN_RING_BYTES, MAX_RING_BYTES)
        _integer("deferred_values", self.deferred_values, MIN_DEFERRED_VALUES, MAX_DEFERRED_VALUES)
        _integer("part_rows", self.part_rows, 1, 100_000_000)
        if self.rank is not None:
            _integer("rank", self.rank, 0, 99_999)
        if self.world_size is not None:
            _integer("world_size", self.world_size, 1, 100_000)
        check_seconds("memory_interval_s", self.memory_interval_s, 0.0)
        check_seconds("part_interval_s", self.part_interval_s, 0.1)
        check_seconds("close_timeout_s", self.close_timeout_s, 0.0)
        check_seconds("deferred_timeout_s", self.deferred_timeout_s, 0.0)
        if self.overflow_timeout_s is not None:
            check_seconds("overflow_timeout_s", self.overflow_timeout_s, 0.0)


def _unicode_path(log_dir: Path) -> Path:
    # The absolute path, since the current directory may be the part that is not UTF-8.
    try:
        os.path.abspath(log_dir).encode()
    except UnicodeEncodeError:
        wanted = "a path that is valid UTF-8, as Parquet's writer and readers need it"
        raise ValueError(expected("log_dir", wanted, os.path.abspath(log_dir))) from None
    return log_dir


def _level(level: object) -> int:
    if isinstance(level, str):
        if level.upper() not in SEVERITIES:
            raise ValueError(expected("log_level", "a number or one of " + ", ".join(SEVERITIES), level))
        return int(getattr(logging, level.upper()))
    if isinstance(level, bool) or not isinstance(level, int):
        raise TypeError(expected("log_level", "a level of the logging module", level))
    if not 0 <= level <= 100:
        raise ValueError(expected("log_level", "a level of the logging module, 0-100", level))
    return level


def _best(metric: object, mode: object) -> None:
    if metric is not None and not isinstance(metric, str):
        raise TypeError(expected("best_metric", "a string", metric))
    if mode is not None and mode not in ("max", "min"):
        raise ValueError(expected("best_mode", "'max' or 'min'", mode))
    if mode is not None and metric is None:
        raise ValueError(expected("best_metric", f"the metric whose {mode} is the best", metric))
    if metric is not None and mode is None and mode_of(metric) is None:
        raise ValueError(expected("best_mode", f"'max' or 'min' for {metric!r}, whose name does not say it", mode))


def _texts(name: str, texts: object) -> tuple[str, ...]:
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise TypeError(expected(name, "a sequence of strings", texts))
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(expected(name, "a string", text))
    return tuple(dict.fromkeys(texts))


def _metric_names(names: object) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise TypeError(expected("metrics", "a sequence of metric names", names))
    declared = tuple(dict.fromkeys(checked_metric_name(n, "metrics") for n in names if n not in CORE_METRICS))
    if len(declared) > MAX_COLUMNS:
        raise ValueError(expected("metrics", f"at most {MAX_COLUMNS} names", len(declared)))
    return declared


def _integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(expected(name, "an integer", value))
    if not low <= value <= high:
        raise ValueError(expected(name, f"an integer from {low} to {high}", value))


def check_seconds(name: str, value: object, low: float) -> None:
    """
    :raises TypeError: `value` is no number.
    :raises ValueError: it is less than `low`, or more than 10**6.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(expected(name, "seconds", value))
    if not low <= value <= MAX_SECONDS:
        raise ValueError(expected(name, f"seconds, from {low} to {MAX_SECONDS}", value))
