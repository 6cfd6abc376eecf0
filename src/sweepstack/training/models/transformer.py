"""A vision transformer for small images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sweepstack.errors import ConfigError
from sweepstack.training.models.shapes import image_shape


class ViT(nn.Module):
    """A vision transformer (Dosovitskiy et al., 2021): patches as tokens, whose mean is classified.

    Args:
        shape: the shape of one image, for example [1, 28, 28].
        classes: number of classes, or of numbers to predict.
        patch: height and width of a patch.
        width: numbers in a token.
        depth: number of blocks of attention and two linear layers.
        heads: number of heads of each attention.
        dropout: probability that a hidden unit between the linear layers of a block is dropped in training.

    Raises:
        ConfigError: the items are no images, the patches do not cover one, or the heads do not share a token evenly.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        patch: int = 4,
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        channels, height, across = image_shape("a vision transformer", shape)
        if height % patch or across % patch:
            rule = f"model.patch must divide height and width of the images, {height} and {across}"
            raise ConfigError(rule, patch, "for example model.patch=4 for images of 28 x 28 pixels")
        if width % heads:
            raise ConfigError(f"model.heads must divide model.width, {width}", heads, "for example model.heads=4")
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = nn.Parameter(torch.empty(height // patch * (across // patch), width).normal_(std=0.02))
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(depth)))
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, images: Tensor) -> Tensor:
        """float [N, *shape] -> float logits [N, classes]."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        logits: Tensor = self.out(self.blocks(tokens).mean(1))
        return logits


class Block(nn.Module):
    """Attention, then two linear layers, each behind a LayerNorm and added to its input.

    Attention is written out: `scaled_dot_product_attention` has no form under `torch.func.vmap` on a CPU, and neither
    has the operation that `torch.nn.TransformerEncoderLayer` evaluates with.

    Args:
        width: numbers in a token.
        heads: number of heads.
        dropout: probability that a hidden unit is dropped in training.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.projections, self.joined = (
            nn.LayerNorm(width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )
        self.linear = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """float [N, tokens, width] -> the same."""
        by_head = self.projections(self.norm(tokens)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = by_head.unbind()
        attended = torch.softmax(queries @ keys.transpose(2, 3) / math.sqrt(queries.shape[-1]), 3) @ values
        tokens = tokens + self.joined(attended.transpose(1, 2).flatten(2))
        found: Tensor = tokens + self.linear(tokens)
        return found
