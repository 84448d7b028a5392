"""One attempt of one rank: `registry` knows the sessions of this process, `session` opens, runs and closes one.

Never does the work itself: it makes the parts of the engine and the control plane, connects them, and takes them down
in order. Doors: `registry.new_session` and `registry.start`. Read first: `session.Session`.
"""
