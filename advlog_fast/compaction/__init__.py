"""A run's Parquet datasets made anew: every metric a column, and few files. For runs that nobody logs.

Every step may be killed, and the compaction run again: at each moment, the dataset holds every record once.
"""

from .dataset import Compacted
from .runs import compact

__all__ = ["Compacted", "compact"]
