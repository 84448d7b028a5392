"""Handles everything of a run except records: events, errors, epochs, milestones, the main log, the console, the
summary.

Never delays a record, and never raises for a disk fault. Doors: `plane.ControlPlane`, and its stand-ins in a child
process (`child`) and in a disabled logger (`disabled`). Read first: `events`, then `plane`.
"""
