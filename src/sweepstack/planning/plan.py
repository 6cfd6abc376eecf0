"""The plan: trials -> trajectories -> stacks, and why. Pure: it reads no file and loads no PyTorch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from sweepstack.config.schema import TrialConfig
from sweepstack.errors import count
from sweepstack.planning.compatibility import obstacle, setting_key, stack_key, trajectory_key
from sweepstack.trial import StackSettings, Trial

Part = TypeVar("Part")
TRAINED_ALONE = "by the plain trainer"
"""How a stack of one trajectory is trained, in words."""
UNITED = "it went on with what a pruner had left of other stacks"
"""The note of a stack whose trials have begun in several others."""
OWN_LOOP = "by its own loop"
"""The same, if its config names a loop."""


@dataclass(frozen=True)
class Trajectory:
    """One training that serves one or more trials, read at their epochs."""

    trials: tuple[Trial, ...]
    """The trials in the order of their epochs; the longest is last."""

    @property
    def longest(self) -> Trial:
        """The trial with the most epochs. The metrics of the others are read while it trains."""
        return self.trials[-1]

    @property
    def config(self) -> TrialConfig:
        """The config of the longest trial."""
        return self.longest.config


@dataclass(frozen=True)
class Stack:
    """Trajectories that are trained together as one batched model, or a single one that is trained on its own."""

    trajectories: tuple[Trajectory, ...]
    choice: StackSettings
    id: str = ""
    """Names its checkpoints. It is empty until the session stores the plan."""
    keep: bool = False
    """True if its checkpoints stay after all of it is settled."""
    note: str = ""
    """Why its trials did not begin in this stack; empty if they did."""
    device: str = ""
    """The kind of device that it begins on (cpu, cuda or mps); empty if it is not known."""

    @property
    def trials(self) -> list[Trial]:
        """The trials of all its trajectories."""
        return [trial for trajectory in self.trajectories for trial in trajectory.trials]

    @property
    def how_trained(self) -> str:
        """How it is trained, in words: alone or stacked, with how many threads, and why."""
        width = len(self.trajectories)
        alone = OWN_LOOP if self.trajectories[0].config.trainer else TRAINED_ALONE
        how = f"stacked, {count(width, 'trajectory')} wide" if width > 1 else alone
        return f"{how}, {count(self.choice.threads, 'thread')} ({self.choice.reason})"

    @property
    def epochs(self) -> int:
        """The epochs of its longest trajectory."""
        return max(trajectory.config.epochs for trajectory in self.trajectories)


@dataclass(frozen=True)
class Plan:
    """The stacks that will be trained."""

    stacks: tuple[Stack, ...]

    @property
    def trials(self) -> list[Trial]:
        return [trial for stack in self.stacks for trial in stack.trials]

    @property
    def trajectories(self) -> list[Trajectory]:
        return [trajectory for stack in self.stacks for trajectory in stack.trajectories]

    @property
    def epochs_asked_for(self) -> int:
        """The sum of the epochs of all trials: what would be trained if each trial was trained on its own."""
        return sum(trial.config.epochs for trial in self.trials)

    @property
    def epochs_to_train(self) -> int:
        """The sum of the epochs of all trajectories: what is trained."""
        return sum(trajectory.config.epochs for trajectory in self.trajectories)

    @property
    def seconds(self) -> float:
        """The estimated time to train all stacks, in seconds."""
        return sum(stack.epochs * stack.choice.epoch_seconds for stack in self.stacks)


def plan(
    trials: Iterable[Trial], choose: Callable[[Sequence[Trial]], StackSettings], isolation_reason: str = ""
) -> Plan:
    """Groups trials into shared trajectories, and trajectories into stacks.

    Args:
        choose: takes the longest trial of each of some trajectories that could be one stack, and returns the best way
            to train them.
        isolation_reason: why every trial must be trained on its own; empty if it need not.
    """
    if isolation_reason:
        return Plan(tuple(_alone(Trajectory((trial,)), choose, isolation_reason) for trial in trials))
    groups: dict[str, list[Trajectory]] = {}
    for trajectory in _trajectories(trials):
        groups.setdefault(stack_key(trajectory.config, trajectory.longest.run), []).append(trajectory)
    stacks: list[Stack] = []
    for group in groups.values():
        why_not = obstacle(group[0].config)
        if why_not is not None and len(group) > 1:
            choice = replace(choose([group[0].longest]), reason=why_not)
            stacks += [_stack([trajectory], choice) for trajectory in group]
            continue
        choice = choose([trajectory.longest for trajectory in sorted(group, key=_seed)])
        stacks += [_stack(sorted(part, key=_seed), choice) for part in _parts(group, choice.width)]
    return Plan(tuple(stacks))


def unite(paused: Sequence[tuple[Stack, Collection[str]]]) -> list[Stack]:
    """Groups what is left of several stacks, at the same step, into as few stacks as possible.

    Args:
        paused: the stacks, each with the ids of those of its trials that go on.
    """
    groups: dict[tuple[str, str], list[tuple[Stack, list[Trajectory]]]] = {}
    for stack, ids in paused:
        left = (tuple(trial for trial in one.trials if trial.id in ids) for one in stack.trajectories)
        trajectories = [Trajectory(trials) for trials in left if trials]
        first = stack.trajectories[0]
        groups.setdefault((stack_key(first.config, first.longest.run), stack.device), []).append((stack, trajectories))
    united: list[Stack] = []
    for group in groups.values():
        widest, _ = max(group, key=lambda one: len(one[0].trajectories))
        keep = any(stack.keep for stack, _ in group)
        for part in _parts([one for _, left in group for one in left], len(widest.trajectories)):
            choice = replace(widest.choice, width=len(part))
            united.append(Stack(tuple(part), choice, "", keep, UNITED, widest.device))
    return united


def _alone(trajectory: Trajectory, choose: Callable[[Sequence[Trial]], StackSettings], why: str) -> Stack:
    return _stack([trajectory], replace(choose([trajectory.longest]), reason=why))


def _stack(trajectories: Sequence[Trajectory], choice: StackSettings) -> Stack:
    return Stack(tuple(trajectories), choice, keep=any(one.longest.run.checkpoint.keep for one in trajectories))


def _trajectories(trials: Iterable[Trial]) -> list[Trajectory]:
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trajectory_key(trial.config, trial.run), []).append(trial)
    return [Trajectory(tuple(sorted(group, key=lambda trial: trial.config.epochs))) for group in groups.values()]


def _seed(trajectory: Trajectory) -> int:
    """Sorts trajectories of one seed next to each other, because they share their batches."""
    return trajectory.config.seed


def _parts(group: Sequence[Trajectory], width: int) -> list[Sequence[Trajectory]]:
    """Cuts a group into parts of about the same size, none larger than `width`. Trajectories of the same epochs and of
    the same seed come together; with a pruner those of one setting, which it judges together, if `width` has room."""
    if group[0].longest.run.pruner.name == "none":
        return _even_parts(sorted(group, key=lambda one: (one.config.epochs, one.config.seed)), width)
    settings: dict[str, list[Trajectory]] = {}
    for one in sorted(group, key=lambda one: one.config.epochs):
        settings.setdefault(setting_key(one.config), []).append(one)
    most = max(map(len, settings.values()))
    if most > width:
        return _even_parts([one for setting in settings.values() for one in setting], width)
    parts = _even_parts([*settings.values()], width // most)
    return [[one for setting in part for one in setting] for part in parts]


def _even_parts(group: Sequence[Part], width: int) -> list[Sequence[Part]]:
    """Cuts a group into parts of about the same size, none larger than `width`."""
    parts = math.ceil(len(group) / width)
    bounds = [round(part * len(group) / parts) for part in range(parts + 1)]
    return [group[begin:end] for begin, end in itertools.pairwise(bounds)]


def unique(trials: Sequence[Trial]) -> list[Trial]:
    """Returns one trial of each fingerprint, in the given order: the first that asks for the most pictures."""
    chosen: dict[str, Trial] = {}
    for trial in trials:
        known = chosen.get(trial.fingerprint)
        if known is None or trial.run.pictures > known.run.pictures:
            chosen[trial.fingerprint] = trial
    return [trial for trial in trials if trial is chosen[trial.fingerprint]]


def summary(planned: Plan) -> str:
    """Returns the plan as one line."""
    trials, trajectories = len(planned.trials), len(planned.trajectories)
    counts = f"{count(trials, 'trial')} -> {count(trajectories, 'trajectory')} -> {count(len(planned.stacks), 'stack')}"
    saved = f": {planned.epochs_to_train} of {planned.epochs_asked_for} run-epochs to train"
    return counts + (saved if planned.epochs_to_train < planned.epochs_asked_for else "")


def describe(planned: Plan) -> list[str]:
    """Returns the plan as lines for people."""
    own_loop = any(trajectory.config.trainer for trajectory in planned.trajectories)
    at_most = "at most " if any(trial.run.pruner.name != "none" for trial in planned.trials) else ""
    lines = [
        summary(planned).split(":")[0],
        f"{planned.epochs_asked_for} run-epochs asked for, {at_most}{planned.epochs_to_train} to train, "
        f"in {'an unknown time' if own_loop else f'about {duration(planned.seconds)}'}",
        "",
    ]
    for number, stack in enumerate(planned.stacks, 1):
        batch = stack.trajectories[0].config.batch_size
        trials, epochs = count(len(stack.trials), "trial"), count(stack.epochs, "epoch")
        begun = ", to be resumed" if stack.id else ""
        lines.append(f"stack {number}{begun}: {trials}, batch {batch}, {epochs}, {stack.how_trained}")
        for trajectory in stack.trajectories:
            names = [trial.name for trial in trajectory.trials]
            lines.append(f"    {names[-1]}" + (f"  <- {', '.join(names[:-1])}" if len(names) > 1 else ""))
    return lines


def as_object(planned: Plan) -> dict[str, Any]:
    """Returns the plan and its cost as plain values, for programs; times are in seconds, None if they are not known."""
    own_loop = any(trajectory.config.trainer for trajectory in planned.trajectories)
    return {
        "trials": len(planned.trials),
        "trajectories": len(planned.trajectories),
        "trial_epochs_asked_for": planned.epochs_asked_for,
        "trial_epochs_to_train": planned.epochs_to_train,
        "may_end_early": any(trial.run.pruner.name != "none" for trial in planned.trials),
        "seconds": None if own_loop else planned.seconds,
        "stacks": [
            {
                "resumed": bool(stack.id),
                "batch_size": stack.trajectories[0].config.batch_size,
                "epochs": stack.epochs,
                "how": stack.how_trained,
                "seconds": None if own_loop else stack.epochs * stack.choice.epoch_seconds,
                "trajectories": [[trial.name for trial in trajectory.trials] for trajectory in stack.trajectories],
            }
            for stack in planned.stacks
        ],
    }


def duration(seconds: float) -> str:
    """Returns a time in words."""
    if seconds < 90:
        return f"{max(seconds, 0.1):.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
