"""Random numbers that a user's code draws while it is imported or read: the same in every process."""

from __future__ import annotations

import contextlib
import pickle
import random
from collections.abc import Callable, Iterator

import numpy as np
import torch

SEED = 0


@contextlib.contextmanager
def seeded() -> Iterator[Callable[[], bool]]:
    """PyTorch, NumPy and Python's `random` draw from SEED on inside; afterwards they are as they were before.

    Yields:
        A function that tells whether one of them has drawn on the CPU since it was called last. A generator of
        somebody's own, such as `numpy.random.default_rng()`, is not seen, and not seeded.
    """
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(SEED)
        np.random.seed(SEED)
        random.seed(SEED)
        before = _states()

        def drawn() -> bool:
            nonlocal before
            was, before = before, _states()
            return was != before

        try:
            yield drawn
        finally:
            np.random.set_state(numpy)
            random.setstate(python)


def _states() -> tuple[bytes, ...]:
    torch_state = torch.get_rng_state().numpy().tobytes()
    return torch_state, pickle.dumps(np.random.get_state(legacy=False)), pickle.dumps(random.getstate())
