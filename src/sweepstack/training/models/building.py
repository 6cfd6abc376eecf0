"""Builds the model of a config."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sweepstack.config.trial_sections import ModelConfig
from sweepstack.training.instantiate import instantiate


def answer_to_any(model: nn.Module, shape: Sequence[int] | None) -> Tensor | None:
    """Returns the logits of two artificial images: zeros or else random numbers; None if the model fails on both, or if
    no shape is known."""
    if shape is None:
        return None
    for images in (torch.zeros(2, *shape), torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))):
        with contextlib.suppress(Exception):  # a user's module can fail in any way
            found: Tensor = model(images)
            return found
    return None


def build_model(config: ModelConfig) -> nn.Module:
    """Builds the model of a config; PyTorch's global random state determines its weights.

    Raises:
        TypeError: the target does not return an `nn.Module`.
    """
    model = instantiate({"_target_": config.target, **config.keywords}, "model")
    if not isinstance(model, nn.Module):
        raise TypeError(f"{config.target} should give a torch.nn.Module, got {type(model).__name__}")
    return model
