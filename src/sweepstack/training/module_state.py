"""The state of a module outside of its parameters and buffers: counters, lists, tensors, generators in attributes.

PyTorch's `state_dict` does not contain it, and a stack has only one copy of it for all members. So a training checks
whether it has changed, and a checkpoint contains it as far as it consists of tensors and plain values.
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
"""The attributes of every module: parameters, buffers, modules, the mode, hooks. `_HOOKS` are compared nevertheless."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_state_dict_hooks")
"""The dictionaries of hooks, which may hold the state of a training."""
NOT_LOOKED_INTO = {"torch", "torchvision", "builtins", "sweepstack", "typing", "abc", "collections"}
"""Packages whose classes and modules hold no state of a training."""
DATA = (
    *(bool, int, float, complex, str, bytes, list, dict, set, tuple, collections.deque, random.Random),
    *(Tensor, torch.Generator, np.ndarray, np.random.Generator, np.random.RandomState),
)
"""The types that are compared among the attributes of classes and the globals of their modules."""


class Unkept(Exception):  # noqa: N818 -- a finding, not a fault
    """A module has changed attributes that no checkpoint can hold; the message names them."""


@dataclass(frozen=True)
class _Mark:
    """A digest of one attribute, and descriptions of the objects in it that can only be compared, not made again."""

    all: bytes
    opaque: tuple[str, ...]


class Attributes:
    """The plain attributes of a module and its submodules, compared with those at the beginning.

    Args:
        model: a module that has computed nothing since its constructor.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._begun = self._marks()

    @property
    def marks(self) -> Mapping[str, object]:
        """The marks of the attributes at the beginning, by name; equal marks mean equal attributes."""
        return self._begun

    def changed(self) -> list[str]:
        """Returns the names of the attributes that have changed, such as "layer.0.steps", and of all iterators."""
        now = self._marks()
        unseen = [name for name, mark in now.items() if Encoder.UNSEEN in mark.opaque]
        return sorted({*unseen, *(name for name in {*now, *self._begun} if now.get(name) != self._begun.get(name))})

    def state(self) -> dict[str, Any]:
        """Returns the attributes that have changed, as tensors and plain values.

        Raises:
            Unkept: one of them contains something else.
        """
        changed = self.changed()
        if not changed:
            return {}
        now, values = self._marks(), dict(self._values())
        unkept = [name for name in changed if "::" in name]  # all trials of this process share it
        mine = [name for name in changed if name in now and name not in unkept]
        unkept += [name for name in mine if not _can_be_kept(self._begun.get(name), now[name])]
        if unkept:
            raise Unkept(", ".join(unkept))
        encoder = Encoder(self._model)
        return {name: encoder.encode(values[name]) if name in values else ["gone"] for name in changed}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Sets the attributes to copies of those in `state`. Call it before you restore parameters and buffers.

        Raises:
            LookupError, TypeError, ValueError, AttributeError, RuntimeError: the state is that of another module.
        """
        seen: list[Any] = []
        for name, encoded in state.items():
            path, _, attribute = name.rpartition(".")
            owner = self._model.get_submodule(path).__dict__
            if encoded == ["gone"]:
                if attribute in _HOOKS:  # the module needs the dictionary itself
                    owner[attribute].clear()
                else:
                    owner.pop(attribute, None)
            elif attribute in _HOOKS:  # each module numbers its hooks differently
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
        """Yields the name and the value of each attribute; those of classes and modules are named "owner::name"."""
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
    """Whether a changed attribute consists of tensors, plain values and objects that existed at the beginning."""
    return Encoder.UNSEEN not in now.opaque and now.opaque == (begun.opaque if begun is not None else ())


def _data_attributes(owner: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in list(values.items()):
        if not name.startswith("__") and isinstance(value, DATA):
            yield f"{owner}::{name}", value
