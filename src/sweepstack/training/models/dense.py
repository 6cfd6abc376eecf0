"""Linear layers: for flattened images, tables, and whatever else is numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from sweepstack.errors import ConfigError


class Logistic(nn.Module):
    """Multinomial logistic regression: one linear layer on the flattened image.

    Args:
        shape: the shape of one image, for example [1, 28, 28].
        classes: number of classes.
    """

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(math.prod(shape), classes)

    def forward(self, images: Tensor) -> Tensor:
        """float [N, *shape] -> float logits [N, classes]."""
        logits: Tensor = self.linear(images.flatten(1))
        return logits


class Linear(nn.Module):
    """Linear regression: one linear layer on the flattened input.

    Args:
        shape: the shape of one input, for example [10].
        outputs: the number of numbers to predict.
    """

    def __init__(self, shape: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(math.prod(shape), outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """float [N, *shape] -> float [N, outputs]."""
        predicted: Tensor = self.linear(inputs.flatten(1))
        return predicted


class MLP(nn.Module):
    """Linear layers with ReLU and dropout between them.

    Args:
        shape: the shape of one image, for example [1, 28, 28].
        classes: number of classes, or of numbers to predict.
        hidden: width of each hidden layer, 1 or more; empty gives logistic regression.
        dropout: probability that a hidden unit is dropped in training.

    Raises:
        ConfigError: a width is below 1.
    """

    def __init__(self, shape: Sequence[int], classes: int, hidden: Sequence[int] = (64,), dropout: float = 0.0) -> None:
        super().__init__()
        if any(units < 1 for units in hidden):
            raise ConfigError("model.hidden must be widths from 1", list(hidden), "for example model.hidden=[64]")
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
