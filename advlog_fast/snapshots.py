"""Frozen snapshots of a running logger: its counts and its state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class NonFinite:
    """The first value of a metric that was NaN or infinite."""

    value: str
    """`nan`, `inf` or `-inf`."""
    seq: int
    step: int | None
    epoch: int | None
    batch: int | None
    time_ns: int
    """Nanoseconds since 1970, UTC."""


@dataclass(frozen=True)
class MetricStats:
    """Running statistics of one metric: moments over its finite values only."""

    count: int = 0
    """Finite values."""
    mean: float = math.nan
    std: float = math.nan
    """Population standard deviation."""
    min: float = math.nan
    max: float = math.nan
    last: float = math.nan
    """The last value, finite or not."""
    nan: int = 0
    posinf: int = 0
    neginf: int = 0
    first_nonfinite: NonFinite | None = None


@dataclass(frozen=True)
class EpochTotals:
    """The counts of one epoch, by its batch records. An epoch number that comes again goes on counting."""

    epoch: int
    batches: int
    """By their numbers, where only every n-th batch is logged."""
    first_ns: int
    """When its first record was logged: nanoseconds since 1970, UTC."""
    last_ns: int
    """The time of its latest record."""
    samples: float
    """The sum of the finite values of the metric `samples`, each as often as its record stands for batches."""
    tokens: float
    """The same sum of the metric `tokens`."""
    loss: MetricStats
    accuracy: MetricStats
    first_batches: int = 1
    """The batches that the first record stands for."""
    left: int = 0
    """Batches between the latest record and the end of the epoch, where they are fewer than lie between two records."""

    @property
    def started(self) -> EpochTotals:
        """What began with the first record: the batches after it, whose time is known."""
        return self.times((self.batches - self.first_batches) / self.batches) if self.batches else self

    @property
    def ended(self) -> EpochTotals:
        """With the batches that are left, which a whole epoch has had."""
        return self.times(1 + self.left / self.batches) if self.batches else self

    def times(self, factor: float) -> EpochTotals:
        """With so many times the batches, samples and tokens."""
        batches = round(self.batches * factor)
        return replace(self, batches=batches, samples=self.samples * factor, tokens=self.tokens * factor)

    def since(self, before: EpochTotals | None) -> EpochTotals:
        """What came after another snapshot of the same epoch."""
        if before is None or before.first_ns != self.first_ns:
            return self
        return replace(
            self,
            batches=self.batches - before.batches,
            samples=self.samples - before.samples,
            tokens=self.tokens - before.tokens,
            first_ns=before.last_ns,
            loss=_mean_since(self.loss, before.loss),
            accuracy=_mean_since(self.accuracy, before.accuracy),
            first_batches=0,
        )


def _mean_since(now: MetricStats, before: MetricStats) -> MetricStats:
    """The count and the mean of the values after another snapshot; of the rest nothing is known."""
    count = now.count - before.count
    if not count:
        return MetricStats()
    if not before.count:
        return now
    return MetricStats(count=count, mean=now.mean + (now.mean - before.mean) * (before.count / count))


@dataclass(frozen=True)
class Quantiles:
    """Percentiles of a duration, in seconds: the least value that at least that share of all do not exceed (nearest
    rank, numpy's `inverted_cdf`), within 1 % and never outside the minimum and the maximum. NaN where there was no
    value, and where it is negative or outside 1e-9 to 6e8 s."""

    p50: float = math.nan
    p90: float = math.nan
    p99: float = math.nan


@dataclass(frozen=True)
class Totals:
    """Everything the drain has counted, as of one moment."""

    pending: int = 0
    """Calls that returned but are not counted here yet; 0 unless the drain is overloaded."""
    metric_records: int = 0
    system_records: int = 0
    event_records: int = 0
    last_epoch: int | None = None
    last_batch: int | None = None
    last_total_batches: int | None = None
    last_step: int | None = None
    max_step: int | None = None
    """The greatest one."""
    last_time_ns: int = 0
    unresolved: Mapping[str, int] = field(default_factory=dict)
    """Values that never arrived from an accelerator, by reason."""
    metrics: Mapping[str, MetricStats] = field(default_factory=dict)
    """By name: the built-in metrics that had a value, then the others in order of their first use."""
    system: Mapping[str, MetricStats] = field(default_factory=dict)
    """By name: the numbers of memory and performance samples that had a value."""
    names: int = 0
    """How many names of metrics beside the built-in ones there are; `metrics` and `system` have the first 2,000."""
    step_interval: MetricStats = field(default_factory=MetricStats)
    """Seconds between batch records that came without a batch_time."""
    epoch: EpochTotals | None = None
    """The one of the latest batch record."""
    epochs: Mapping[int, EpochTotals] = field(default_factory=dict)
    """By number, the latest four."""
    quantiles: Mapping[str, Quantiles] = field(default_factory=dict)
    """Of `batch_time`, `data_time`, `step_interval`, `performance/batch_time`, `performance/data_time`."""


@dataclass(frozen=True)
class MisuseCount:
    """Values of one name that could not be logged as they came."""

    count: int
    first_step: int | None
    """The step of the first record that had one; None if it had no step."""
    kind: str
    """What was wrong first: `type`, `range` (of the column), `name` (of the metric), `duplicate`, `nesting`,
    `unreadable`, `rounded` (to float64), `names_full` (the run has no room for more names)."""


@dataclass(frozen=True, kw_only=True)
class SinkHealth:
    """The counts of one sink: accepted = written + dropped + pending."""

    name: str
    accepted: int
    """Records that entered the ring and that this sink must write."""
    written: int
    """Records completed, including those that rotation has deleted since."""
    dropped: int
    pending: int
    filtered: int
    """Of `written`: lines that the log level or `training_log_every` kept out of the text log."""
    expired: int
    """Of `written`: records in files that rotation deleted because of `max_log_files`."""
    vanished: int
    """Of `written`: records in files that somebody else removed while the sink wrote them."""
    faults: int
    """Failed writes and opens since the start."""
    error: str | None
    """The last fault; None if there was none."""
    set_aside: bool
    """True while the sink is suspended: it fails, and its records are dropped until it works again."""


@dataclass(frozen=True)
class CallCost:
    """What the calls of `log_batch_progress` cost the training loop. One in about a thousand is timed, from its first
    instruction to its last, without waits for a full ring; the latest few hundred are kept. Times are in seconds, NaN
    while there is none."""

    timed: int = 0
    mean_s: float = math.nan
    p50_s: float = math.nan
    p99_s: float = math.nan
    max_s: float = math.nan
    stalls: int = 0
    """How often a full ring made a call wait, as the option `overflow` says."""
    stalled_s: float = 0.0
    """The total time of these waits."""

    @classmethod
    def of(cls, timed_ns: Sequence[int], stalls: int, stalled_s: float) -> CallCost:
        """Returns the cost of calls that took `timed_ns` nanoseconds each."""
        if not timed_ns:
            return cls(stalls=stalls, stalled_s=stalled_s)
        ordered = [ns / 1e9 for ns in sorted(timed_ns)]
        last = len(ordered) - 1
        mean_s = math.fsum(ordered) / len(ordered)
        return cls(
            len(ordered), mean_s, ordered[last // 2], ordered[last * 99 // 100], ordered[last], stalls, stalled_s
        )


@dataclass(frozen=True, kw_only=True)
class Health:
    """The delivery counts and state of a logger, from :meth:`AdvancedLogger.health`: offered = accepted +
    dropped_at_entry.

    >>> health = log.health()
    >>> health.offered, health.dropped_at_entry["full"], health.status
    (1, 0, 'running')
    """

    offered: int
    accepted: int
    dropped_at_entry: Mapping[str, int]
    """By reason: `full`, `closed`, `forked`."""
    pending: int
    """Records in the ring that at least one working sink has not completed."""
    ring_slots: int
    ring_used: int
    sinks: Mapping[str, SinkHealth]
    unresolved: Mapping[str, int]
    """Values that never arrived from an accelerator, by reason: `timeout`, `slab_full`, `capture`, `killed`."""
    gpu_values: Mapping[str, int] = field(default_factory=dict)
    """Values that were copied from an accelerator, by how: `launch`, one for all of a call; `operators` of torch, ten
    times slower, for what a launch may not read."""
    misuse: Mapping[str, MisuseCount] = field(default_factory=dict)
    """Values that calls were given and that could not be logged as they came, by the name of the metric or the
    argument; from the 65th name on under `others`. See the option `on_misuse`."""
    hook_faults: Mapping[str, int] = field(default_factory=dict)
    """Hooks of a framework's integration that failed, or that never came though the framework trained, by name."""
    ring_path: str | None
    """The path of the ring's file; None if the ring lies in memory that dies with the process."""
    status: str
    call: CallCost
    drain_cpu_s: float
    """CPU time that the drain thread has used, in seconds."""
    sealer_cpu_s: float
    """CPU time that sealing into Parquet has used, in seconds."""
    parts: int
    """Parquet parts sealed in this attempt."""
    seal_faults: int
    """Failed attempts to seal a part, and damaged spools."""
    seal_error: str | None
    """The last of these faults; None if there was none."""
    entries_lost: Mapping[str, int]
    """Entries of the control plane that could not be written, by file name, and console lines under `console`."""
    entries_error: str | None
    """The last fault of one of these files, with its name; None if there was none."""

    @classmethod
    def nothing(cls, status: str) -> Health:
        """Returns the health of a logger that has logged nothing."""
        return cls(
            offered=0,
            accepted=0,
            dropped_at_entry={},
            pending=0,
            ring_slots=0,
            ring_used=0,
            sinks={},
            unresolved={},
            ring_path=None,
            status=status,
            call=CallCost(),
            drain_cpu_s=0.0,
            sealer_cpu_s=0.0,
            parts=0,
            seal_faults=0,
            seal_error=None,
            entries_lost={},
            entries_error=None,
        )
