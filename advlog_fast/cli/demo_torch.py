"""The demo's classifier where torch is installed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class TorchClassifier:
    """64 pixels to 10 digits through 64 ReLUs, trained by AdamW on the cross-entropy, on a GPU if there is one."""

    library = f"torch {torch.__version__}"
    learning_rate = 3e-3

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).to(self._device)
        self._optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.learning_rate)
        self._loss = nn.CrossEntropyLoss()

    def step(self, images: Any, labels: Any) -> tuple[float, float, float]:
        """Learn from one batch, and return its loss, accuracy and gradient norm before the update.

        :raises RuntimeError: the images do not have 64 pixels.
        """
        targets = torch.as_tensor(labels, device=self._device)
        outputs = self.model(self._input(images))
        loss = self._loss(outputs, targets)
        self._optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=5.0)
        self._optimizer.step()
        accuracy = (outputs.argmax(dim=1) == targets).double().mean()
        return loss.item(), accuracy.item(), norm.item()

    def evaluate(self, images: Any, labels: Any) -> tuple[float, float]:
        """Return the mean loss and the accuracy on images, without learning from them."""
        targets = torch.as_tensor(labels, device=self._device)
        with torch.no_grad():
            outputs = self.model(self._input(images))
            loss = self._loss(outputs, targets)
        return loss.item(), (outputs.argmax(dim=1) == targets).double().mean().item()

    def _input(self, images: Any) -> Any:
        return torch.as_tensor(images, dtype=torch.float32, device=self._device)
