"""A dataset of one's own: a plain `torch.utils.data.Dataset`."""

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Rings(Dataset[tuple[Tensor, int]]):
    """Points on two rings around the origin, with noise. The class of a point is its ring.

    Args:
        train: True: the 800 points to train on; False: 200 others to test with.
        noise: the standard deviation of a coordinate.
    """

    def __init__(self, train: bool, noise: float = 0.2) -> None:
        draw = torch.Generator().manual_seed(int(train))
        count = 800 if train else 200
        self.labels = torch.randint(2, (count,), generator=draw)
        angles = 2 * torch.pi * torch.rand(count, generator=draw)
        circle = torch.stack([angles.cos(), angles.sin()], dim=1)
        self.points = (1 + self.labels[:, None]) * circle + noise * torch.randn(count, 2, generator=draw)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.points[index], int(self.labels[index])
