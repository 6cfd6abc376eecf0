"""What can be known about a config only with PyTorch at hand, checked before anything trains."""

from __future__ import annotations

import torch
from torch import nn

from sweepstack.config import TrialConfig
from sweepstack.errors import ConfigError, one_line
from sweepstack.training import models, optimizers
from sweepstack.training.hardware import choose_device
from sweepstack.training.targets import check_keywords


def check(config: TrialConfig) -> None:
    """That the targets can be imported and called as the config says, and that images fit through the model.

    Raises:
        ConfigError: one of them does not hold.
    """
    choose_device(config.device)
    check_keywords("dataset", config.dataset.target, 0, {"train": True, **config.dataset.keywords})
    check_keywords("model", config.model.target, 0, config.model.keywords)
    check_keywords("optimizer", config.optimizer.target, 1, {"lr": config.optimizer.lr, **config.optimizer.keywords})
    model = _check_model(config)
    parameters = list(model.parameters())
    if not parameters:
        raise ConfigError(f"model must have parameters to train, {config.model.target} has none; choose another")
    try:
        optimizers.check_values(config.optimizer, parameters)
    except Exception as error:
        raise ConfigError(
            f"optimizer: {config.optimizer.target} refuses its values: {one_line(error)}; change it"
        ) from error


def _check_model(config: TrialConfig) -> nn.Module:
    shape, classes = list(config.dataset.shape), config.dataset.classes
    with torch.random.fork_rng(devices=[]):
        try:
            model = models.build(config.model)
        except Exception as error:
            raise ConfigError(
                f"model: {config.model.target} refuses its values: {one_line(error)}; change it"
            ) from error
        try:
            with torch.inference_mode():
                logits = model.eval()(torch.zeros(2, *shape))
        except Exception as error:
            raise ConfigError(
                f"model must take the dataset's images, {config.model.target} does not take {shape}: "
                f"{one_line(error)}; "
                "let it use ${dataset.shape}, or choose another model or dataset"
            ) from error
    if getattr(logits, "shape", None) != (2, classes):
        got = list(logits.shape[1:]) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ConfigError(
            f"model must give one logit for each of the {classes} classes, {config.model.target} gives {got}; "
            "let it use ${dataset.classes}"
        )
    return model
