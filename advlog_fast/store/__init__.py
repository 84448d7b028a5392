"""What is on disk and who owns it: file names, the checks before a file is touched, locks, attempts and ranks, the
notes of rings, rotated files, the ledger of what was delivered.

Never reads or writes a record. Doors: `paths.RunPaths`, `files`, `locks.FileLock`, `attempts`. Read first: `paths`,
then `files`.
"""
