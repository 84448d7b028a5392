"""Spools to Parquet parts, and parts back to batches with a column for each metric. Writing, reading, recovery,
compaction and verification all use it.

Never chooses which runs or attempts are read, and never holds more than a row group. Doors: `sealer.Sealer`,
`parts.seal`, `part_reader.flattened_batches`. Read first: `columns`, which says what a spool holds.
"""
