"""The files that the drain writes into: the training log, JSON lines, spools. A sink opens its files ahead, takes over
those that C has finished, and rotates them.

Never formats or writes a line: C does both. Door: `base.Sink`. Read first: `base`, which is the whole contract.
"""
