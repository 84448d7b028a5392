"""Finds when the training passes 25, 50, 75 and 90 % of an epoch and of the whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

PERCENTS = (25, 50, 75, 90)

Scope = Literal["epoch", "overall"]


@dataclass(frozen=True)
class Milestone:
    """One mark, passed."""

    scope: Scope
    percent: int


@dataclass(frozen=True)
class Progress:
    """A mark as it is logged: where the training was when it was passed."""

    scope: Scope
    percent: int
    epoch: int
    batch: int | None = None
    total_batches: int | None = None
    rate: float | None = None
    """Batches a second."""
    eta_s: float | None = None
    """Seconds left of the scope."""

    def fields(self) -> dict[str, Any]:
        return {
            "scope": self.scope,
            "percent": self.percent,
            "epoch": self.epoch,
            "batch": self.batch,
            "total_batches": self.total_batches,
            "batches_per_s": None if self.rate is None else float(f"{self.rate:.4g}"),
            "eta_s": None if self.eta_s is None else round(self.eta_s, 1),
        }


class Milestones:
    """Reports each mark once for an epoch and once for the whole; computes with integers, so that 50 % is exact.

    Epochs count from 1, or from 0 where an epoch 0 was seen. A change of the epoch, forward or back, starts its marks
    again; those of the whole are never reported twice. A jump over several marks reports them all.
    """

    def __init__(self) -> None:
        self._epoch: int | None = None
        self._epoch_passed = 0
        self._overall_passed = 0
        self._first_epoch = 1
        self._quiet_totals: tuple[int | None, int | None] = (None, None)
        self._quiet_below = 0

    def update(
        self, epoch: int, batch: int, total_batches: int | None = None, total_epochs: int | None = None
    ) -> tuple[Milestone, ...]:
        """The marks passed by being done with `batch` of `total_batches` in `epoch` of `total_epochs`.

        A total that is None or not above 0 is unknown, and its marks are not reported. If only the total of batches is
        unknown, the whole still advances by epochs.
        """
        if batch < self._quiet_below and epoch == self._epoch and (total_batches, total_epochs) == self._quiet_totals:
            return ()
        if epoch != self._epoch:
            self._epoch = epoch
            self._epoch_passed = 0
            if epoch == 0:
                self._first_epoch = 0
        # Without a total of batches, an epoch counts as one batch that is not done.
        total = total_batches if total_batches and total_batches > 0 else 0
        done = min(max(batch, 0), total)
        passed: list[Milestone] = []
        due: list[int] = []
        if total:
            self._epoch_passed = _advance("epoch", done, total, self._epoch_passed, passed)
            due.append(_due(total, self._epoch_passed, 0))
        if total_epochs and total_epochs > 0:
            before = max(epoch - self._first_epoch, 0) * (total or 1)
            whole = total_epochs * (total or 1)
            self._overall_passed = _advance("overall", before + done, whole, self._overall_passed, passed)
            due.append(_due(whole, self._overall_passed, before))
        self._quiet_totals = (total_batches, total_epochs)
        self._quiet_below = min(due, default=1 << 62) if total else 1 << 62
        return tuple(passed)


def _advance(scope: Scope, done: int, total: int, passed: int, out: list[Milestone]) -> int:
    while passed < len(PERCENTS) and done * 100 >= PERCENTS[passed] * total:
        out.append(Milestone(scope, PERCENTS[passed]))
        passed += 1
    return passed


def _due(total: int, passed: int, before: int) -> int:
    """The first batch of this epoch at which the next mark is passed."""
    if passed == len(PERCENTS):
        return 1 << 62
    return -(-PERCENTS[passed] * total // 100) - before
