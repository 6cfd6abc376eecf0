"""Checks each trial with its data and device, and computes its fingerprint; once, before anything trains."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sweepstack.blame import contained
from sweepstack.config.fingerprint import fingerprint
from sweepstack.config.run_sections import EngineConfig, OwnEngine
from sweepstack.config.schedule_sections import OwnSchedule
from sweepstack.config.schema import RunConfig, TrialConfig
from sweepstack.config.sections import Mark, marked
from sweepstack.config.trial_sections import OptimizerConfig
from sweepstack.errors import ConfigError, DataError, UserError
from sweepstack.execution.executor import InProcessExecutor
from sweepstack.execution.trial_files import check_pictures
from sweepstack.execution.worker import load_data_of
from sweepstack.planning.plan import Stack
from sweepstack.trial import Trial


@dataclass(frozen=True)
class Prepared:
    """The trials of one command, ready to be claimed, planned and trained."""

    trials: tuple[Trial, ...]
    """The trials, each with its fingerprint."""
    task: str
    """The name of the Hydra task, and of the experiment unless the config names another one."""
    devices: Mapping[str, str]
    """The kind of device (cpu, cuda or mps) for each value of the config key `device` (such as auto)."""
    isolation_reason: str = ""
    """Why every trial must be trained on its own; empty if it need not."""
    longest: int = 1
    """The most epochs of a trial of the sweep; of a search, of any point of its space."""

    @property
    def run(self) -> RunConfig:
        """The run config of the first trial; most of its keys are the same for all trials."""
        return self.trials[0].run

    def device_of(self, stack: Stack) -> str:
        """Returns the kind of device that a stack trains on."""
        return self.devices[stack.trials[0].run.device]


def prepare(trials: Sequence[Trial], task: str, executor: InProcessExecutor) -> Prepared:
    """Checks trials and computes their fingerprints. It loads their data, which stay in memory for the training.

    Args:
        trials: the trials of one sweep.
        task: the name of the Hydra task.
        executor: says in which context a user's code runs.

    Raises:
        ConfigError, DataError: a trial has a mistake, or its data cannot be obtained. If several trials have one, the
            error has a line for each mistake.
    """
    seen: set[str] = set()
    digests: dict[str, str] = {}
    mistakes: list[UserError] = []
    from sweepstack.training.hardware import one_thread

    may_fork = len(trials) > 1 and trials[0].run.engine.name in ("auto", "local")
    with one_thread() if may_fork else contextlib.nullcontext():
        for trial in trials:
            try:
                check(trial, seen, digests, executor)
            except (ConfigError, DataError) as error:
                mistakes.append(error)
    if mistakes:
        raise mistakes[0] if len(mistakes) == 1 else ConfigError.of_all(mistakes)
    fingerprints = [_fingerprint(trial, digests) for trial in trials]
    jobs = Counter(fingerprints)
    return Prepared(
        tuple(replace(trial, fingerprint=key, jobs=jobs[key]) for trial, key in zip(trials, fingerprints, strict=True)),
        task,
        {name: _device(name, trials[0].run.engine) for name in {trial.run.device for trial in trials}},
        longest=max(trial.config.epochs for trial in trials),
    )


def _device(name: str, engine: EngineConfig | OwnEngine) -> str:
    """Returns the kind of device that a value of `device` means for who trains. Slurm gives what is asked of it."""
    from sweepstack.training.hardware import choose_device

    if name == "auto" and isinstance(engine, EngineConfig) and engine.name == "slurm":
        return "cpu" if engine.gpus_per_worker is None else "cuda"
    return choose_device(name).type


def check(trial: Trial, seen: set[str], digests: dict[str, str], executor: InProcessExecutor) -> None:
    """Loads the data of a trial, and checks what can only be checked with PyTorch and the data.

    Args:
        trial: the trial.
        seen: keys of the checks that were done. Trials that differ only in numbers that `parse` has checked share one.
        digests: receives the checksum of the data, see `_data_key`.
        executor: says in which context a user's code runs.

    Raises:
        ConfigError: see `check_trial`, `check_last_batch`, `check_schedule` and `check_pictures`.
        DataError: see `load_data`.
    """
    config = trial.config
    parsed: dict[str, Any] = dict.fromkeys(marked(TrialConfig, Mark.PARSED), True)
    parsed["optimizer"] = marked(OptimizerConfig, Mark.PARSED)
    key = f"{config.model_dump_json(exclude=parsed, by_alias=True)} {trial.run.device}"
    last = f"{key} {config.batch_size}"
    if isinstance(config.schedule, OwnSchedule):
        last += config.model_dump_json(include={"schedule", "epochs", "accumulate"}, by_alias=True)
    if trial.run.pictures:
        last += " pictures"
    if last in seen:
        return
    from sweepstack.training.checks import check_last_batch, check_schedule, check_trial

    known = key in seen
    seen |= {key, last}  # a mistake too is told once
    with executor.in_job(trial), contained():
        data = load_data_of(trial) if known else check_trial(config, trial.run.device, trial.run)
        digests[_data_key(trial)] = data.facts.digest
        check_last_batch(config, data)
        check_schedule(config, data)
        check_pictures(trial.run.pictures, data)


def _fingerprint(trial: Trial, digests: Mapping[str, str]) -> str:
    from sweepstack.config.code_digest import digest

    return str(fingerprint(trial.config, digests[_data_key(trial)], digest(trial.config)))


def _data_key(trial: Trial) -> str:
    """What the checksum of the data depends on: the dataset, the task, which says what its labels become, and whether
    its groups count."""
    task = trial.config.task.model_dump_json(by_alias=True, exclude={"loss", "metrics", "objective"})
    return f"{trial.config.dataset.model_dump_json(by_alias=True)} {task} {trial.config.split.grouped}"
