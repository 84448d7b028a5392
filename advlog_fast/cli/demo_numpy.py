"""The demo's classifier where torch is not installed: one hidden layer, written out in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np


class NumpyClassifier:
    """64 pixels to 10 digits through 64 ReLUs, trained by SGD with momentum on the cross-entropy."""

    library = f"numpy {np.__version__}"
    learning_rate = 0.05

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.model: dict[str, Any] = {
            "hidden.weight": random.normal(0.0, (2 / 64) ** 0.5, (64, 64)),
            "hidden.bias": np.zeros(64),
            "output.weight": random.normal(0.0, (1 / 64) ** 0.5, (64, 10)),
            "output.bias": np.zeros(10),
        }
        self._velocity = {name: np.zeros_like(weights) for name, weights in self.model.items()}

    def step(self, images: Any, labels: Any) -> tuple[float, float, float]:
        """Learn from one batch, and return its loss, accuracy and gradient norm before the update.

        :raises ValueError: the images do not have 64 pixels.
        """
        hidden, probabilities = self._forward(images)
        loss, accuracy = _score(probabilities, labels)
        error = probabilities.copy()
        error[np.arange(len(labels)), labels] -= 1.0
        error /= len(labels)
        hidden_error = (error @ self.model["output.weight"].T) * (hidden > 0.0)
        gradients = {
            "hidden.weight": images.T @ hidden_error,
            "hidden.bias": hidden_error.sum(axis=0),
            "output.weight": hidden.T @ error,
            "output.bias": error.sum(axis=0),
        }
        norm = float(np.sqrt(sum(np.sum(np.square(gradient)) for gradient in gradients.values())))
        for name, gradient in gradients.items():
            self._velocity[name] = 0.9 * self._velocity[name] - self.learning_rate * gradient
            self.model[name] += self._velocity[name]
        return loss, accuracy, norm

    def evaluate(self, images: Any, labels: Any) -> tuple[float, float]:
        """Return the mean loss and the accuracy on images, without learning from them."""
        return _score(self._forward(images)[1], labels)

    def _forward(self, images: Any) -> tuple[Any, Any]:
        hidden = np.maximum(images @ self.model["hidden.weight"] + self.model["hidden.bias"], 0.0)
        logits = hidden @ self.model["output.weight"] + self.model["output.bias"]
        # Subtracting the largest logit keeps exp() from overflowing.
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return hidden, exponentials / exponentials.sum(axis=1, keepdims=True)


def _score(probabilities: Any, labels: Any) -> tuple[float, float]:
    correct = probabilities[np.arange(len(labels)), labels]
    loss = float(-np.log(np.maximum(correct, np.finfo(np.float64).tiny)).mean())
    return loss, float((probabilities.argmax(axis=1) == labels).mean())
