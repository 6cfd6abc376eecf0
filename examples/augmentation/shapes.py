"""Images as those of CIFAR: 3 x 32 x 32 pixels, uint8. They are made here, so that nothing is downloaded."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

SIZE = 32
"""Pixels of a side."""


class Shapes(Dataset[tuple[Tensor, int]]):
    """A disc, a ring, a square or a triangle, of any colour and size and at any place, on a noisy ground.

    Args:
        train: True: the images to train on; False: 400 others to test with.
        count: the number of images to train on.
    """

    def __init__(self, train: bool, count: int = 300) -> None:
        draw = torch.Generator().manual_seed(int(train))
        count = count if train else 400
        self.labels = torch.randint(4, (count,), generator=draw)
        radius = 7 + 4 * torch.rand(count, 1, 1, generator=draw)
        places = radius + (SIZE - 2 * radius) * torch.rand(count, 1, 2, generator=draw)
        pixels = torch.arange(SIZE) + 0.5
        down = (pixels[None, :, None] - places[..., :1]) / radius
        right = (pixels[None, None, :] - places[..., 1:]) / radius
        far = (down**2 + right**2).sqrt()
        is_inside = torch.stack(
            [far < 1, (far < 1) & (far > 0.6), torch.maximum(down.abs(), right.abs()) < 0.8, _triangle(down, right)]
        )
        masks = is_inside[self.labels, torch.arange(count)][:, None]
        ground, colours = 0.5 * torch.rand(2, count, 3, 1, 1, generator=draw) + torch.tensor([0, 0.5]).view(
            2, 1, 1, 1, 1
        )
        noise = 0.1 * torch.randn(count, 3, SIZE, SIZE, generator=draw)
        self.images = (255 * (torch.where(masks, colours, ground) + noise).clamp(0, 1)).to(torch.uint8)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


def _triangle(down: Tensor, right: Tensor) -> Tensor:
    """True inside of a triangle that points upwards; coordinates [n, 32, 1] and [n, 1, 32] from -1 to 1."""
    return (down < 0.8) & (right.abs() < (down + 1) / 2)
