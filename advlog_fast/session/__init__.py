"""Runs one attempt of one rank: `registry` has the sessions of this process, `session` opens, runs and closes one.

Never does the work itself: it makes the parts of the engine and the control plane, connects them, and closes them in
order. Doors: `registry.new_session` and `registry.start`. Read first: `session.Session`.
"""
