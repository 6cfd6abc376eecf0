"""Decides from the configs which trials can be stacked: which values may differ inside a stack. No PyTorch."""

from __future__ import annotations

from typing import Any

from sweepstack.config.schema import Mark, RunConfig, TrialConfig, marked
from sweepstack.schedules import looks_at_horizon

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

PER_MEMBER = {"schedule", "seed", "epochs"}
"""Config keys that may differ inside a stack, beside the numbers of the optimizer."""


def obstacle(config: TrialConfig) -> str | None:
    """Says why trials with this loop and optimizer cannot be stacked; None if they can."""
    if config.trainer is not None:
        return f"{config.trainer.target} is a loop of its own"
    target, keywords = config.optimizer.target, config.optimizer.keywords
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
    total number of steps.
    """
    shared = set() if looks_at_horizon(config.schedule) or config.trainer else {"epochs"}
    return _key(config, run, dict.fromkeys(shared, True))


def stack_key(config: TrialConfig, run: RunConfig) -> str:
    """Returns a key that is equal for trajectories that can be trained as one stack.

    Such trajectories differ only in the numbers of the optimizer, the schedule, the seed and the epochs.
    """
    numbers = NUMBERS.get(config.optimizer.target, set())
    return _key(config, run, {**dict.fromkeys(PER_MEMBER, True), "optimizer": numbers})


def _key(config: TrialConfig, run: RunConfig, without: dict[str, Any]) -> str:
    """Returns all config values that change the weights, but for those in `without`, and where the trial trains."""
    left_out = {**dict.fromkeys(marked(TrialConfig, Mark.MEASURES), True), **without}
    where = run.model_dump_json(include=marked(RunConfig, Mark.PER_STACK))
    return config.model_dump_json(exclude=left_out, by_alias=True) + where
