"""What killed processes left: their rings, their spools, their summaries, brought into the files.

Never touches what it has not proved to be this run's; every step may be repeated, so a recovery may be killed at any
point and run again. Doors: `recover`, `recover_rank`. Read first: `runs`, then `dead_rings`.
"""

from .leftovers import has_left, mend_tails
from .recovered import Recovered
from .runs import recover, recover_rank

__all__ = ["Recovered", "has_left", "mend_tails", "recover", "recover_rank"]
