"""Optuna's TPE with its own SuccessiveHalvingPruner in two joblib processes which share a study.

- Idiom: an objective that reports each epoch and asks should_prune, a study in a JournalStorage file, one process a
  core with one PyTorch thread, the data once per process as standardised float32 tensors.
- Records: params and the validation accuracy of each epoch, in the study's journal. No weights, checkpoints or logs.
- Differs from ours: halving is asynchronous, trials are not stacked, a killed search keeps trials that never end.
"""

from __future__ import annotations

import warnings

import joblib
import optuna
import searched
import task
from optuna.pruners import SuccessiveHalvingPruner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState

JOURNAL, STUDY, PROCESSES = "optuna.log", "search", 2


def storage() -> JournalStorage:
    return JournalStorage(JournalFileBackend(JOURNAL))


def work(number: int, model: str, trials: int, epochs: int, seed: int) -> None:
    """One process: takes trials from the shared study until all are taken."""
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parts = task.tensors()
    study = optuna.load_study(
        study_name=STUDY,
        storage=storage(),
        sampler=searched.sampler(1000 * seed + number),
        pruner=SuccessiveHalvingPruner(min_resource=1, reduction_factor=searched.FACTOR),
    )

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", searched.LEAST_RATE, searched.LARGEST_RATE, log=True)
        momentum = trial.suggest_float("momentum", 0.0, searched.LARGEST_MOMENTUM)
        history: list[tuple[float, float]] = []
        for epoch, accuracy in enumerate(searched.train(model, lr, momentum, epochs, parts), 1):
            history.append((searched.now(), accuracy))
            trial.report(accuracy, epoch)
            if trial.should_prune():
                break
        trial.set_user_attr("history", history)
        if len(history) < epochs:
            raise optuna.TrialPruned
        return history[-1][1]

    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
    study.optimize(objective, callbacks=[MaxTrialsCallback(trials, states=states)])


def main() -> None:
    given = searched.arguments()
    optuna.create_study(study_name=STUDY, storage=storage(), direction="maximize")
    words = (given.model, given.trials, given.epochs, given.seed)
    joblib.Parallel(n_jobs=PROCESSES)(joblib.delayed(work)(number, *words) for number in range(PROCESSES))
    study = optuna.load_study(study_name=STUDY, storage=storage())
    searched.finish(trial.user_attrs["history"] for trial in study.trials if "history" in trial.user_attrs)


if __name__ == "__main__":
    main()
