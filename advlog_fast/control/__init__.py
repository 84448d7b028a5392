"""Everything of a run that is no record: events, errors, epochs, milestones, the main log, the console, the summary.

Never on the way of a record, and never raises for a fault of the disk. Doors: `plane.ControlPlane`, and what stands for
it in a child process (`child`) and in a logger that is off (`disabled`). Read first: `events`, then `plane`.
"""
