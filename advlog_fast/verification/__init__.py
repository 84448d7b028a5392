"""Whether a run's files hold what its accounts say: gaps, doubles and damage, by (attempt, rank, seq).

A gap is explained by a counter of the attempt's account (promise: accepted = written + dropped + pending, and some of
what was written expired or vanished), by rotation, or by a ring that is still to be drained; by nothing else.
"""

from .findings import Finding, tally
from .runs import verify

__all__ = ["Finding", "tally", "verify"]
