"""Rewrites a run's Parquet datasets: a column for each metric, and few files. For runs that no process logs.

Never loses or doubles a record, not even for a moment where the file system can exchange two names atomically. A
compaction may be killed at any point and run again. Door: `compact`. Read first: `dataset`.
"""

from .dataset import Compacted
from .runs import compact

__all__ = ["Compacted", "compact"]
