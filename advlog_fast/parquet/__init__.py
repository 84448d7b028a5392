"""Turns spools into Parquet parts, and parts back into batches with a column for each metric. Writing, reading,
recovery, compaction and verification all use it.

Never chooses which runs or attempts to read, and never holds more than a row group. Doors: `sealer.Sealer`,
`parts.seal`, `part_reader.flattened_batches`. Read first: `columns`, which decodes spools.
"""
