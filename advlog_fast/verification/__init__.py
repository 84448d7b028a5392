"""Whether a run's files hold what its ledgers say: gaps, doubles and damage, by (attempt, rank, seq).

Never repairs. A gap is explained by a counter of the attempt's ledger, by rotation, or by a ring that is still to be
drained; by nothing else. Door: `verify`. Read first: `comparison`.
"""

from .findings import Finding, tally
from .runs import verify

__all__ = ["Finding", "tally", "verify"]
