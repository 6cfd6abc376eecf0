"""Convolutional networks for small images [channels, height, width]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sweepstack.errors import ConfigError
from sweepstack.training.models.shapes import image_shape


class CNN(nn.Module):
    """Convolutions, each with max-pooling that halves the image, then one hidden linear layer.

    Pooling comes right behind the convolution, so that BatchNorm and ReLU work on a quarter of the numbers. With the
    defaults it has 90,124 parameters for images [1, 28, 28] and ten classes.

    Args:
        shape: the shape of one image, for example [1, 28, 28].
        classes: number of classes, or of numbers to predict.
        channels: output channels of each convolution, 1 or more.
        kernel: odd width of the convolutions; the borders are padded with zeros.
        hidden: width of the hidden linear layer.
        dropout: probability that an input of a linear layer is dropped in training.
        batch_norm: whether BatchNorm follows each convolution.

    Raises:
        ConfigError: the items are no images, an image is too small to be halved so often, or the kernel is even.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        channels: Sequence[int] = (16, 32),
        kernel: int = 3,
        hidden: int = 54,
        dropout: float = 0.0,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ConfigError("model.kernel must be odd", kernel, "for example model.kernel=3")
        into, height, width = image_shape("a CNN", shape)
        if min(height, width) < 2 ** len(channels):
            rule = f"model.channels must not halve images of {height} x {width} pixels more often than they can be"
            raise ConfigError(rule, list(channels), "give fewer")
        layers: list[nn.Module] = []
        for out in channels:
            layers += [nn.Conv2d(into, out, kernel, padding=kernel // 2, bias=not batch_norm), nn.MaxPool2d(2)]
            layers += [*([nn.BatchNorm2d(out)] if batch_norm else []), nn.ReLU()]
            into, height, width = out, height // 2, width // 2
        layers += [nn.Flatten(), *_dropout(dropout), nn.Linear(into * height * width, hidden), nn.ReLU()]
        self.layers = nn.Sequential(*layers, *_dropout(dropout), nn.Linear(hidden, classes))
        self.to(memory_format=torch.channels_last)  # a step takes half the time on a CPU

    def forward(self, images: Tensor) -> Tensor:
        """float [N, *shape] -> float logits [N, classes]."""
        logits: Tensor = self.layers(images)
        return logits


def _dropout(probability: float) -> list[nn.Module]:
    return [nn.Dropout(probability)] if probability else []


class BasicBlock(nn.Module):
    """Two convolutions of 3 x 3 with BatchNorm, added to their input (He et al., 2016).

    Args:
        into: channels of the input.
        out: channels of the output.
        stride: of the first convolution; where it or the channels change the shape, a convolution of 1 x 1 fits the
            input to the sum.
    """

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *_convolution(into, out, 3, stride), nn.ReLU(), *_convolution(out, out, 3, stride=1)
        )
        same = stride == 1 and into == out
        self.shortcut = nn.Identity() if same else nn.Sequential(*_convolution(into, out, 1, stride))

    def forward(self, images: Tensor) -> Tensor:
        """float [N, into, H, W] -> float [N, out, H / stride, W / stride]."""
        return torch.relu(self.residual(images) + self.shortcut(images))


class ResNet18(nn.Module):
    """ResNet-18 for small images: it begins with a convolution of 3 x 3 at full size, without max-pooling.

    Args:
        shape: the shape of one image, for example [3, 32, 32].
        classes: number of classes, or of numbers to predict.
        width: channels of the first of four stages; each stage has twice as many as the one before.

    Raises:
        ConfigError: the items are no images.
    """

    def __init__(self, shape: Sequence[int], classes: int, width: int = 64) -> None:
        super().__init__()
        channels, _, _ = image_shape("a ResNet", shape)
        layers: list[nn.Module] = [*_convolution(channels, width, 3, stride=1), nn.ReLU()]
        into = width
        for stage in range(4):
            out = width * 2**stage
            layers += [BasicBlock(into, out, stride=1 if stage == 0 else 2), BasicBlock(out, out, stride=1)]
            into = out
        self.layers, self.out = nn.Sequential(*layers), nn.Linear(into, classes)
        self.to(memory_format=torch.channels_last)  # a step takes four fifths of the time on a CPU

    def forward(self, images: Tensor) -> Tensor:
        """float [N, *shape] -> float logits [N, classes]."""
        logits: Tensor = self.out(self.layers(images).mean((2, 3)))
        return logits


def _convolution(into: int, out: int, kernel: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(into, out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(out)]
