"""A loss and a metric of one's own: functions of outputs and targets, both [n, 1]."""

import math

from torch import Tensor
from torch.nn.functional import softplus


def log_cosh(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean of log(cosh(error)): the squared error where it is small, the absolute one where it is large."""
    errors = outputs - targets
    return (errors + softplus(-2 * errors) - math.log(2)).mean()


def within(outputs: Tensor, targets: Tensor, limit: float) -> Tensor:
    """Returns the proportion of predictions that are wrong by at most `limit`."""
    return ((outputs - targets).abs() <= limit).float().mean()
