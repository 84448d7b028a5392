"""Recovers what killed processes left: drains their rings into the files, seals their spools, closes their summaries.

Never touches a file before proving that it is this run's. Every step is repeatable, so a recovery may be killed at any
point and run again. Doors: `recover`, `recover_rank`. Read first: `runs`, then `dead_rings`.
"""

from .leftovers import has_left, mend_tails
from .recovered import Recovered
from .runs import recover, recover_rank

__all__ = ["Recovered", "has_left", "mend_tails", "recover", "recover_rank"]
