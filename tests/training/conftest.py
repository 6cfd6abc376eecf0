"""One thread for PyTorch: models this small gain nothing by more, and threads that wait for a busy core lose much."""

import gc
from collections.abc import Iterator

import pytest
import torch

from sweepstack.training.data import load


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def no_worker_stays() -> Iterator[None]:
    """Data that are kept for the next trial keep their worker processes, too; these hold pipes of this one open."""
    yield
    load._read.cache_clear()
    gc.collect()
