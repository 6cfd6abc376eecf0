"""An epoch of MNIST logistic regression, batch 100: ours / the tutorial's (DataLoader, ToTensor, PIL).

Both train on all 60,000 images. "training" is the pass alone, on both sides; "with evaluation" adds, on our side only,
a measurement on 10,000 images after every epoch. Pairs run in turn in one process, each side with its own default
threads; the ratio is the median over the pairs.

    python benchmarks/epoch.py
"""

from __future__ import annotations

import statistics
import sys
import time

import torch
from tutorial import Tutorial

from sweepstack.config.schema import TrialConfig
from sweepstack.training.data.load import load_data
from sweepstack.training.hardware import ALL_THREADS, choose_threads
from sweepstack.training.trainer import train

PAIRS, EPOCHS = 5, 5
IMAGE = {"shape": [1, 28, 28], "classes": 10}
CONFIG = TrialConfig.model_validate(
    {
        "dataset": {"_target_": "sweepstack.training.data.mnist", **IMAGE},
        "model": {"_target_": "sweepstack.training.models.Logistic", **IMAGE},
        "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.01},
        "schedule": {"kind": "constant"},
        "epochs": EPOCHS,
        "batch_size": 100,
        "validation_split": 0.0,
    }
)


def seconds_per_epoch(config: TrialConfig) -> tuple[float, float]:
    """Mean over the epochs, and the accuracy at the end."""
    data = load_data(config.dataset, config.validation_split, torch.device("cpu"))
    torch.set_num_threads(choose_threads(config, None))
    began = time.perf_counter()
    measured: list[float] = []
    outcome = train(config, data, lambda _: measured.append(time.perf_counter() - began))
    return measured[-1] / config.epochs, outcome.metrics["test/accuracy"]


def main() -> None:
    at_the_end = CONFIG.model_copy(update={"evaluate_every": 10**9})
    seconds_per_epoch(CONFIG.model_copy(update={"epochs": 1}))  # start-up has a benchmark of its own
    ratios: dict[str, list[float]] = {"training": [], "with evaluation": []}
    for pair in range(PAIRS):
        torch.set_num_threads(ALL_THREADS)  # PyTorch's default, which is what the tutorial runs with
        peer = Tutorial(lr=0.01)
        began = time.perf_counter()
        peer.epoch()
        theirs = time.perf_counter() - began
        training, accuracy = seconds_per_epoch(at_the_end)
        with_evaluation, _ = seconds_per_epoch(CONFIG)
        ratios["training"].append(training / theirs)
        ratios["with evaluation"].append(with_evaluation / theirs)
        print(
            f"pair {pair + 1}: tutorial {theirs:.3f} s, ours {training:.3f} s, with evaluation {with_evaluation:.3f} s "
            f"(accuracy after {EPOCHS} epochs {100 * accuracy:.2f} %, tutorial after 1 {peer.accuracy():.2f} %)",
            file=sys.stderr,
        )
    for name, found in ratios.items():
        print(f"epoch, {name}, ours / tutorial: median {statistics.median(found):.3f} of {PAIRS}")


if __name__ == "__main__":
    main()
