"""The way of a record from a call to the sinks: the ring in shared memory, the thread that drains it in C, the values
that an accelerator still owes, and the rings of child processes.

Never decides what is logged, and never formats: C does. Never raises into the training for a fault of the disk.
Doors: `ring.Ring`, `drain.Drain`, `child.Child`, `background.Background`. Read first: `drain`.
"""
