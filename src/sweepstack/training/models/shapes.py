"""Checks that a dataset's items have a shape that a model is made for."""

from __future__ import annotations

from collections.abc import Sequence

from sweepstack.errors import ConfigError


def image_shape(model: str, shape: Sequence[int]) -> tuple[int, int, int]:
    """Returns channels, height and width.

    Args:
        model: what takes such images, for the error.
        shape: the shape of one item.

    Raises:
        ConfigError: the items are no images.
    """
    if len(shape) != 3:
        rule = f"dataset.shape must be [channels, height, width] for {model}"
        raise ConfigError(rule, list(shape), "choose another model, such as model=mlp")
    channels, height, width = shape
    return channels, height, width
