"""Optuna's GridSampler in two joblib processes which share a study; a plain PyTorch loop over tensors in memory.

- Idiom: an objective that asks for suggestions, a study in a JournalStorage file, one process a core (threads,
  Optuna's own n_jobs, would meet in the GIL) with one PyTorch thread, the data once per process as standardised float32
  tensors.
- Records: params, the validation accuracy of every epoch and of the end, and the test accuracy, in the study's journal.
  No weights, no checkpoints, no logs.
- Differs from ours: epochs=5,10,20 are three trainings, trials are not stacked, nothing can go on from the middle of a
  trial. The epochs' order comes from one random stream per trial, seed 0.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import joblib
import optuna
import task
import torch
from optuna.samplers import GridSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

JOURNAL, STUDY, PROCESSES = "optuna.log", "grid", 2


def train(trial: optuna.Trial, data: dict[str, tuple[Tensor, Tensor]], grid: dict[str, list[Any]]) -> float:
    lr, batch_size, epochs = (trial.suggest_categorical(name, values) for name, values in grid.items())
    torch.manual_seed(0)
    images, labels = data["train"]
    model = nn.Linear(784, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for epoch in range(1, epochs + 1):
        for index in torch.randperm(len(images)).split(batch_size):
            optimizer.zero_grad()
            cross_entropy(model(images[index]), labels[index]).backward()
            optimizer.step()
        val = accuracy(model, *data["val"])
        trial.report(val, epoch)
    trial.set_user_attr("test_accuracy", accuracy(model, *data["test"]))
    return val


@torch.inference_mode()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return int((model(images).argmax(1) == labels).sum()) / len(labels)


def storage() -> JournalStorage:
    return JournalStorage(JournalFileBackend(JOURNAL))


def work(grid: dict[str, list[Any]]) -> None:
    """One process: takes grid points from the shared study until all are taken."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    data = task.tensors()
    study = optuna.load_study(study_name=STUDY, storage=storage(), sampler=GridSampler(grid, seed=0))
    # GridSampler alone would do the points again that the other process is still at
    taken = MaxTrialsCallback(len(task.points(grid)), states=(TrialState.COMPLETE, TrialState.RUNNING))
    study.optimize(lambda trial: train(trial, data, grid), callbacks=[taken])


def main() -> None:
    grid = task.grid()
    Path(JOURNAL).unlink(missing_ok=True)
    optuna.create_study(study_name=STUDY, storage=storage(), direction="maximize")
    processes = min(PROCESSES, len(task.points(grid)))
    joblib.Parallel(n_jobs=processes)(joblib.delayed(work)(grid) for _ in range(processes))
    study = optuna.load_study(study_name=STUDY, storage=storage())
    trials = {
        tuple(trial.params.items()): {**trial.params, "val_accuracy": trial.value, **trial.user_attrs}
        for trial in study.get_trials(states=(TrialState.COMPLETE,))
    }
    print(f"{len(study.trials)} trials for {len(trials)} points, best {study.best_params}", file=sys.stderr)
    task.finish(trials.values())


if __name__ == "__main__":
    main()
