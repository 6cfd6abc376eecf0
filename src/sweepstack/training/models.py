"""Models: from images [N, *shape] to logits [N, classes]."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from sweepstack.config import ModelConfig
from sweepstack.training.targets import build as build_target


class Logistic(nn.Module):
    """Multinomial logistic regression: one linear layer on the flattened image.

    Args:
        shape: of one image, for example [1, 28, 28].
        classes: number of classes.
    """

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(math.prod(shape), classes)

    def forward(self, images: Tensor) -> Tensor:
        """float [N, *shape] -> float logits [N, classes]."""
        logits: Tensor = self.linear(images.flatten(1))
        return logits


class MLP(nn.Module):
    """Linear layers with ReLU and dropout between them.

    Args:
        shape: of one image, for example [1, 28, 28].
        classes: number of classes.
        hidden: width of each hidden layer; empty gives logistic regression.
        dropout: probability that a hidden unit is dropped in training.
    """

    def __init__(self, shape: Sequence[int], classes: int, hidden: Sequence[int] = (64,), dropout: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        width = math.prod(shape)
        for units in hidden:
            layers += [nn.Linear(width, units), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
            width = units
        self.layers = nn.Sequential(*layers, nn.Linear(width, classes))

    def forward(self, images: Tensor) -> Tensor:
        """float [N, *shape] -> float logits [N, classes]."""
        logits: Tensor = self.layers(images)
        return logits


def build(config: ModelConfig) -> nn.Module:
    """The model with fresh weights, drawn from PyTorch's global random state.

    Raises:
        TypeError: what the target gives is no `nn.Module`.
    """
    model = build_target({"_target_": config.target, **config.keywords}, "model")
    if not isinstance(model, nn.Module):
        raise TypeError(f"{config.target} should give a torch.nn.Module, got {type(model).__name__}")
    return model
