"""The device, the number of threads and the memory that a trial trains with."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from sweepstack.config.schema import TrialConfig
from sweepstack.config.trial_sections import ModelConfig
from sweepstack.errors import ConfigError
from sweepstack.training import models, random_state

ALL_THREADS = torch.get_num_threads()
"""The number of threads that PyTorch chose at its start."""
THREADS_PAY_FROM = 100e6
"""Floating-point operations in the forward pass of a batch, from which several threads are faster than one. On two
cores, two threads took 1.3 to 1.8 times as long as one thread at 41e6, and 0.75 times as long at 133e6. Below the limit
their synchronisation costs more than it saves."""


def choose_device(name: str) -> torch.device:
    """Returns the device for a config's `device`; auto is CUDA, else Apple's MPS, else the CPU.

    Raises:
        ConfigError: this machine does not have that device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = name.partition(":")  # not by torch.device, which reads cuda:256 as cuda:0
    count = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}[kind]
    if int(index or 0) >= count:
        raise ConfigError(
            f"device must be one that this machine has, got {name}",
            remedy="for example device=auto",
        )
    return torch.device(name)


def visible_gpus() -> list[str]:
    """Returns the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    count = torch.cuda.device_count()
    return named[:count] or [str(index) for index in range(count)]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Makes PyTorch use one thread in the block, so that it starts none: a process with threads cannot be forked well.

    A fork has none of the threads, and would wait for them for ever.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def choose_threads(config: TrialConfig, wanted: int | None) -> int:
    """Returns `wanted` if it is given; else 1 for a small model, and PyTorch's own choice for a large one.

    A loop of the user's own gets PyTorch's own choice, as where it comes from: what it does with the model is unknown.

    The number depends on the config alone and not on a measured time, because sums round differently with another
    number of threads.
    """
    if wanted is not None:
        return wanted
    if config.trainer is not None:
        return ALL_THREADS
    work = _flops(config.model.model_dump_json(by_alias=True), config.dataset.shape) * config.batch_size
    return ALL_THREADS if work >= THREADS_PAY_FROM else 1


@functools.lru_cache(maxsize=128)
def _flops(model_json: str, shape: tuple[int, ...] | None) -> float:
    """Counts the floating-point operations with weight matrices and kernels in the forward pass of one image.

    It uses hooks, because PyTorch's own counter imports `torch._dynamo`, which takes a second.
    """
    count = 0.0

    def add(module: nn.Module, _: object, output: object) -> None:
        nonlocal count
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim >= 2 and isinstance(output, Tensor):
            transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
            channels = weight.shape[1] * module.groups if transposed else weight.shape[0]  # type: ignore[operator]
            count += 2.0 * weight.numel() * output.numel() / float(channels)

    def begin(module: nn.Module, _: object) -> None:
        nonlocal count
        count = 0.0

    with torch.random.fork_rng(devices=[]), random_state.preserved(), torch.no_grad():
        model = models.build_model(ModelConfig.model_validate_json(model_json)).eval()
        model.register_forward_pre_hook(begin)
        for module in model.modules():
            module.register_forward_hook(add)
        if models.answer_to_any(model, shape) is None:
            count = 4.0 * sum(parameter.numel() for parameter in model.parameters())
    return count / 2


def memory_budget(device: torch.device) -> int:
    """Returns the bytes that a stack may use.

    On a GPU half of the free memory; elsewhere a quarter of the machine's memory, or of its control group's limit.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] / 2)
    total = int(psutil.virtual_memory().total)
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(file).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such control group, or "max"
            continue
    return total // 4
