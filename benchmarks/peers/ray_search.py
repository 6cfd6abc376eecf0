"""Ray Tune: OptunaSearch with TPE, ASHA, and a function trainable that reports every epoch; two CPUs, one a trial.

- Idiom: ray.init, a Tuner, the data put into the object store once by tune.with_parameters and read there without a
  copy (standardised float32), a plain PyTorch loop with one thread, actors reused from trial to trial (Tune's default).
- Records: Tune's own files, a folder for every trial with params, result.json, progress.csv and TensorBoard events of
  every epoch. No weights: the trainable saves no checkpoints.
- Differs from ours: halving is asynchronous, trials are not stacked.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import ray_tune
import searched
import task
import torch
from ray import init, shutdown, tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch


def train(config: dict[str, Any], data: dict[str, tuple[Any, Any]]) -> None:
    warnings.filterwarnings("ignore", message=".*not writable.*")  # nobody writes to it
    parts = {name: (torch.from_numpy(images), torch.from_numpy(labels)) for name, (images, labels) in data.items()}
    history: list[tuple[float, float]] = []
    for accuracy in searched.train(config["model"], config["lr"], config["momentum"], config["epochs"], parts):
        history.append((searched.now(), accuracy))
        tune.report({"val_accuracy": accuracy, "history": [*history]})


def main() -> None:
    given = searched.arguments()
    sessions = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # a short path: Ray's sockets lie beneath it
    init(
        address="local",
        num_cpus=ray_tune.CPUS,
        num_gpus=0,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=sessions,
    )
    data = {name: (images.numpy(), labels.numpy()) for name, (images, labels) in task.tensors().items()}
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(train, data=data), {"cpu": 1}),
        param_space={
            "lr": tune.loguniform(searched.LEAST_RATE, searched.LARGEST_RATE),
            "momentum": tune.uniform(0.0, searched.LARGEST_MOMENTUM),
            "model": given.model,
            "epochs": given.epochs,
        },
        tune_config=tune.TuneConfig(
            metric="val_accuracy",
            mode="max",
            num_samples=given.trials,
            search_alg=OptunaSearch(sampler=searched.sampler(given.seed)),
            scheduler=ASHAScheduler(max_t=given.epochs, grace_period=1, reduction_factor=searched.FACTOR),
        ),
        run_config=tune.RunConfig(name="search", storage_path=str(Path("ray_results").absolute()), verbose=0),
    )
    results = tuner.fit()
    shutdown()
    shutil.rmtree(sessions, ignore_errors=True)
    if results.errors:
        raise RuntimeError(f"{results.num_errors} trials failed") from results.errors[0]
    searched.finish(result.metrics["history"] for result in results)


if __name__ == "__main__":
    main()
