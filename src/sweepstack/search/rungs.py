"""Rungs: at which epochs the trials of a sweep are compared, and what is known of them there. Pure.

A *rung* is a number of epochs. It is counted on the longest training of the sweep; in a shorter one, it is at the same
part of its own epochs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sweepstack.config.run_sections import PrunerConfig
from sweepstack.metrics import Mode

ROUNDING = 1e-9
"""Epochs that a measurement may be before a rung, because of rounding."""


@dataclass
class Standing:
    """What is known of a trial: its objective at the rungs that it has reached."""

    setting: int
    """The number of its setting in the sweep, from 0."""
    epochs: int
    """The epochs of its whole training."""
    objective: str
    """The metric that selects."""
    mode: Mode
    """Which of its values are better."""
    comparable: str = ""
    """A key that is equal for trials that are compared: their objectives measure the same on the same data."""
    values: dict[float, float] = field(default_factory=dict)
    """The objective by the epochs that it had trained then."""
    failed: bool = False
    """True if it has FAILED: at the next rung, it counts as the last one."""
    pruned: bool = False
    """True if it was PRUNED, at the last rung that it has reached."""


@dataclass(frozen=True)
class KnownRungs:
    """What a pruner decides by, as plain values."""

    config: PrunerConfig
    longest: int
    """The most epochs of a trial in the sweep."""
    standings: Mapping[str, Standing]
    """What is known of the trials of the sweep, by fingerprint."""
    population: str = ""
    """Digest of those trials and of the pruner; see `Standings`."""

    def as_json(self) -> dict[str, Any]:
        """Converts it to plain values."""
        standings = {
            key: {**vars(one), "values": list(one.values.items())} for key, one in self.standings.items()
        }  # JSON has texts as keys only
        config, longest, population = self.config.model_dump(), self.longest, self.population
        return {"config": config, "longest": longest, "standings": standings, "population": population}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> KnownRungs:
        """Reads what `as_json` has returned."""
        standings = {
            key: Standing(**{**one, "values": {float(epochs): value for epochs, value in one["values"]}})
            for key, one in content["standings"].items()
        }
        config = PrunerConfig.model_validate(content["config"])
        return cls(config, content["longest"], standings, content["population"])


def rungs_of(config: PrunerConfig, longest: int) -> list[int]:
    """Returns the rungs of a sweep.

    Args:
        config: the pruner.
        longest: the most epochs of a trial.
    """
    if config.name == "none":
        return []
    if not config.ranks:
        return list(range(config.min_epochs, longest))
    powers = (config.min_epochs * config.factor**power for power in itertools.count())
    return list(itertools.takewhile(lambda rung: rung < longest, powers))


def rungs_within(config: PrunerConfig, longest: int, epochs: int) -> list[tuple[int, float]]:
    """Returns the rungs of a trial, each with the epochs that the trial has trained when it reaches the rung.

    Args:
        config: the pruner.
        longest: the most epochs of a trial in the sweep.
        epochs: the epochs of the trial.
    """
    if not config.compares:
        longest = epochs
    found = [(rung, rung * epochs / longest) for rung in rungs_of(config, longest)]
    return [(rung, at) for rung, at in found if at >= config.min_epochs]


def values_at(values: Mapping[float, float], rungs: Sequence[tuple[int, float]]) -> dict[int, float]:
    """Returns the values at rungs: at each the first one from it to the next rung.

    Args:
        values: by epochs.
        rungs: see `rungs_within`.
    """
    found: dict[int, float] = {}
    reached = 0
    for epochs, value in sorted(values.items()):
        while reached < len(rungs) and rungs[reached][1] <= epochs + ROUNDING:
            reached += 1
        if reached:
            found.setdefault(rungs[reached - 1][0], value)
    return found


def brackets(config: PrunerConfig, longest: int) -> list[int]:
    """Returns how many of each round of settings `hyperband` deals to each bracket, as the paper on Hyperband (Li et
    al., 2018) does. Bracket b begins at rung number b; the last one prunes nothing.

    Args:
        config: the pruner.
        longest: the most epochs of a trial in the sweep.
    """
    count = len(rungs_of(config, longest)) + 1
    return [math.ceil(count / left * config.factor ** (left - 1)) for left in range(count, 0, -1)]


def bracket_of(setting: int, shares: Sequence[int]) -> int:
    """Returns the bracket of a setting: each setting goes to the bracket that is furthest behind its share.

    Args:
        setting: the number of the setting.
        shares: see `brackets`.
    """
    dealt = [0] * len(shares)
    chosen = 0
    for number in range(setting % sum(shares) + 1):
        behind = [share * (number + 1) / sum(shares) - had for share, had in zip(shares, dealt, strict=True)]
        chosen = behind.index(max(behind))
        dealt[chosen] += 1
    return chosen


def describe_pruner(config: PrunerConfig, epochs: Sequence[int], by_epoch: bool = True, longest: int = 1) -> list[str]:
    """Says at which epochs trials are judged; nothing if none is.

    Args:
        config: the pruner.
        epochs: the epochs of each trial.
        by_epoch: False if a trial is not measured after each epoch.
        longest: the most epochs that a trial of the sweep may have.
    """
    if config.name == "none" or not epochs:
        return []
    longest = max(longest, *epochs)
    each = {longest, *epochs}
    found = {one: [math.ceil(at - ROUNDING) for _, at in rungs_within(config, longest, one)] for one in each}
    if not any(found.values()):
        least = f"no trial has more epochs than pruner.min_epochs={config.min_epochs}"
        return [f"pruner={config.name}: {least}, so none ends early"]
    judged = {
        "halving": f"1 in {config.factor} goes on",
        "hyperband": f"1 in {config.factor} goes on, in {len(brackets(config, longest))} brackets",
    }.get(config.name, "trials may end")
    line = f"pruner={config.name}: {judged} {_at(found[longest])}"
    shorter = [one for one in sorted(found) if one < longest]
    if shorter and config.compares:
        one = shorter[-1]
        own = f"{_at(found[one])} of {one}" if found[one] else f"never in {one}"
        line += f" of {longest} epochs, in a shorter training at the same part of its own epochs ({own})"
    return [line if by_epoch else f"{line}, or at the first measurement after that"]


def _at(epochs: Sequence[int]) -> str:
    if len(epochs) > 1 and list(epochs) == list(range(epochs[0], epochs[-1] + 1)):
        return f"after each epoch from {epochs[0]} to {epochs[-1]}"
    *first, last = epochs
    return f"at epoch{'s' if first else ''} {', '.join(map(str, first))}{' and ' if first else ''}{last}"
