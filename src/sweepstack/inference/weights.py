"""The weights of trained models: how much those of two files differ, and why a file of weights cannot be loaded."""

from __future__ import annotations

import math
import pickle
import re
from typing import IO, NamedTuple

import torch

from sweepstack.config.schema import TrialConfig
from sweepstack.errors import UserError, one_line
from sweepstack.training import models


class Distance(NamedTuple):
    """How much the weights of two files differ; infinite if the models differ, or if only one of them is finite."""

    largest: float
    """The largest difference between two weights."""
    relative: float
    """The Euclidean norm of the differences, relative to that of the weights."""


def distance(one: IO[bytes], other: IO[bytes]) -> Distance:
    """Computes how much the weights in two files differ.

    Raises:
        UserError: a file does not hold weights.
    """
    try:
        was, now = (torch.load(file, map_location="cpu", weights_only=True) for file in (one, other))
    except Exception as error:  # a damaged file can fail in any way
        rule = f"both files must hold the weights of a model, one does not ({describe_load_error(error)})"
        raise UserError(rule, remedy="train the trial again with rerun=true") from error
    if {name: value.shape for name, value in was.items()} != {name: value.shape for name, value in now.items()}:
        return Distance(math.inf, math.inf)
    differences, size = torch.zeros(1).double(), 0.0
    for name, value in was.items():
        if value.is_floating_point():  # not a counter, which would be larger than all weights
            size = math.hypot(size, float(value.double().norm()))
        if value.numel() and not torch.equal(value, now[name]):
            differences = torch.cat([differences, (value.double() - now[name].double()).flatten()])
    largest, norm = float(differences.abs().max()), float(differences.norm())
    if not math.isfinite(largest):
        return Distance(math.inf, math.inf)
    return Distance(largest, norm / size if size else math.inf if norm else 0.0)


def has_kinks(config: TrialConfig) -> bool:
    """True if a model has a function with kinks, such as ReLU or max pooling; False if the model cannot be built here.

    At a kink, the smallest difference of the input changes the gradient.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            logits = models.answer_to_any(models.build_model(config.model).eval(), config.dataset.shape)
    except Exception:  # a user's class can fail in any way
        return False
    unvisited = [] if logits is None else [logits.grad_fn]
    seen = set()
    while unvisited:
        if (node := unvisited.pop()) is not None and node not in seen:
            seen.add(node)
            unvisited += [before for before, _ in node.next_functions]
    return any(re.match("(Leaky|P|R)?Relu|MaxPool|Hardtanh|Clamp", type(node).__name__) for node in seen)


def describe_load_error(error: Exception) -> str:
    """Says why weights cannot be loaded. PyTorch's own message would advise to load them without its protection."""
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return "the file holds something else than tensors: it is damaged, or was replaced"
    return f"{type(error).__name__}: {one_line(error)}"
