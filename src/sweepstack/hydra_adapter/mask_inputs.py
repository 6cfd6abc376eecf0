"""Where addresses come in: secrets that were typed, or that stand in a config file, are masked before Hydra composes a
config, writes it into a folder or hands it to anybody."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from omegaconf import Container, ListConfig, Node

from sweepstack.hydra_adapter.private import change_each_config
from sweepstack.masking import MASK, hide, reveal


def reveal_environment(names: Iterable[str]) -> None:
    """Gives these environment variables, which a config sets for its job, their secrets back."""
    for name in names:
        if MASK in os.environ.get(name, ""):
            os.environ[name] = reveal(os.environ[name])


def hide_typed() -> None:
    """Masks the secrets in this process's arguments."""
    sys.argv[1:] = [hide(word, unescape=True) for word in sys.argv[1:]]


def hide_composed() -> None:
    """From now on Hydra composes configs without secrets, in this process and for every launcher."""
    change_each_config(_hide_in)


def _hide_in(node: Node | None) -> None:
    """Masks the secrets in the texts of a config, as they are written there: no interpolation is resolved."""
    if isinstance(node, Container) and not node._is_none() and not node._is_missing() and not node._is_interpolation():
        keys: Any = range(len(node)) if isinstance(node, ListConfig) else [*node.keys()]  # type: ignore[attr-defined]
        for key in keys:
            child = node._get_node(key, throw_on_missing_value=False)
            _hide_in(child if isinstance(child, Node) else None)
    elif node is not None and not isinstance(node, Container):
        value = node._value()
        if isinstance(value, str) and "://" in value and (hidden := hide(value)) != value:
            node.__dict__["_val"] = hidden  # whatever flags protect it from being set
