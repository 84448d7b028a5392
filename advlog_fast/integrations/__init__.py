"""One module for each framework that logs by itself: `lightning`, `transformers`, `accelerate`, `ray`.

Never imported by the rest of the package; each module imports its framework, and fails with a sentence that names the
extra where that is missing. Nothing in here may end or slow a training: a fault of an integration is an entry in the
errors log and a count in `health()`. Read first: `base`, what they share.
"""
