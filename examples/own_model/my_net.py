"""A model of one's own: nothing in it knows sweepstack."""

from torch import Tensor, nn


class Net(nn.Module):
    """A network with one hidden layer and a skip connection.

    Args:
        pixels: the size of a flattened image.
        classes: the number of classes.
        width: the width of the hidden layer.
        dropout: the probability with which a hidden number is set to 0 in training.
    """

    def __init__(self, pixels: int, classes: int, width: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.hidden = nn.Sequential(nn.Linear(pixels, width), nn.ReLU(), nn.Dropout(dropout))
        self.out = nn.Linear(width, classes)
        self.skip = nn.Linear(pixels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits [n, classes] of images [n, ...]."""
        pixels = self.flatten(images)
        logits: Tensor = self.out(self.hidden(pixels)) + self.skip(pixels)
        return logits
