"""What dead processes left behind, brought into the files: their rings, their spools, their summaries.

Every step may be repeated, so a recovery may be killed at any point and run again.
"""

from .dead_rings import HAS_ENDED, HELD_HERE
from .leftovers import mend_tails
from .recovered import Recovered
from .runs import recover, recover_rank

__all__ = ["HAS_ENDED", "HELD_HERE", "Recovered", "mend_tails", "recover", "recover_rank"]
