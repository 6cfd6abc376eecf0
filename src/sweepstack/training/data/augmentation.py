"""Random changes of whole batches of training images: crop, flip, erase, with one draw for each image and epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from sweepstack.config.trial_sections import AugmentConfig
from sweepstack.training.random_state import stream

DRAWN = 8
"""Random numbers of an image in an epoch: 2 for crop, 1 for flip, 5 for erase."""
ERASED_AREA = (0.02, 0.33)
"""The erased part of an image: the limits of `torchvision.transforms.v2.RandomErasing`."""
ERASED_RATIO = (0.3, 3.3)
"""Height by width of what is erased: the limits of `torchvision.transforms.v2.RandomErasing`."""


@dataclass(frozen=True)
class Augmentation:
    """Changes the images of a training batch, before they are scaled and standardised.

    What happens to an image depends on the seed, the epoch and the image alone. So it is the same in a stack, alone and
    in a resumed training.
    """

    config: AugmentConfig

    def draws(self, count: int, seed: int, epoch: int) -> Tensor:
        """Returns the random numbers of all training items in an epoch: float32 [count, DRAWN], on the CPU.

        Args:
            count: the number of training items, held-out ones among them.
            seed: that of the trial.
            epoch: the number of the epoch.
        """
        generator = torch.Generator().manual_seed(stream(seed, "augment", epoch))
        return torch.rand(count, DRAWN, generator=generator)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Returns changed images of the same shape and dtype.

        Args:
            images: [n, ..., height, width].
            draws: those of the images, [n, DRAWN].
        """
        shape = images.shape
        images = images.reshape(len(images), -1, *shape[-2:])
        if self.config.crop:
            images = _cropped(images, self.config.crop, draws[:, 0], draws[:, 1])
        if self.config.flip:
            flipped = (draws[:, 2] < self.config.flip)[:, None, None, None]
            images = torch.where(flipped, images.flip(3), images)
        if self.config.erase:
            images = _erased(images, self.config.erase, draws[:, 3:])
        return images.reshape(shape)


def _cropped(images: Tensor, padding: int, down: Tensor, right: Tensor) -> Tensor:
    """Pads images [n, c, h, w] with zeros on all sides and cuts out h x w at a random place, as
    `torchvision.transforms.v2.RandomCrop` with `padding` does."""
    _, _, height, width = images.shape
    windows = pad(images, [padding] * 4).unfold(2, height, 1).unfold(3, width, 1)  # [n, c, top, left, h, w]
    positions = 2 * padding + 1
    top, left = ((part * positions).long().clamp_(max=positions - 1) for part in (down, right))
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def _erased(images: Tensor, probability: float, draws: Tensor) -> Tensor:
    """Sets a random rectangle of some images [n, c, h, w] to zero, as `torchvision.transforms.v2.RandomErasing` does; a
    rectangle that would be longer than the image is cut to it."""
    _, _, height, width = images.shape
    low, high = (math.log(limit) for limit in ERASED_RATIO)
    area = (ERASED_AREA[0] + draws[:, 1] * (ERASED_AREA[1] - ERASED_AREA[0])) * (height * width)
    ratio = (low + draws[:, 2] * (high - low)).exp()
    tall = (area * ratio).sqrt().round().clamp_(1, height)
    wide = (area / ratio).sqrt().round().clamp_(1, width)
    top = (draws[:, 3] * (height - tall + 1)).floor()
    left = (draws[:, 4] * (width - wide + 1)).floor()
    rows = torch.arange(height, device=images.device)[None, :, None]
    columns = torch.arange(width, device=images.device)[None, None, :]

    def beside(values: Tensor) -> Tensor:
        return values[:, None, None]

    inside = (rows >= beside(top)) & (rows < beside(top + tall))
    inside = inside & (columns >= beside(left)) & (columns < beside(left + wide))
    return images.masked_fill((inside & beside(draws[:, 0] < probability))[:, None], 0)
