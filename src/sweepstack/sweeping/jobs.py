"""A Hydra job as a trial: its config, its name among the others, the params of its record."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sweepstack.config import TrialConfig, parse
from sweepstack.trial import Trial

GROUPS = ("dataset", "model", "optimizer", "schedule")
SHORT = {"batch_size": "bs"}
LONGEST_NAME = 120
LEFT_OUT = {
    *("tracking", "launch", "threads", "pictures", "evaluate_every"),
    *("rerun", "retries", "max_failures", "checkpoint"),
}
NOT_IN_NAMES = ("tracking.", "hydra", "launch.", "checkpoint.", "rerun", "retries", "max_failures")


def split_job(cfg: DictConfig) -> tuple[DictConfig, DictConfig]:
    """A composed job as the trial's own config and Hydra's."""
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    return own, cfg.hydra


def make_trial(cfg: DictConfig, hydra: DictConfig, folder: Path, varied: Collection[str], in_sweep: bool) -> Trial:
    """The trial of a job.

    Args:
        cfg: the job's own config, without Hydra's.
        hydra: Hydra's part of it: choices, overrides, number.
        folder: the job's output folder.
        varied: keys of overrides which differ between the jobs of the sweep; they make the name.

    Raises:
        ConfigError: see `parse`.
    """
    config = parse(cfg)
    overrides = tuple(_without_password(str(line)) for line in hydra.overrides.task)
    choices = {group: str(hydra.runtime.choices.get(group, "own")) for group in GROUPS}
    return Trial(
        config=config,
        number=int(hydra.job.num) if in_sweep else 0,
        name=_name(overrides, varied) or f"{choices['model']} lr={config.optimizer.lr:g} bs={config.batch_size}",
        params=_params(config, choices),
        folder=folder,
        log=folder / f"{hydra.job.name}.log",
        config_text=_without_password(OmegaConf.to_yaml(cfg, resolve=True)),
        overrides=overrides,
        sweep=config.tracking.sweep if in_sweep else None,
    )


def varied_keys(jobs: Sequence[Sequence[str]]) -> set[str]:
    """Keys of overrides whose value is not the same in all jobs; all keys when there is a single job."""
    values: defaultdict[str, list[str]] = defaultdict(list)
    for overrides in jobs:
        for line in overrides:
            key, _, value = line.partition("=")
            values[key].append(value)
    if len(jobs) == 1:
        return set(values)
    return {key for key, found in values.items() if len(set(found)) > 1 or len(found) < len(jobs)}


def _name(overrides: Sequence[str], varied: Collection[str]) -> str:
    parts = {key: value for key, _, value in (line.partition("=") for line in overrides) if key in varied}
    told = {key: value for key, value in parts.items() if not key.lstrip("+~").startswith(NOT_IN_NAMES)}
    name = " ".join(f"{_short(key)}={value}" if value else key for key, value in told.items())
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."


def _without_password(text: str) -> str:
    """Addresses such as postgresql://user:password@host without what nobody else should read in a record."""
    return re.sub(r"(://[^:/@\s]+:)[^@\s]+@", r"\1***@", text)


def _short(key: str) -> str:
    key = key.lstrip("+~")
    return SHORT.get(key, key.removeprefix("optimizer.").removeprefix("model."))


def _params(config: TrialConfig, choices: dict[str, str]) -> dict[str, Any]:
    """Short names that do not depend on what is swept: `lr` for `optimizer.lr`, else the key as it is written."""
    params: dict[str, Any] = dict(choices)
    for key, value in config.model_dump(exclude=LEFT_OUT, by_alias=True).items():
        if key == "optimizer":
            params |= {name: part for name, part in value.items() if name != "_target_"}
        elif key in GROUPS:
            hidden = {"_target_", "kind", "shape", "classes", "folder"}
            params |= {f"{key}.{name}": part for name, part in value.items() if name not in hidden}
        else:
            params[key] = value
    return {re.sub(r"[^\w\-. /]", "_", name): value for name, value in params.items()}
