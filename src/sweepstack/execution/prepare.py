"""Before anything trains: each trial is checked with its data and device at hand, and gets its fingerprint, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sweepstack.config.fingerprint import fingerprint
from sweepstack.config.schema import Mark, OptimizerConfig, RunConfig, TrialConfig, marked
from sweepstack.errors import ConfigError, DataError, UserError
from sweepstack.execution.executor import InProcessExecutor
from sweepstack.execution.worker import load_data_of
from sweepstack.faults import contained
from sweepstack.planning.plan import Stack
from sweepstack.trial import Trial


@dataclass(frozen=True)
class Prepared:
    """The trials of one command, ready to be claimed, planned and trained."""

    trials: tuple[Trial, ...]
    """With their fingerprints."""
    task: str
    """Name of the Hydra task, and of the experiment unless the config names another."""
    devices: Mapping[str, str]
    """Kind of device (cpu, cuda or mps) by what the trials' configs say of it (such as auto)."""
    isolation_reason: str = ""
    """Why every trial must be trained on its own, if it must."""

    @property
    def run(self) -> RunConfig:
        """What is the same for all of them."""
        return self.trials[0].run

    def device_of(self, stack: Stack) -> str:
        """Kind of device that a stack trains on."""
        return self.devices[stack.trials[0].run.device]


def prepare(trials: Sequence[Trial], task: str, executor: InProcessExecutor) -> Prepared:
    """Checks and identifies trials; their data are loaded for it, and stay in memory for the training.

    Args:
        trials: of one sweep.
        task: name of the Hydra task.
        executor: in its jobs the user's code is called.

    Raises:
        ConfigError, DataError: a trial has a mistake in it, or its data cannot be had. Of several trials: one error
            with a line for each mistake.
    """
    seen: set[str] = set()
    digests: dict[str, str] = {}
    mistakes: list[UserError] = []
    for trial in trials:
        try:
            check(trial, seen, digests, executor)
        except (ConfigError, DataError) as error:
            mistakes.append(error)
    if mistakes:
        raise mistakes[0] if len(mistakes) == 1 else ConfigError.of_all(mistakes)
    from sweepstack.training.hardware import choose_device

    return Prepared(
        tuple(replace(trial, fingerprint=_fingerprint(trial, digests)) for trial in trials),
        task,
        {name: choose_device(name).type for name in {trial.run.device for trial in trials}},
    )


def check(trial: Trial, seen: set[str], digests: dict[str, str], executor: InProcessExecutor) -> None:
    """Checks what can only be checked with PyTorch and the data at hand, and loads the data.

    Args:
        seen: what has been checked already; trials that differ only in numbers which `parse` has checked need it once.
        digests: takes the checksum of the data by the config of the dataset.

    Raises:
        ConfigError: see `check_trial` and `check_last_batch`.
        DataError: see `load_data`.
    """
    config = trial.config
    parsed: dict[str, Any] = dict.fromkeys(marked(TrialConfig, Mark.PARSED), True)
    parsed["optimizer"] = marked(OptimizerConfig, Mark.PARSED)
    key = f"{config.model_dump_json(exclude=parsed, by_alias=True)} {trial.run.device}"
    last = f"{key} {config.batch_size}"
    if last in seen:
        return
    from sweepstack.training.checks import check_last_batch, check_trial

    known = key in seen
    seen |= {key, last}  # a mistake too is told once
    with executor.in_job(trial), contained():
        data = load_data_of(trial) if known else check_trial(config, trial.run.device)
        digests[_dataset(trial)] = data.facts.digest
        check_last_batch(config, data)


def _fingerprint(trial: Trial, digests: Mapping[str, str]) -> str:
    from sweepstack.config.code_digest import digest

    return str(fingerprint(trial.config, digests[_dataset(trial)], digest(trial.config)))


def _dataset(trial: Trial) -> str:
    return trial.config.dataset.model_dump_json(by_alias=True)
