"""Pages that show a run: one file to send around.

Never computes a picture, and reads a run's files through the reader alone. What a run says is text here, never markup.
Doors: `report`, `gallery.Gallery`, `server.application`. Read first: `facts`, then `static/page.js`, which draws them.
"""

from .report import report

__all__ = ["report"]
