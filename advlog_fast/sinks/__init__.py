"""The drain's destinations: which files they have, how those are opened ahead, retired and removed."""
