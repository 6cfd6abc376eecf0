"""What the peers of benchmarks/search.py share: the space, the plain PyTorch training, and the JSON line at the end."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

LEAST_RATE, LARGEST_RATE, LARGEST_MOMENTUM = 0.000316, 1.0, 0.95
BATCH_SIZE = 100
FACTOR = 3
"""Of the trials that reach an epoch, and each power of this factor, one in so many goes on."""
Parts = dict[str, tuple[Tensor, Tensor]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["logistic", "mlp"], default="logistic")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=27)
    parser.add_argument("--seed", type=int, default=0, help="of the search")
    return parser.parse_args()


def train(model_name: str, lr: float, momentum: float, epochs: int, parts: Parts) -> Iterator[float]:
    """Trains a model with one thread; yields the validation accuracy of each epoch."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, labels = parts["train"]
    hidden = 64
    layers = [nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, 10)] if model_name == "mlp" else [nn.Linear(784, 10)]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    for _ in range(epochs):
        for index in torch.randperm(len(images)).split(BATCH_SIZE):
            optimizer.zero_grad()
            cross_entropy(model(images[index]), labels[index]).backward()
            optimizer.step()
        with torch.inference_mode():
            held_out, truth = parts["val"]
            yield int((model(held_out).argmax(1) == truth).sum()) / len(truth)


def finish(trials: Iterable[list[tuple[float, float]]]) -> None:
    """Prints the line that benchmarks/search.py reads: of each trial the time and the accuracy of each epoch."""
    print(json.dumps({"trials": [*trials]}), flush=True)


def now() -> float:
    """Returns seconds since 1970, which other processes can compare."""
    return time.time()


def sampler(seed: int) -> Any:
    """Returns the sampler that ours uses, too."""
    from optuna.samplers import TPESampler

    return TPESampler(multivariate=True, constant_liar=True, seed=seed)
