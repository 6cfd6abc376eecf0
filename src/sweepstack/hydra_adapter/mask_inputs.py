"""Masks secrets in typed arguments and in config files, before Hydra composes, writes or passes on a config."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from omegaconf import Container, ListConfig, Node

from sweepstack.hydra_adapter.private import change_each_config, change_text, child, is_empty, is_interpolation
from sweepstack.masking import MASK, hide, reveal


def reveal_environment(names: Iterable[str]) -> None:
    """Replaces the masks in environment variables, which a config sets for its job, by the secrets."""
    for name in names:
        if MASK in os.environ.get(name, ""):
            os.environ[name] = reveal(os.environ[name])


def hide_typed() -> None:
    """Masks the secrets in this process's arguments."""
    sys.argv[1:] = [hide(word, unescape=True) for word in sys.argv[1:]]


def hide_composed() -> None:
    """Makes Hydra mask the secrets in every config that it composes in this process, for any launcher."""
    change_each_config(_hide_in)


def _hide_in(node: Node | None) -> None:
    """Masks the secrets in the texts of a config, without resolving interpolations."""
    if isinstance(node, Container) and not is_empty(node) and not is_interpolation(node):
        keys: Any = range(len(node)) if isinstance(node, ListConfig) else [*node.keys()]  # type: ignore[attr-defined]
        for key in keys:
            _hide_in(child(node, key))
    elif node is not None and not isinstance(node, Container):
        change_text(node, lambda text: hide(text) if "://" in text else text)
