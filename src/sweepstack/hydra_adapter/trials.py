"""Makes a trial from a Hydra job: its config, its name in the sweep, and its params."""

from __future__ import annotations

import contextlib
import json
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig

from sweepstack.config.parsing import parse, resolve_config
from sweepstack.config.schedule_sections import OwnSchedule
from sweepstack.config.schema import GROUPS, RunConfig, TrialConfig, unused
from sweepstack.config.sections import Mark, marked
from sweepstack.config.trial_sections import TaskConfig
from sweepstack.hydra_adapter import private
from sweepstack.hydra_adapter.allowed_targets import check_allowed
from sweepstack.hydra_adapter.grids import merged
from sweepstack.hydra_adapter.ignored_settings import grid_of, task_overrides
from sweepstack.hydra_adapter.job_files import yaml_of
from sweepstack.hydra_adapter.sweep_values import parse_overrides, range_values
from sweepstack.hydra_adapter.user_program.command import program_words
from sweepstack.masking import hide
from sweepstack.metrics import KNOWN, OWN_METRIC, bare_name
from sweepstack.trial import REPLICATES, Trial

SHORT = {"batch_size": "bs"}
"""Short forms of keys in the names of trials."""
LONGEST_NAME = 120
"""The most characters of a trial's name."""
MAX_ASKED = 500
"""The most characters of `Trial.asked`."""
OF_SWEEP = [key for key in RunConfig.model_fields if key not in marked(RunConfig, Mark.PER_JOB)]
"""Keys of a config that must have the same value in all jobs of a sweep."""
HIDDEN = {
    "dataset": {"_target_", "shape", "classes", "folder"},
    "model": {"_target_", "shape", "classes"},
    "optimizer": {"_target_"},
    "schedule": {"_target_", "kind"},
}
"""Keys of groups that follow from the choice of the group, or from the machine. Params lack them, unless the sweep
itself sets them."""
NAMES_OF_KEYS = {*GROUPS, *TrialConfig.model_fields, *RunConfig.model_fields}
"""Names that a keyword of an optimizer does not have as a param: there it is `optimizer.seed`, and not `seed`."""


def make_trial(cfg: DictConfig, hydra: DictConfig, folder: Path, fixed: Collection[str], in_sweep: bool) -> Trial:
    """Makes the trial of a job.

    Args:
        cfg: the job's own config, without Hydra's part.
        hydra: Hydra's part: choices, overrides, number.
        folder: the job's output folder.
        fixed: keys of overrides that are the same in all jobs of the sweep; the name contains the others.
        in_sweep: whether the job belongs to a sweep.

    Raises:
        ConfigError: see `parse` and `check_allowed`.
    """
    resolved = resolve_config(cfg)  # once, because a resolver may draw random numbers
    config, run = parse(resolved)
    check_allowed(config, run.engine)
    overrides = tuple(hide(line, unescape=True) for line in task_overrides(hydra))
    choices = {group: str(hydra.runtime.choices.get(group, "own")) for group in GROUPS}
    choices |= {group: getattr(config, group).target for group in GROUPS if _sets_target(overrides, group)}
    swept = {line.partition("=")[0] for line in overrides} - {*fixed} if in_sweep else set[str]()
    name = _name([line for line in overrides if line.partition("=")[0] not in fixed]) or _name(overrides)
    return Trial(
        config=config,
        run=run,
        number=int(hydra.job.num) if in_sweep else 0,
        name=name or f"{choices['model']} lr={config.optimizer.lr:g} bs={config.batch_size}",
        params=_params(config, run, choices, {key.lstrip("+") for key in swept}),
        folder=folder,
        log=folder / f"{hydra.job.name}.log",
        config_text=_as_yaml(resolved),
        overrides=overrides,
        sweep=run.tracking.sweep if in_sweep else None,
        program=program_words(),
    )


def asked_of(jobs: Sequence[Sequence[str]]) -> list[str]:
    """Says which seeds the command asks for of the setting of each job; see `Trial.asked`.

    Args:
        jobs: the overrides of each job of the command.
    """
    replicates: dict[tuple[str, ...], dict[str, None]] = defaultdict(dict)
    keys = []
    for job in jobs:
        own = {line.partition("=")[0].lstrip("+"): line.partition("=")[2] for line in job}
        keys.append(tuple(line for line in job if line.partition("=")[0].lstrip("+") not in REPLICATES))
        replicates[keys[-1]][" ".join(own[key] for key in REPLICATES if key in own)] = None
    texts = {
        key: f"{len(found)}: {', '.join(sorted(found, key=lambda one: (len(one), one)))}"[:MAX_ASKED]
        for key, found in replicates.items()
    }
    return [texts[key] for key in keys]


def fixed_keys(hydra: DictConfig) -> set[str]:
    """Returns the keys of overrides that have one value in all jobs of a sweep, for any sweeper.

    Args:
        hydra: the node hydra of the sweep's config.
    """
    params: list[Override] = []
    for key, value in grid_of(hydra).items():
        with contextlib.suppress(HydraException):  # the syntax of another sweeper
            params += parse_overrides([f"{key}={value}"])
    overrides = merged(params, parse_overrides(task_overrides(hydra)))
    swept = {override.get_key_element() for override in overrides if override.is_sweep_override()}
    return {override.get_key_element() for override in overrides} - swept


def searched_ranges(hydra: DictConfig) -> str:
    """Returns the ranges of numbers that a search draws from, as JSON: for each key without its `+` the smallest
    number, the largest one, and whether their logarithm is what is spread evenly.

    Args:
        hydra: the node hydra of the sweep's config.
    """
    params = parse_overrides([f"{key}={value}" for key, value in grid_of(hydra).items()])
    ranges: dict[str, tuple[float, float, bool]] = {}
    for override in merged(params, parse_overrides(task_overrides(hydra))):
        value = private.typed_value(override)
        key = override.get_key_element().lstrip("+")
        if isinstance(value, IntervalSweep):
            ranges[key] = float(value.start or 0), float(value.end or 0), "log" in value.tags
        elif isinstance(value, RangeSweep) and key not in REPLICATES:
            numbers = range_values(value, str(override.input_line))
            ranges[key] = float(min(numbers)), float(max(numbers)), "log" in value.tags
    return json.dumps(ranges)


def _name(overrides: Sequence[str]) -> str:
    parts = [line.partition("=") for line in overrides]
    shown = [(key, value) for key, _, value in parts if not _is_of_sweep(key.lstrip("+~"))]
    name = " ".join(f"{_short(key)}={value}" if value else key for key, value in shown)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."


def _is_of_sweep(key: str) -> bool:
    """Whether an override sets how the whole sweep is run, so that it does not describe a job."""
    return key.startswith("hydra") or key.partition(".")[0] in OF_SWEEP


def _as_yaml(plain: Any) -> str:
    """Returns the YAML of plain values, in OmegaConf's format."""
    return yaml_of(_without_enums(plain))


def _without_enums(value: Any) -> Any:
    if isinstance(value, dict):
        return {_without_enums(key): _without_enums(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_enums(part) for part in value]
    return value.name if isinstance(value, Enum) else value


def _short(key: str) -> str:
    key = key.lstrip("+~")
    return SHORT.get(key, key.removeprefix("optimizer.").removeprefix("model."))


def _sets_target(overrides: Sequence[str], group: str) -> bool:
    """Whether overrides give a section another `_target_` than the chosen option of its group has."""
    pairs = [line.lstrip("+").partition("=") for line in overrides]
    return any(key == f"{group}._target_" or (key == group and "_target_" in value) for key, _, value in pairs)


def _params(config: TrialConfig, run: RunConfig, choices: dict[str, str], swept: Collection[str]) -> dict[str, Any]:
    """Returns the params with names that do not depend on the sweep: `lr` for `optimizer.lr`, else the full key.

    Args:
        config: what is trained.
        run: how and where.
        choices: the options of the groups.
        swept: keys that have several values in the sweep; none of them is hidden.
    """
    params: dict[str, Any] = dict(choices)
    measures = set() if config.measurements_decide else marked(TrialConfig, Mark.MEASURES)
    left_out = {**dict.fromkeys(measures, True), **unused(config)}
    for key, value in config.model_dump(exclude=left_out, by_alias=True).items():
        if key in GROUPS:
            hidden = {name for name in HIDDEN[key] if name == "_target_" or f"{key}.{name}" not in swept}
            shown = {name: part for name, part in value.items() if name not in hidden}
            of_optimizer = key == "optimizer"
            params |= {
                name if of_optimizer and name not in NAMES_OF_KEYS else f"{key}.{name}": part
                for name, part in shown.items()
            }
        elif key == "task":
            params |= _task_params(config.task, value)
        elif isinstance(value, dict):
            params |= {f"{key}.{name}".removesuffix("._target_"): part for name, part in value.items()}
        else:
            params[key] = value
    if isinstance(config.schedule, OwnSchedule) and choices["schedule"] == "own":
        params["schedule"] = config.schedule.target
    params |= run.model_dump(include=marked(RunConfig, Mark.RECORDED))
    return {re.sub(r"[^\w\-. /]", "_", name): value for name, value in params.items()}


def _task_params(task: TaskConfig, plain: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the params of a task.

    Args:
        task: the task.
        plain: its values, without those at their defaults.
    """
    params = {("task" if name == "_target_" else f"task.{name}"): part for name, part in plain.items()}
    if loss := params.pop("task.loss", None):
        params |= {f"task.loss.{name}".removesuffix("._target_"): part for name, part in loss.items()}
    if task.metrics:
        params["task.metrics"] = [
            one if isinstance(one, str) else one.model_dump(by_alias=True, exclude_defaults=True)
            for one in task.metrics
        ]
    if task.objective is not None:
        name = task.objective.name
        params["task.objective"] = name if bare_name(name) in KNOWN else task.objective.model_dump()
    if "task" in params and task.target in OWN_METRIC:
        params["task"] = task.target.rpartition(".")[2].lower()
    return params
