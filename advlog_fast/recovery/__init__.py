"""What dead processes left behind, brought into the files: their rings, their spools, their summaries.

Every step may be repeated, so a recovery may be killed at any point and run again.
"""

from .leftovers import has_left, mend_tails
from .recovered import Recovered
from .runs import recover, recover_rank

__all__ = ["Recovered", "has_left", "mend_tails", "recover", "recover_rank"]
