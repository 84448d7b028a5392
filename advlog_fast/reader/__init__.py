"""Reads runs, finished or live: everything that was flushed, of every rank and attempt.

Never writes into a run, and never needs the process that logged. Doors: `read_run`, `compare`, `follow`, `list_runs`,
`read_jsonl`. Read first: `run`, then `stream_reader`, which finds the files.
"""

from .comparing import Comparison, compare
from .following import Followed, follow
from .lines import read_jsonl
from .listing import list_runs
from .run import Run, read_run

__all__ = ["Comparison", "Followed", "Run", "compare", "follow", "list_runs", "read_jsonl", "read_run"]
