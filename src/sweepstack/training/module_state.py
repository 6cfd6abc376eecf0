"""What a module keeps outside of its parameters and buffers: counters, lists, tensors, generators in plain attributes.

PyTorch's `state_dict` does not hold it, and a stack would have it once for all of its members. So a training asks
whether it has changed, and a checkpoint holds it as far as it is made of tensors and plain values.
"""

from __future__ import annotations

import collections
import hashlib
import random
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sweepstack.training.serialization import Encoder, Opaque, decode, feed

OF_PYTORCH = {*vars(nn.Module()), "_is_full_backward_hook", "_forward_hooks_with_kwargs", "call_super_init"}
"""What every module has: parameters, buffers, modules, the mode, hooks. Hooks are looked into, see `_HOOKS`."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_state_dict_hooks")
NOT_LOOKED_INTO = {"torch", "torchvision", "builtins", "sweepstack", "typing", "abc", "collections"}
"""Packages whose classes and modules keep no state of a training."""
DATA = (
    *(bool, int, float, complex, str, bytes, list, dict, set, tuple, collections.deque, random.Random),
    *(Tensor, torch.Generator, np.ndarray, np.random.Generator, np.random.RandomState),
)
"""What is looked at among the attributes of classes and the globals of their modules."""


class Unkept(Exception):  # noqa: N818 -- a finding, not a fault
    """A module has changed what no checkpoint can hold; names it."""


@dataclass(frozen=True)
class _Mark:
    """A digest of one attribute, and of what in it can only be compared: objects that cannot be made again."""

    all: bytes
    opaque: tuple[str, ...]


class Attributes:
    """The plain attributes of a module and of all modules in it, as they were when this was made.

    Args:
        model: fresh from its constructor.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._begun = self._marks()

    @property
    def marks(self) -> Mapping[str, object]:
        """Of how they were, by name: equal where two modules have the same."""
        return self._begun

    def changed(self) -> list[str]:
        """Names of those that are not what they were, such as "layer.0.steps", and of all iterators."""
        now = self._marks()
        unseen = [name for name, mark in now.items() if Encoder.UNSEEN in mark.opaque]
        return sorted({*unseen, *(name for name in {*now, *self._begun} if now.get(name) != self._begun.get(name))})

    def state(self) -> dict[str, Any]:
        """Those that have changed, as tensors and plain values.

        Raises:
            Unkept: one of them holds something else.
        """
        changed = self.changed()
        if not changed:
            return {}
        now, values = self._marks(), dict(self._values())
        unkept = [name for name in changed if "::" in name]  # it is there once for all trials of this process
        mine = [name for name in changed if name in now and name not in unkept]
        unkept += [name for name in mine if not _can_be_kept(self._begun.get(name), now[name])]
        if unkept:
            raise Unkept(", ".join(unkept))
        encoder = Encoder(self._model)
        return {name: encoder.encode(values[name]) if name in values else ["gone"] for name in changed}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Sets the attributes to copies of what `state` gave. To be called before parameters and buffers are restored.

        Raises:
            LookupError, TypeError, ValueError, AttributeError, RuntimeError: they are those of another module.
        """
        seen: list[Any] = []
        for name, encoded in state.items():
            path, _, attribute = name.rpartition(".")
            owner = self._model.get_submodule(path).__dict__
            if encoded == ["gone"]:
                if attribute in _HOOKS:  # the module itself needs the place where they were
                    owner[attribute].clear()
                else:
                    owner.pop(attribute, None)
            elif attribute in _HOOKS:  # they are known by other numbers in each module
                decode(encoded, list(owner[attribute].values()), self._model, seen)
            else:
                owner[attribute] = decode(encoded, owner.get(attribute, Opaque), self._model, seen)

    def _marks(self) -> dict[str, _Mark]:
        marks = {}
        encoder = Encoder(self._model)
        for name, value in self._values():
            encoder.begin()
            digest = hashlib.blake2b(digest_size=16)
            feed(digest.update, encoder.encode(value))
            marks[name] = _Mark(digest.digest(), tuple(encoder.opaque))
        return marks

    def _values(self) -> Iterator[tuple[str, Any]]:
        """Of each attribute its name and value; "class::name" and "module::name" for those of classes and globals."""
        classes: dict[type, None] = {}
        for path, module in self._model.named_modules():
            classes.update(dict.fromkeys(type(module).__mro__))
            for name, value in vars(module).items():
                if name in _HOOKS and value:
                    yield f"{path}.{name}".lstrip("."), list(value.values())
                elif name not in OF_PYTORCH:
                    yield f"{path}.{name}".lstrip("."), value
        modules: dict[str, None] = {}
        for cls in classes:
            if cls.__module__.partition(".")[0] not in NOT_LOOKED_INTO:
                modules[cls.__module__] = None
                yield from _data_attributes(cls.__qualname__, vars(cls))
        for name in modules:
            yield from _data_attributes(name, vars(sys.modules[name]) if name in sys.modules else {})


def _can_be_kept(begun: _Mark | None, now: _Mark) -> bool:
    """Whether what has changed is made of tensors and plain values, beside objects that were there at the beginning."""
    return Encoder.UNSEEN not in now.opaque and now.opaque == (begun.opaque if begun is not None else ())


def _data_attributes(owner: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in list(values.items()):
        if not name.startswith("__") and isinstance(value, DATA):
            yield f"{owner}::{name}", value
