"""The undefined names of the usage examples: a small real model, its data, and a logger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from advlog_fast import AdvancedLogger


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples write to "logs" in the current directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def advanced_logger() -> Iterator[AdvancedLogger]:
    with AdvancedLogger(log_dir="logs", experiment_name="my_experiment") as logger:
        yield logger


class SmallTraining:
    """A classifier in torch that learns which of its 4 inputs is the largest."""

    def __init__(self) -> None:
        import torch
        from torch.utils.data import DataLoader, TensorDataset

        torch.manual_seed(1)
        inputs = torch.rand(96, 4)
        data = TensorDataset(inputs, inputs.argmax(dim=1))
        self.model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.criterion = torch.nn.CrossEntropyLoss()
        self.dataloader = DataLoader(data, batch_size=16)
        self.val_dataloader = DataLoader(data, batch_size=48)
        self.outputs: Any = None

    def train_step(self, data: Any, targets: Any) -> Any:
        """The loss of one step, as a tensor."""
        self.optimizer.zero_grad()
        self.outputs = self.model(data)
        loss = self.criterion(self.outputs, targets)
        loss.backward()
        self.optimizer.step()
        return loss

    def validate(self, model: Any, dataloader: Any) -> dict[str, float]:
        import torch

        right = count = 0
        loss = 0.0
        with torch.no_grad():
            for data, targets in dataloader:
                outputs = model(data)
                loss += self.criterion(outputs, targets).item() * len(targets)
                right += int((outputs.argmax(dim=1) == targets).sum())
                count += len(targets)
        return {"loss": loss / count, "accuracy": right / count}


@pytest.fixture
def training() -> SmallTraining:
    pytest.importorskip("torch", reason="needs torch, which is not installed for this Python")
    return SmallTraining()
