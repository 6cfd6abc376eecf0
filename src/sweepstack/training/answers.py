"""What a trained model answers to each test image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sweepstack.config import TrialConfig
from sweepstack.training import data, models


@dataclass(frozen=True)
class Answers:
    """NumPy arrays over the test images, in their order."""

    images: Any
    """As the dataset has them, [n, *shape]."""
    labels: Any
    """int64 [n]."""
    probabilities: Any
    """float32 [n, classes]."""
    digest: str
    """Checksum of images and labels, the training images among them."""


def answers(config: TrialConfig, weights: Path) -> Answers:
    """A trained model on the test data of its config, on the CPU.

    Raises:
        DataError: the dataset cannot be had.
        Exception: whatever the file of weights or the user's model raises.
    """
    loaded = data.load(config.dataset, config.validation_split, torch.device("cpu"))
    with torch.random.fork_rng(devices=[]):  # fresh weights draw from the global state
        model = models.build(config.model)
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    model.eval()
    with torch.inference_mode():
        probabilities = torch.cat([torch.softmax(model(images).float(), 1) for images, _ in loaded.test()])
    return Answers(loaded.test_images.numpy(), loaded.test_labels.numpy(), probabilities.numpy(), loaded.facts.digest)
