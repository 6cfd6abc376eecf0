"""What a config alone tells about stacking: which values may differ inside a stack. No PyTorch is needed for it."""

from __future__ import annotations

from typing import Any

from sweepstack.config.schema import Mark, RunConfig, TrialConfig, marked
from sweepstack.schedules import looks_at_horizon

NUMBERS = {
    "torch.optim.SGD": {"lr", "momentum", "dampening", "weight_decay"},
    "torch.optim.Adam": {"lr", "betas", "eps", "weight_decay"},
    "torch.optim.AdamW": {"lr", "betas", "eps", "weight_decay"},
}
"""Optimizers that can be stacked, and their keywords that may differ inside a stack."""
FLAGS = {"torch.optim.SGD": {"nesterov"}, "torch.optim.Adam": {"amsgrad"}, "torch.optim.AdamW": {"amsgrad"}}
"""Keywords that must be the same in a stack. With any other keyword a trial is not stacked."""

PER_MEMBER = {"schedule", "seed", "epochs"}
"""Keys that each member of a stack has for itself, beside the numbers of its optimizer."""


def obstacle(config: TrialConfig) -> str | None:
    """Why trials of this optimizer cannot be stacked; None when they can."""
    target, keywords = config.optimizer.target, config.optimizer.keywords
    if target not in NUMBERS:
        return f"{target} has no stacked form (SGD, Adam and AdamW of torch.optim have)"
    unknown = sorted(keywords.keys() - NUMBERS[target] - FLAGS[target])
    if unknown:
        return f"{target} with {', '.join(unknown)} has no stacked form"
    for name in sorted(keywords.keys() & NUMBERS[target]):
        parts = keywords[name] if name == "betas" else [keywords[name]]
        if not all(isinstance(part, int | float) and not isinstance(part, bool) for part in parts):
            return f"optimizer.{name} is no number"
    return None


def trajectory_key(config: TrialConfig, run: RunConfig) -> str:
    """Trials of one key are read from one training: they differ at most in `epochs`, and only where the schedule does
    not look at the horizon."""
    shared = set() if looks_at_horizon(config.schedule) else {"epochs"}
    return _key(config, run, dict.fromkeys(shared, True))


def stack_key(config: TrialConfig, run: RunConfig) -> str:
    """Trajectories of one key may be trained as one stack: they differ in numbers of the optimizer, schedule, seed and
    epochs only."""
    numbers = NUMBERS.get(config.optimizer.target, set())
    return _key(config, run, {**dict.fromkeys(PER_MEMBER, True), "optimizer": numbers})


def _key(config: TrialConfig, run: RunConfig, without: dict[str, Any]) -> str:
    """All that changes the weights and is not left out, and where they are trained."""
    left_out = {**dict.fromkeys(marked(TrialConfig, Mark.MEASURES), True), **without}
    where = run.model_dump_json(include=marked(RunConfig, Mark.PER_STACK))
    return config.model_dump_json(exclude=left_out, by_alias=True) + where
