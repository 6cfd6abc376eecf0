"""Plain Hydra and MLflow's fluent calls: a multirun whose task trains nothing and records a trial as ours is recorded.

- Idiom: Hydra's own sweeper and launcher, both basic, one job after the other in one process; in the task a run of
  MLflow as its documentation writes it, `with mlflow.start_run(): mlflow.log_params(...) ...`, one call for each thing.
- Records: run with name and tags, params, the dataset, the figures of each measurement and of the end, config.yaml,
  overrides.yaml and a file of weights, and how it ended; Hydra's folder for each job, by the same conf/.
- Does less than ours: no model, no data, no training, nothing evaluated; figures are made up, the file of weights is
  copied. PyTorch is not imported. Nothing is checked beforehand, no table is printed, a repeated command records all
  again, and a killed one leaves a run RUNNING.

    python benchmarks/peers/fluent.py optimizer.lr=0.01,0.1 epochs=1
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}

import hydra
import mlflow
from hydra.core.hydra_config import HydraConfig
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from omegaconf import DictConfig, OmegaConf

ROOT = Path(__file__).parents[2]
PLAIN = ("hydra/sweeper=basic", "hydra/launcher=basic", "~hydra.callbacks.sweepstack")
SIZE_OF_WEIGHTS = 4461
"""Bytes that `torch.save` makes of logistic regression on the digits."""
SWEEP = f"fluent_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
OmegaConf.register_new_resolver("sweep_name", lambda: SWEEP)  # for conf/config.yaml


@functools.cache
def versions() -> dict[str, str]:
    packages = ("torch", "hydra-core", "mlflow")
    found = {f"versions.{package}": importlib.metadata.version(package) for package in packages}
    return {**found, "versions.python": platform.python_version()}


@functools.cache
def dataset() -> MetaDataset:
    return MetaDataset(CodeDatasetSource({"target": "sweepstack.training.data.digits"}), "digits", "371c8dd9d93063ab")


def params(cfg: DictConfig) -> dict[str, Any]:
    keys = ("epochs", "batch_size", "seed", "validation_split", "device", "precision")
    optimizer: Any = OmegaConf.to_container(cfg.optimizer)
    del optimizer["_target_"]
    choices = HydraConfig.get().runtime.choices
    groups = {group: choices[group] for group in ("dataset", "model", "optimizer", "schedule")}
    return {**groups, **optimizer, **{key: cfg[key] for key in keys}}


@hydra.main(version_base="1.3", config_path=str(ROOT / "conf"), config_name="config")
def task(cfg: DictConfig) -> float:
    job = HydraConfig.get()
    folder = Path(job.runtime.output_dir)
    text = OmegaConf.to_yaml(cfg, resolve=True)
    tags = {"fingerprint": hashlib.blake2b(text.encode(), digest_size=10).hexdigest(), "sweep": SWEEP, **versions()}
    name = " ".join(job.overrides.task[:1])
    with mlflow.start_run(run_name=name, tags={**tags, "log": str(folder / "train.log")}):
        mlflow.log_params(params(cfg))
        mlflow.log_input(dataset(), context="training")
        mlflow.log_text(text, "config.yaml")
        mlflow.log_text(OmegaConf.to_yaml(job.overrides.task), "overrides.yaml")
        for epoch in range(1, cfg.epochs + 1):
            figures = {"train/loss": 2.3, "train/lr": cfg.optimizer.lr, "test/loss": 2.3, "test/accuracy": 0.1}
            mlflow.log_metrics(figures, step=epoch)
        mlflow.log_metrics({"train_seconds": 0.001, "train_seconds_share": 0.001}, step=0)
        (folder / "weights.pt").write_bytes(bytes(SIZE_OF_WEIGHTS))
        mlflow.log_artifact(str(folder / "weights.pt"))
        mlflow.set_tags({"reason": "", "trained": "not at all"})
    return 0.1


if __name__ == "__main__":
    sys.argv[1:] = ["-m", *PLAIN, *sys.argv[1:]]
    mlflow.set_experiment("train")
    task()
