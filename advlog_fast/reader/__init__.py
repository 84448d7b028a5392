"""Reading runs back, finished or still being written: all that was flushed, of every rank and attempt."""

from .lines import read_jsonl
from .listing import list_runs
from .run import Run, read_run

__all__ = ["Run", "list_runs", "read_jsonl", "read_run"]
