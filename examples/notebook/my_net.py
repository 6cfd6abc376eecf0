"""A model for the notebook. It is in a file because another process trains it."""

import math

from torch import Tensor, nn


class Net(nn.Module):
    """Two layers.

    Args:
        shape: the shape of an image, as the dataset says it.
        classes: the number of classes.
        width: the width of the hidden layer.
    """

    def __init__(self, shape: list[int], classes: int, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(math.prod(shape), width), nn.ReLU(), nn.Linear(width, classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits [n, classes] of images [n, *shape]."""
        logits: Tensor = self.layers(images)
        return logits
