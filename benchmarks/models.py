"""What a step costs in a stack for each model that comes with sweepstack: microseconds a trial, stacked / alone.

A step takes a batch of 100 images of MNIST and SGD. Both ways are timed in turn in this one run, with the threads that
`threads: null` gives the plain trainer; ratios are medians over the rounds.

    python benchmarks/models.py [--runs 5] [--only cnn vit] [--widths 2 8]
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch
from stack import CPU, IMAGE, MNIST, endless, spread, timed

from sweepstack.config.schema import TrialConfig
from sweepstack.training.data.load import load_data
from sweepstack.training.hardware import choose_threads
from sweepstack.training.stacked import build
from sweepstack.training.stacked.single_model import SingleModel

MODELS: dict[str, dict[str, Any]] = {
    "logistic": {"_target_": "sweepstack.training.models.Logistic"},
    "mlp": {"_target_": "sweepstack.training.models.MLP", "hidden": [256, 128, 64], "dropout": 0.1},
    "cnn": {"_target_": "sweepstack.training.models.CNN", "dropout": 0.3},
    "resnet18": {"_target_": "sweepstack.training.models.ResNet18", "width": 8},
    "vit": {"_target_": "sweepstack.training.models.ViT", "depth": 2},
    "lstm": {"_target_": "sweepstack.training.models.LSTM"},
}


def config_of(model: str, lr: float = 0.01) -> TrialConfig:
    """A trial of a model on MNIST."""
    optimizer = {"_target_": "torch.optim.SGD", "lr": lr}
    plain = {"schedule": {"kind": "constant"}, "epochs": 1, "batch_size": 100, "optimizer": optimizer}
    return TrialConfig.model_validate({**MNIST, **plain, "model": {**IMAGE, **MODELS[model]}})


def measure(model: str, widths: list[int], runs: int) -> None:
    config = config_of(model)
    data = load_data(config.dataset, 0.1, CPU, config.task)
    torch.set_num_threads(choose_threads(config, None))
    alone = SingleModel(config, CPU)
    single = endless(data, alone)
    for width in widths:
        configs = [config_of(model, 0.01 / (place + 1)) for place in range(width)]
        stack = build.build_stacked_model(configs, IMAGE["shape"], CPU)
        stacked = endless(data, stack)
        times: list[tuple[float, float]] = []
        for _ in range(runs):
            one = timed(lambda: alone.step(*next(single)), least=5)
            times.append((timed(lambda: stack.step(*next(stacked)), least=5) / width, one))  # noqa: B023 - called here
        ratios = [one / other for one, other in times]
        each, single_time = (1e6 * statistics.median(found) for found in zip(*times, strict=True))
        way = f"{type(stack).__name__}, {torch.get_num_threads()} threads"
        median = f"{statistics.median(ratios):.2f} ({spread(ratios)})"
        print(f"| {model} ({way}) | {width} | {single_time:.0f} | {each:.0f} | {median} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Steps of models, stacked / alone.")
    parser.add_argument("--runs", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--widths", nargs="+", type=int, default=[2, 8])
    arguments = parser.parse_args()
    print("| model | trials | alone, us a step | stacked, us a step and trial | stacked / alone |")
    print("|---|---:|---:|---:|---:|")
    for model in arguments.only:
        measure(model, arguments.widths, arguments.runs)


if __name__ == "__main__":
    main()
