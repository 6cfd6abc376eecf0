"""Decides from the configs which trials can be stacked: which values may differ inside a stack. No PyTorch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeGuard

from sweepstack.config.schedule_sections import PlateauSchedule
from sweepstack.config.schema import RunConfig, TrialConfig
from sweepstack.config.sections import Mark, marked
from sweepstack.config.trial_sections import MetricConfig
from sweepstack.errors import ConfigError
from sweepstack.metrics import KNOWN, OWN_METRIC, bare_name
from sweepstack.schedules import looks_at_horizon
from sweepstack.trial import REPLICATES

NUMBERS = {
    "torch.optim.SGD": {"lr", "momentum", "dampening", "weight_decay"},
    "torch.optim.Adam": {"lr", "betas", "eps", "weight_decay"},
    "torch.optim.AdamW": {"lr", "betas", "eps", "weight_decay"},
}
"""The optimizers that can be stacked, each with the keywords that may differ inside a stack."""
FLAGS = {"torch.optim.SGD": {"nesterov"}, "torch.optim.Adam": {"amsgrad"}, "torch.optim.AdamW": {"amsgrad"}}
"""Keywords that must be the same in a stack. A trial with any other keyword is not stacked."""
WITHOUT_EFFECT = {"_partial_", "_convert_", "_recursive_"}
"""Hydra's words that change nothing for an optimizer that only takes numbers and flags."""

PER_TRIAL = {"early_stopping", "keep_best"}
"""Config keys that may differ even between trials that one training serves: they do not change how it goes on."""
PER_MEMBER = {"schedule", "seed", "epochs", *PER_TRIAL}
"""Config keys that may differ inside a stack, beside the numbers of the optimizer."""


def obstacle(config: TrialConfig) -> str | None:
    """Says why trials with this loop, recipe and optimizer cannot be stacked; None if they can."""
    if config.trainer is not None:
        return f"{config.trainer.target} is a loop of its own"
    target, keywords = config.optimizer.target, config.optimizer.keywords
    if isinstance(config.schedule, PlateauSchedule):
        return "schedule=plateau waits for the measurements of its trial, a stack knows the factors of an epoch before"
    if config.ema is not None:
        return "ema has no stacked form"
    if config.accumulate > 1:
        return "accumulate has no stacked form"
    if config.optimizer.groups:
        return "optimizer.groups have no stacked form"
    if target not in NUMBERS:
        return f"{target} has no stacked form (SGD, Adam and AdamW of torch.optim have)"
    unknown = sorted(keywords.keys() - NUMBERS[target] - FLAGS[target] - WITHOUT_EFFECT)
    if unknown:
        return f"{target} with {', '.join(unknown)} has no stacked form"
    for name in sorted(keywords.keys() & NUMBERS[target]):
        parts = keywords[name] if name == "betas" else [keywords[name]]
        if not all(isinstance(part, int | float) and not isinstance(part, bool) for part in parts):
            return f"optimizer.{name} is not a number"
    return None


def trajectory_key(config: TrialConfig, run: RunConfig) -> str:
    """Returns a key that is equal for trials that one training can serve.

    Such trials differ at most in `epochs`, and only if neither the schedule nor a loop of one's own may depend on the
    total number of steps, and in when they are measured and stop. If what is trained depends on measurements, they do
    not differ at all.
    """
    if isinstance(config.schedule, PlateauSchedule) or config.trainer is not None:
        return _key(config, run, {})
    shared = PER_TRIAL | marked(TrialConfig, Mark.MEASURES)
    return _key(config, run, dict.fromkeys(shared if looks_at_horizon(config.schedule) else {*shared, "epochs"}, True))


def stack_key(config: TrialConfig, run: RunConfig) -> str:
    """Returns a key that is equal for trajectories that can be trained as one stack.

    Such trajectories differ only in the numbers of the optimizer, the schedule, the seed, the epochs, and in when they
    are measured and stop; with a `dataset.collate_fn` not in the seed. Trajectories that cannot be stacked for one
    reason have a key in common, too.
    """
    numbers = NUMBERS.get(config.optimizer.target, set())
    differ = PER_MEMBER | marked(TrialConfig, Mark.MEASURES)
    if config.dataset.collate_fn is not None:  # how a batch is padded depends on all of its items
        differ.discard("seed")
    return _key(config, run, {**dict.fromkeys(differ, True), "optimizer": numbers}) + (obstacle(config) or "")


def setting_key(config: TrialConfig) -> str:
    """Returns a key that is equal for trials of one setting: they differ only in their seed or fold."""
    return config.model_dump_json(exclude=dict.fromkeys(REPLICATES, True), by_alias=True)


def objective_key(config: TrialConfig) -> str:
    """Returns a key that is equal for trials whose objectives measure the same.

    These are one metric with one direction. A loss is that of one loss function; what a task of a user's own calls by a
    name of its own is that of one task.
    """
    task, name = config.task, bare_name(config.objective)
    parts: list[Any] = [config.objective, config.mode]
    declared = [one.model_dump_json(by_alias=True) for one in task.metrics if _is_declared(one, name)]
    if name == "loss":
        parts += [task.target, None if task.loss is None else task.loss.model_dump_json(by_alias=True)]
    elif declared or name not in KNOWN:
        parts += declared or [task.target]
    return json.dumps(parts)


def check_one_objective(configs: Sequence[TrialConfig], who: str) -> None:
    """Checks that the objectives of all trials measure the same.

    Args:
        configs: those of the trials.
        who: compares them.

    Raises:
        ConfigError: two do not.
    """
    first = configs[0]
    for other in configs[1:]:
        if objective_key(other) == objective_key(first):
            continue
        shown = list(dict.fromkeys(f"{one.objective} ({one.mode})" for one in (first, other)))
        usual = OWN_METRIC.get(first.task.target, "my_metric")
        mode = KNOWN[usual].mode if usual in KNOWN else first.mode
        raise ConfigError(
            f"{who} compares its trials by one objective that measures the same for all",
            " and ".join(shown) if len(shown) > 1 else f"{shown[0]} of two kinds",
            f"choose one, for example 'task.objective={{name:val/{usual},mode:{mode}}}'",
        )


def _is_declared(metric: MetricConfig | str, name: str) -> TypeGuard[MetricConfig]:
    return isinstance(metric, MetricConfig) and metric.title == name


def _key(config: TrialConfig, run: RunConfig, without: dict[str, Any]) -> str:
    """Returns all config values that change the weights, but for those in `without`, and where the trial trains."""
    where = run.model_dump_json(include=marked(RunConfig, Mark.PER_STACK))
    return config.model_dump_json(exclude=without, by_alias=True) + where
