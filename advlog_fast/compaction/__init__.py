"""A run's Parquet datasets rewritten: a column for each metric, and few files. For runs that nobody logs.

Never leaves a moment at which a record is missing or doubled; every step may be killed, and the compaction run again.
Door: `compact`. Read first: `dataset`.
"""

from .dataset import Compacted
from .runs import compact

__all__ = ["Compacted", "compact"]
