"""A CNN with augmentation: test accuracy, ours minus that of a plain PyTorch loop with torchvision's transforms.

Both train on the same 1,000 images of MNIST, each seed once, with random crops and random erasing that are drawn for
each image in each epoch, and are tested on all 10,000 test images.

    python benchmarks/augmented.py
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys

import torch
from scipy import stats
from torch import nn
from torch.utils.data import TensorDataset
from torchvision.transforms import v2

from sweepstack.config.schema import TrialConfig
from sweepstack.training.data import mnist
from sweepstack.training.data.load import data_of
from sweepstack.training.models import build_model
from sweepstack.training.trainer import train

COUNT, EPOCHS, BATCH, LR = 1000, 8, 50, 0.002
MEAN, STD = 0.1307, 0.3081


def part(train: bool) -> TensorDataset:
    """The first images of MNIST, or all for tests."""
    return TensorDataset(*(tensor[:COUNT] if train else tensor for tensor in mnist(train).tensors))


def config_of(seed: int) -> TrialConfig:
    shape = {"shape": [1, 28, 28], "classes": 10}
    return TrialConfig.model_validate(
        {
            "dataset": {"_target_": "augmented.part", **shape, "mean": MEAN, "std": STD},
            "model": {"_target_": "sweepstack.training.models.CNN", **shape},
            "optimizer": {"_target_": "torch.optim.Adam", "lr": LR},
            "schedule": {"kind": "constant"},
            "augment": {"crop": 2, "erase": 0.25},
            "epochs": EPOCHS,
            "batch_size": BATCH,
            "seed": seed,
            "validation_split": 0.0,
            "evaluate_every": 10**9,
        }
    )


def ours(seed: int) -> float:
    config = config_of(seed)
    return train(config, data_of(config, torch.device("cpu")), lambda _: None).metrics["test/accuracy"]


def plain(seed: int) -> float:
    """The loop that a user would write."""
    torch.manual_seed(seed)
    model = build_model(config_of(seed).model)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    transform = v2.Compose([v2.RandomCrop(28, padding=2), v2.RandomErasing(0.25)])
    images, labels = part(True).tensors
    for _ in range(EPOCHS):
        for index in torch.randperm(COUNT).split(BATCH):
            changed = torch.stack([transform(images[one][None]) for one in index])
            loss = nn.functional.cross_entropy(model((changed / 255 - MEAN) / STD), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    right = 0
    with torch.inference_mode():
        for some, answers in zip(*(tensor.split(2000) for tensor in part(False).tensors), strict=True):
            right += int((model((some[:, None] / 255 - MEAN) / STD).argmax(1) == answers).sum())
    return right / 10_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=8)
    torch.set_num_threads(1)
    differences = []
    for seed in range(parser.parse_args().seeds):
        found = ours(seed), plain(seed)
        differences.append(100 * (found[0] - found[1]))
        print(f"seed {seed}: ours {100 * found[0]:.2f} %, plain {100 * found[1]:.2f} %", file=sys.stderr)
    middle, count = statistics.mean(differences), len(differences)
    half = stats.t.ppf(0.975, count - 1) * statistics.stdev(differences) / math.sqrt(count)
    print(f"ours minus plain: {middle:+.2f} points (95 %: {middle - half:+.2f} to {middle + half:+.2f}), {count} seeds")


if __name__ == "__main__":
    sys.modules["augmented"] = sys.modules["__main__"]
    main()
