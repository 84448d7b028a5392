"""The files on disk and their owners: names, checks before a file is touched, locks, attempts and ranks, ring notes,
rotated files, delivery ledgers.

Never reads or writes a record. Doors: `paths.RunPaths`, `files`, `locks.FileLock`, `attempts`. Read first: `paths`,
then `files`.
"""
