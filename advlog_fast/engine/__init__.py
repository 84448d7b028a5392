"""Takes a record from a call to the sinks: the ring in shared memory, the thread that drains it in C, the values that
an accelerator fills in later, and the rings of child processes.

Never decides what is logged, and never formats a record: C does. Never raises into the training for a disk fault.
Doors: `ring.Ring`, `drain.Drain`, `child.ChildSession`, `background.Background`. Read first: `drain`.
"""
