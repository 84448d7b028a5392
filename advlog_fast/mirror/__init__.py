"""Copies the runs of a folder into a remote store, and makes a folder of them again for readers.

Never writes into a run's files, follows no link, and trusts no name, size or content in the store. Doors: `mirror`
(folder to store), `fetched` (store to folder). Read first: `manifest`, then `scanning` and `uploading`.
"""

from .fetching import fetched
from .mirroring import mirror
from .store import RemoteError

__all__ = ["RemoteError", "fetched", "mirror"]
