"""A script for TensorBoard, with its import changed, keeps every scalar; an export of all points gives them back."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("tensorboard")

from advlog_fast import read_run

SCRIPT = Path(__file__).with_name("tensorboard_script.py")
THEIRS = "from torch.utils.tensorboard import SummaryWriter"
OURS = "from advlog_fast.integrations.tensorboard import SummaryWriter"


def python(folder, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    subprocess.run([sys.executable, *map(str, arguments)], env=environment, cwd=folder, check=True, timeout=240)


def scalars(folder):
    """By tag: each point of its event files, as TensorBoard's own loader reads them."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util import tensor_util

    found = {}
    for path in sorted(folder.rglob("events.out.tfevents*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    number = float(tensor_util.make_ndarray(value.tensor))
                    found.setdefault(value.tag, []).append((event.step, number))
    return found


def exact(points):
    """Comparable, NaN too."""
    return [(step, struct.pack("<d", value)) for step, value in points]


def test_every_scalar_and_step_comes_back_in_event_files(tmp_path):
    text = SCRIPT.read_text()
    assert len(text.splitlines()) <= 65
    changed = tmp_path / "changed.py"
    changed.write_text(text.replace(THEIRS, OURS))
    assert changed.read_text() != text
    python(tmp_path, SCRIPT, tmp_path / "theirs")
    python(tmp_path, changed, tmp_path / "ours")
    target = f"tensorboard:{tmp_path / 'back'}"
    python(tmp_path, "-m", "advlog_fast", "export", tmp_path / "ours", "run", "--to", target, "--points", "all")
    theirs, back = scalars(tmp_path / "theirs"), scalars(tmp_path / "back")
    # TensorBoard's writer puts each of add_scalars into a run of its own, all under the main tag.
    both = theirs.pop("Accuracy")
    assert sorted([*back.pop("Accuracy/train"), *back.pop("Accuracy/val")]) == sorted(both)
    assert set(theirs) == set(back)
    for tag, points in theirs.items():
        assert exact(points) == exact(back[tag]), tag
    rows = read_run(tmp_path / "ours", "run").metrics
    losses = [value for value in rows["Loss/train"].to_pylist() if value is not None]
    assert len(losses) == 3 * 16 + 1
