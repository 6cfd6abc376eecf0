"""What all peers share: the command line, the cached files, the held-out part, and the JSON line at the end."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import datasets

from sweepstack.paths import cache_folder
from sweepstack.training.data import download
from sweepstack.training.data.splits import SPLIT_SEED

MEAN, STD = 0.1307, 0.3081
IMAGES, HELD_OUT = 60_000, 6_000


def grid() -> dict[str, list[Any]]:
    """The grid of the command line: lr, batch_size and epochs, each a list."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", default="0.001,0.01,0.1", help="learning rates")
    parser.add_argument("--batch-size", default="50,100,200")
    parser.add_argument("--epochs", default="5,10,20")
    kinds = {"lr": float, "batch_size": int, "epochs": int}
    return {name: [kinds[name](value) for value in text.split(",")] for name, text in vars(parser.parse_args()).items()}


def points(grid: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(grid, point, strict=True)) for point in itertools.product(*grid.values())]


def root() -> Path:
    """torchvision's root, the files beneath it verified."""
    download.obtain("mnist")
    return Path(cache_folder())


def split() -> tuple[Tensor, Tensor]:
    """Indices to train on and indices held out: those of `load_data(..., 0.1, ...)`."""
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(SPLIT_SEED))
    return order[HELD_OUT:].sort().values, order[:HELD_OUT].sort().values


def tensors() -> dict[str, tuple[Tensor, Tensor]]:
    """Standardised float32 images [n, 784] and int64 labels [n] of the parts train, val and test."""
    train, held_out = split()
    found = {}
    for is_train in (True, False):
        data = datasets.MNIST(root=root(), train=is_train, download=False)
        images = data.data.float().div_(255).sub_(MEAN).div_(STD).flatten(1)
        if is_train:
            found["train"] = images[train], data.targets[train]
            found["val"] = images[held_out], data.targets[held_out]
        else:
            found["test"] = images, data.targets
    return found


def finish(trials: Iterable[dict[str, Any]]) -> None:
    """Prints the line that benchmarks/grid.py reads."""
    keys = ("lr", "batch_size", "epochs", "val_accuracy", "test_accuracy")
    print(json.dumps({"trials": [{key: trial[key] for key in keys} for trial in trials]}), flush=True)
