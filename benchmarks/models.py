"""What a step costs in a stack for each model that comes with sweepstack: milliseconds a trial, stacked / alone.

A step takes a batch of 100 images of MNIST and SGD. Both ways are timed in turn in this one run, by the processor time
of one thread, which other work on the machine changes less than the clock's; ratios are medians over the rounds.

    python benchmarks/models.py [--runs 5] [--only cnn vit] [--widths 2 8]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from stack import CPU, IMAGE, MNIST, endless, spread

from sweepstack.config.schema import TrialConfig
from sweepstack.training.data.load import load_data
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


def milliseconds(step: Callable[[], object]) -> float:
    """The median processor time of five calls, behind one that does not count."""
    times = []
    for _ in range(6):
        before = time.process_time()
        step()
        times.append(1e3 * (time.process_time() - before))
    return statistics.median(times[1:])


def measure(model: str, widths: list[int], runs: int) -> None:
    config = config_of(model)
    data = load_data(config.dataset, 0.1, CPU, config.task)
    alone = SingleModel(config, CPU)
    batches = endless(data, alone)
    for width in widths:
        configs = [config_of(model, 0.01 / (place + 1)) for place in range(width)]
        stack = build.build_stacked_model(configs, IMAGE["shape"], CPU)
        stacked_batches = endless(data, stack)
        times: list[tuple[float, float]] = []
        for _ in range(runs):
            single = milliseconds(lambda: alone.step(*next(batches)))
            stacked = milliseconds(lambda: stack.step(*next(stacked_batches)))  # noqa: B023 - called here
            times.append((stacked / width, single))
        each, once = (statistics.median(found) for found in zip(*times, strict=True))
        ratios = [stacked / single for stacked, single in times]
        median = f"{statistics.median(ratios):.2f} ({spread(ratios)})"
        print(f"| {model} | {type(stack).__name__} | {width} | {once:.1f} | {each:.1f} | {median} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Steps of models, stacked / alone.")
    parser.add_argument("--runs", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--widths", nargs="+", type=int, default=[2, 8])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | stacked as | trials | alone, ms a step | stacked, ms a step and trial | stacked / alone |")
    print("|---|---|---:|---:|---:|---:|")
    for model in arguments.only:
        measure(model, arguments.widths, arguments.runs)


if __name__ == "__main__":
    main()
