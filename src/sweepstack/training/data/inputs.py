"""The inputs of a batch: one tensor, or a tuple or a dict of tensors with the same first axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
"""What a model takes for a batch: `model(tensor)`, `model(*tuple)` or `model(**dict)`."""


def over(function: Callable[[Tensor], Any], inputs: Any) -> Any:
    """Applies a function to each tensor of inputs; returns the results in the same form."""
    if isinstance(inputs, Mapping):
        return {name: function(part) for name, part in inputs.items()}
    return tuple(function(part) for part in inputs) if isinstance(inputs, tuple) else function(inputs)


def tensors_of(inputs: Any) -> list[Tensor]:
    """Returns the tensors of inputs, in their order."""
    if isinstance(inputs, Mapping):
        return list(inputs.values())
    return list(inputs) if isinstance(inputs, tuple) else [inputs]


def joined(function: Callable[[list[Tensor]], Any], parts: list[Any]) -> Any:
    """Applies a function, such as `torch.stack`, to the tensors that several inputs of one form have in one place."""
    first = parts[0]
    if isinstance(first, Mapping):
        return {name: function([part[name] for part in parts]) for name in first}
    if isinstance(first, tuple):
        return tuple(function(list(one)) for one in zip(*parts, strict=True))
    return function(parts)


def rows(inputs: Any, where: Any) -> Any:
    """Returns some of the items of inputs: those of an index, or of a slice."""
    return over(lambda part: part[where], inputs)


def grouped(inputs: Any, groups: int) -> Any:
    """Returns inputs [groups * n, ...] as [groups, n, ...]."""
    return over(lambda part: part.view(groups, -1, *part.shape[1:]), inputs)


def call(model: nn.Module | Callable[..., Any], inputs: Inputs) -> Any:
    """Calls a model with the inputs of a batch."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)
