"""Sends a run's rows to other tools: TensorBoard, W&B, MLflow, Prometheus, CSV. It reads files, while the run goes on.

Never touches a file of the run, derives no path from what a run holds, and imports a tool's package only when a run is
sent there. A killed export goes on where it was: nothing is missing, nothing is doubled. Doors: `export`,
`parse_target`. Read first: `exporter`, then `thinning`; each target is a module `to_<kind>`.
"""

from .exporter import Exported, export
from .targets import ExportError, parse_target

__all__ = ["ExportError", "Exported", "export", "parse_target"]
