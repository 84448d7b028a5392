"""Compares a run's files with its ledgers: finds gaps, doubles and damage, by (attempt, rank, seq).

Never repairs. Only a counter in the attempt's ledger, rotation, or a ring that is not drained yet explains a gap.
Door: `verify`. Read first: `comparison`.
"""

from .differences import Difference, tally
from .runs import verify

__all__ = ["Difference", "tally", "verify"]
