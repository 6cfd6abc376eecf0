"""Encodes objects as tensors and plain values, which a file that runs no code can hold, and decodes them."""

from __future__ import annotations

import collections
import contextlib
import random
import re
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PLAIN = (type(None), bool, int, float, str)
"""Types whose values are encoded as they are."""
CONTAINERS: dict[str, Callable[[Any], Any]] = {
    kind.__name__: kind for kind in (list, tuple, set, frozenset, dict, collections.OrderedDict, collections.Counter)
}
"""Containers that `decode` can make, by their names."""
MAPPINGS = ("dict", "OrderedDict", "Counter", "defaultdict")
"""Names of the mappings that can be encoded."""


class Opaque:
    """Stands for an object that does not exist."""


class Encoder:
    """Encodes the objects of one module. An object that occurs twice is encoded as a reference the second time.

    Args:
        model: the module. Its parameters, buffers and submodules are encoded as references, too.
    """

    UNSEEN = "its position cannot be seen"
    """The entry of `opaque` for an iterator."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = {id(module): name for name, module in model.named_modules()}
        named = (*model.named_parameters(), *model.named_buffers())
        self._registered: dict[object, str] = {}
        for name, tensor in named:
            with contextlib.suppress(Exception):  # a sparse tensor, or one of a lazy module, has no memory address
                if tensor.numel():
                    self._registered[_memory(tensor)] = name
        self.begin()

    def begin(self) -> None:
        """Forgets the objects that were encoded."""
        self._indices: dict[int, int] = {}
        self._alive: list[Any] = []  # holds the objects of `_indices`, so that no other object gets their ids
        self.opaque: list[str] = []
        """Descriptions of the objects that `decode` cannot make, but only fill where they exist; for comparison."""

    def encode(self, value: Any) -> Any:
        """Returns a plain value unchanged, and anything else as a list that begins with its kind; copies no tensor."""
        if type(value) in PLAIN:
            return value
        if id(value) in self._modules:
            return ["module", self._modules[id(value)]]
        if id(value) in self._indices:
            return ["seen", self._indices[id(value)]]
        index, opaque = len(self._alive), len(self.opaque)
        self._indices[id(value)] = index
        self._alive.append(value)
        try:
            return self._encode(value)
        except Exception:  # a user's class can fail in any way
            for part in self._alive[index + 1 :]:
                self._indices.pop(id(part), None)
            del self._alive[index + 1 :], self.opaque[opaque:]
            return self._only_compared(value)

    def _encode(self, value: Any) -> Any:
        kind = type(value).__name__
        if isinstance(value, Tensor):
            if value.numel() and _memory(value) in self._registered:
                return ["registered", self._registered[_memory(value)], isinstance(value, nn.Parameter)]
            return ["tensor", value.detach(), value.device.type, value.requires_grad, isinstance(value, nn.Parameter)]
        if type(value) in (dict, collections.OrderedDict, collections.Counter, collections.defaultdict):
            if kind == "defaultdict":
                self.opaque.append(kind)
            return [kind, [[self.encode(key), self.encode(part)] for key, part in value.items()]]
        if type(value) in CONTAINERS.values():
            parts = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
            return [kind, [self.encode(part) for part in parts]]
        if type(value) is collections.deque:
            return ["deque", [self.encode(part) for part in value], value.maxlen]
        if isinstance(value, tuple):  # a named one, or torch.Size
            self.opaque.append(type(value).__qualname__)
            return ["named", [self.encode(part) for part in value]]
        if isinstance(value, np.generic):
            return ["number", value.dtype.str, value.item()]
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
            return ["array", value.dtype.str, list(value.shape), torch.from_numpy(flat.copy())]
        if type(value) in (bytes, bytearray):
            return [kind, value.decode("latin-1")]
        if type(value) is complex:
            return ["complex", value.real, value.imag]
        return self._encode_object(value)

    def _encode_object(self, value: Any) -> Any:
        if isinstance(value, torch.Generator):
            self.opaque.append("generator")
            return ["generator", value.get_state()]
        if type(value) is random.Random:
            return ["random", self.encode(value.getstate())]
        if isinstance(value, np.random.Generator):
            self.opaque.append("numpy.random.Generator")
            return ["drawn", self.encode(value.bit_generator.state)]
        if isinstance(value, np.random.RandomState):
            self.opaque.append("numpy.random.RandomState")
            return ["legacy", self.encode(value.get_state(legacy=False))]
        if isinstance(value, types.FunctionType):
            self.opaque.append(f"{value.__module__}.{value.__qualname__}")
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            return ["function", [self.encode(cell) for cell in cells], self.encode(vars(value))]
        if isinstance(value, types.MethodType):
            self.opaque.append(value.__qualname__)
            return ["method", self.encode(value.__self__)]
        if isinstance(value, Iterator):
            self.opaque.append(self.UNSEEN)
            return ["opaque", type(value).__qualname__]
        if hasattr(value, "__dict__") and not isinstance(value, type | types.ModuleType) and not _is_pythons(value):
            self.opaque.append(f"{type(value).__module__}.{type(value).__qualname__}")
            return ["object", self.encode(vars(value))]
        return self._only_compared(value)

    def _only_compared(self, value: Any) -> Any:
        try:
            text = re.sub("0x[0-9a-fA-F]+", "", repr(value))  # addresses differ in every process
        except Exception:  # for example for a tensor of a torch.func.vmap that has ended
            text = f"a {type(value).__qualname__} that has no text"
        self.opaque.append(text)
        return ["opaque", text]


def _is_pythons(value: Any) -> bool:
    """Whether the class belongs to Python's library, as a logger or a lock: its attributes lead to any object."""
    return type(value).__module__.partition(".")[0] in sys.stdlib_module_names


def _memory(tensor: Tensor) -> object:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def feed(update: Callable[[bytes], object], encoded: Any) -> None:
    """Updates a digest with the result of `Encoder.encode`."""
    if isinstance(encoded, Tensor):
        update(repr((encoded.dtype, tuple(encoded.shape))).encode())
        update(encoded.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(encoded, list):
        update(b"[%d" % len(encoded))
        for part in encoded:
            feed(update, part)
    else:
        update(f"{type(encoded).__name__} {encoded!r},".encode("utf-8", "surrogatepass"))


def decode(encoded: Any, fresh: Any, model: nn.Module, seen: list[Any]) -> Any:
    """Makes a copy of the object that `Encoder.encode` encoded.

    Args:
        encoded: the result of `Encoder.encode`.
        fresh: the object at the same position in a new module. An object that cannot be made is filled there. `Opaque`
            if there is none.
        model: the new module.
        seen: receives the decoded objects, in the order of their encoding. Use one list for all results of one encoder.

    Raises:
        TypeError, LookupError, ValueError, AttributeError, RuntimeError: `fresh` is of another kind.
    """
    if not isinstance(encoded, list):
        return encoded
    kind, *rest = encoded
    if kind == "module":
        return model.get_submodule(rest[0])
    if kind == "seen":
        return seen[rest[0]]
    index = len(seen)
    seen.append(None)
    found = _decode(kind, rest, fresh, model, seen, index)
    seen[index] = found
    return found


def _decode(kind: str, rest: list[Any], fresh: Any, model: nn.Module, seen: list[Any], index: int) -> Any:
    def parts(values: list[Any], olds: list[Any]) -> list[Any]:
        olds = olds + [Opaque] * (len(values) - len(olds))
        return [decode(value, old, model, seen) for value, old in zip(values, olds, strict=False)]

    if kind == "registered":
        name, is_parameter = rest
        return model.get_parameter(name) if is_parameter else dict(_named_tensors(model))[name].detach()
    if kind == "tensor":
        tensor, device, requires_grad, is_parameter = rest
        tensor = (tensor.cpu() if device == "cpu" else tensor).clone().requires_grad_(requires_grad)
        if is_parameter:
            if isinstance(fresh, nn.Parameter):  # the module may have an optimizer that holds it
                fresh.data = tensor.detach()
                return fresh
            return nn.Parameter(tensor.detach(), requires_grad)
        return tensor
    if kind in MAPPINGS:
        made: Any = fresh if kind == "defaultdict" else CONTAINERS[kind](())
        olds = dict(fresh) if isinstance(fresh, dict) else {}
        made.clear()
        seen[index] = made
        for key, value in rest[0]:
            known = decode(key, Opaque, model, seen)
            made[known] = decode(value, olds.get(known, Opaque), model, seen)
        return made
    if kind == "list":
        seen[index] = new = []
        new += parts(rest[0], list(fresh) if isinstance(fresh, list) else [])
        return new
    if kind in ("set", "frozenset"):
        return CONTAINERS[kind](parts(rest[0], []))
    if kind == "tuple":
        return tuple(parts(rest[0], list(fresh) if isinstance(fresh, tuple) else []))
    if kind == "named":
        found = parts(rest[0], list(fresh))
        return type(fresh)._make(found) if hasattr(fresh, "_make") else type(fresh)(found)
    if kind == "deque":
        queue: collections.deque[Any] = collections.deque(maxlen=rest[1])
        seen[index] = queue
        queue.extend(parts(rest[0], list(fresh) if isinstance(fresh, collections.deque) else []))
        return queue
    if kind == "number":
        return np.dtype(rest[0]).type(rest[1])
    if kind == "array":
        return np.frombuffer(rest[2].cpu().numpy().tobytes(), rest[0]).reshape(rest[1]).copy()
    if kind in ("bytes", "bytearray"):
        return {"bytes": bytes, "bytearray": bytearray}[kind](rest[0].encode("latin-1"))
    if kind == "complex":
        return complex(*rest)
    return _fill(kind, rest, fresh, model, seen, index)


def _fill(kind: str, rest: list[Any], fresh: Any, model: nn.Module, seen: list[Any], index: int) -> Any:
    """Sets the encoded state of an object that exists already."""
    if kind == "random":
        version, numbers, following = decode(rest[0], Opaque, model, seen)
        made = fresh if isinstance(fresh, random.Random) else random.Random()
        made.setstate((version, tuple(numbers), following))
        return made
    if fresh is Opaque:
        raise TypeError(f"there is no {kind} to be filled")
    seen[index] = fresh
    if kind == "generator":
        fresh.set_state(rest[0].cpu())
    elif kind == "drawn":
        fresh.bit_generator.state = decode(rest[0], Opaque, model, seen)
    elif kind == "legacy":
        fresh.set_state(decode(rest[0], Opaque, model, seen))
    elif kind == "function":
        for cell, value in zip(fresh.__closure__ or (), rest[0], strict=True):
            cell.cell_contents = decode(value, cell.cell_contents, model, seen)
        fresh.__dict__.update(decode(rest[1], vars(fresh), model, seen))
    elif kind == "method":
        decode(rest[0], fresh.__self__, model, seen)
    elif kind == "object":
        values = decode(rest[0], vars(fresh), model, seen)
        vars(fresh).clear()
        vars(fresh).update(values)
    return fresh


def _named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]
