"""Pictures of metrics: least, greatest, mean and counts of every value, by bucket of steps, at any zoom.

Never reads a run's folder itself: it is given pieces of runs, which the reader finds, and keeps what it has counted in
the user's own cache. Doors: `Levels` (the buckets of a span), `Picture`, `Piece`, `Cache`, `svg`.
Read first: `buckets`, then `levels`.
"""

from .cache import Cache
from .levels import Levels, Piece, Span
from .picture import Heat, Picture

__all__ = ["Cache", "Heat", "Levels", "Picture", "Piece", "Span"]
