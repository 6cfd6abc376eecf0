"""The global random states of PyTorch, NumPy and Python.

They are seeded, saved and restored together, because a user's model or dataset may draw from any of them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch


def stream(seed: int, purpose: str, epoch: int, index: int | None = None) -> int:
    """Returns a seed for one purpose of a trial. It has 32 bits: PyTorch's CPU generator uses no more.

    Args:
        seed: that of the trial.
        purpose: what is drawn.
        epoch: the number of the epoch.
        index: the number of an item, if each has draws of its own.
    """
    text = f"{seed}/{purpose}/{epoch}" if index is None else f"{seed}/{purpose}/{epoch}/{index}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")


def seed_all(seed: int) -> None:
    """Seeds the generators of PyTorch (on all devices), NumPy and Python."""
    if _has_accelerator():
        torch.manual_seed(seed)
    seed_cpu(seed)


@functools.cache
def _has_accelerator() -> bool:
    """False if this machine has only a processor: there a CUDA build of PyTorch would note each seed for later,
    with a formatted traceback, which takes ten times as long and is never freed."""
    return any(device.is_available() for device in (torch.cuda, torch.backends.mps, torch.xpu))


def seed_cpu(seed: int) -> None:
    """Seeds the generators of PyTorch on the CPU, NumPy and Python; a tenth of the time of `seed_all`."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def next_draws() -> tuple[float, float, float]:
    """Draws one number from each generator on the CPU; to compare them is a tenth of the time of comparing states."""
    return float(torch.rand(1)), random.random(), float(np.random.random())


@functools.cache
def first_draws(seed: int) -> tuple[float, float, float]:
    """Returns what `next_draws` gives after `seed_cpu`."""
    seed_cpu(seed)
    return next_draws()


def random_state(device: torch.device) -> dict[str, Any]:
    """Returns the states of the generators that a training on this device uses, as CPU tensors and plain values."""
    states: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    states["python"] = random.getstate()
    kind, keys, *rest = np.random.get_state()
    states["numpy"] = [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest]
    return states


def set_random_state(states: Mapping[str, Any], device: torch.device) -> None:
    """Sets the generators to states of `random_state`. A generator without a state there stays as it is.

    Raises:
        LookupError, TypeError, ValueError, RuntimeError: `states` is something else.
    """
    torch.set_rng_state(states["cpu"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"].cpu())
    if "python" in states:
        version, numbers, following = states["python"]
        random.setstate((version, tuple(numbers), following))
    if "numpy" in states:
        kind, keys, *rest = states["numpy"]
        np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))


def of_others() -> bytes:
    """Returns the states of Python's and NumPy's generators as bytes that can be compared."""
    _, keys, *rest = np.random.get_state()
    return repr((random.getstate(), rest)).encode() + np.asarray(keys).tobytes()


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Restores the global generators of NumPy and Python at the end of the block: other code uses them, too."""
    before = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


@contextlib.contextmanager
def seeded(seed: int = 0) -> Iterator[Callable[[], bool]]:
    """Seeds the generators of PyTorch, NumPy and Python for a block, and restores them at its end.

    Yields:
        A function that returns whether one of them was used on the CPU since the last call. It neither sees nor seeds
        other generators, such as `numpy.random.default_rng()`.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices), preserved():
        seed_all(seed)
        before = cpu_states()

        def drawn() -> bool:
            nonlocal before
            was, before = before, cpu_states()
            return was != before

        yield drawn


def cpu_states() -> tuple[object, ...]:
    """Returns the states of the generators on the CPU as values that can be compared."""
    _, keys, *rest = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), np.asarray(keys).tobytes(), tuple(rest)
