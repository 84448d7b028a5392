"""Owns the files that the drain writes: the training log, JSON lines, spools. A sink opens files in advance, and takes
over and rotates those that the drain has finished.

Never formats or writes a line: C does both. Door: `base.Sink`. Read first: `base`, which is the whole contract.
"""
