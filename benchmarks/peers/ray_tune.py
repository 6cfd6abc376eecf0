"""Ray Tune: tune.grid_search and a function trainable that reports every epoch; two CPUs, one for each trial.

- Idiom: ray.init, a Tuner, the data put into the object store once by tune.with_parameters and read there without a
  copy (standardised float32), a plain PyTorch loop with one thread, actors reused from trial to trial (Tune's default).
- Records: Tune's own files, a folder for every trial with params, result.json, progress.csv and TensorBoard events of
  every epoch. No weights: the trainable saves no checkpoints.
- Differs from ours: epochs=5,10,20 are three trainings, trials are processes and not stacked; a broken-off sweep
  restarts its unfinished trials from the beginning. Local only: no dashboard, no usage statistics.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",  # Ray's default; given here, for it would leave a token in the home folder
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}

import ray
import task
import torch
from ray import tune
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

CPUS = 2


def train(config: dict[str, Any], data: dict[str, tuple[Any, Any]]) -> None:
    warnings.filterwarnings("ignore", message=".*not writable.*")  # nobody writes to it
    parts = {name: (torch.from_numpy(images), torch.from_numpy(labels)) for name, (images, labels) in data.items()}
    torch.manual_seed(0)
    images, labels = parts["train"]
    model = nn.Linear(784, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=config["lr"])
    for epoch in range(1, config["epochs"] + 1):
        for index in torch.randperm(len(images)).split(config["batch_size"]):
            optimizer.zero_grad()
            cross_entropy(model(images[index]), labels[index]).backward()
            optimizer.step()
        metrics = {"val_accuracy": accuracy(model, *parts["val"])}
        if epoch == config["epochs"]:
            metrics["test_accuracy"] = accuracy(model, *parts["test"])
        tune.report(metrics)


@torch.inference_mode()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return int((model(images).argmax(1) == labels).sum()) / len(labels)


def main() -> None:
    grid = task.grid()
    sessions = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # a short path: Ray's sockets lie beneath it
    ray.init(
        address="local",
        num_cpus=CPUS,
        num_gpus=0,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=sessions,
    )
    data = {name: (images.numpy(), labels.numpy()) for name, (images, labels) in task.tensors().items()}
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(train, data=data), {"cpu": 1}),
        param_space={name: tune.grid_search(values) for name, values in grid.items()},
        tune_config=tune.TuneConfig(metric="val_accuracy", mode="max"),
        run_config=tune.RunConfig(name="grid", storage_path=str(Path("ray_results").absolute()), verbose=0),
    )
    results = tuner.fit()
    ray.shutdown()
    shutil.rmtree(sessions, ignore_errors=True)
    if results.errors:
        raise RuntimeError(f"{results.num_errors} trials failed") from results.errors[0]
    task.finish({**result.config, **result.metrics} for result in results)


if __name__ == "__main__":
    main()
