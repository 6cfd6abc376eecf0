"""The plan: trials -> trajectories -> stacks, and why. Pure: it reads no file and loads no PyTorch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from sweepstack.config.schema import TrialConfig
from sweepstack.planning.compatibility import obstacle, stack_key, trajectory_key
from sweepstack.trial import StackSettings, Trial

TRAINED_ALONE = "by the plain trainer"


@dataclass(frozen=True)
class Trajectory:
    """One training that serves one or more trials, read at their epochs."""

    trials: tuple[Trial, ...]
    """The longest last."""

    @property
    def longest(self) -> Trial:
        """The trial that is trained; the others are read on its way."""
        return self.trials[-1]

    @property
    def config(self) -> TrialConfig:
        """That of the training."""
        return self.longest.config


@dataclass(frozen=True)
class Stack:
    """Trajectories that are trained together as one batched model, or one that is trained on its own."""

    trajectories: tuple[Trajectory, ...]
    choice: StackSettings
    id: str = ""
    """What its checkpoint is known by; given when the plan is kept."""
    keep: bool = False
    """Whether its checkpoints stay when it is done."""
    note: str = ""
    """Why it is not the stack that its trials began in, if it is not."""
    device: str = ""
    """Kind of device that it begins on; empty where it is not known."""

    @property
    def trials(self) -> list[Trial]:
        """Of all its trajectories."""
        return [trial for trajectory in self.trajectories for trial in trajectory.trials]

    @property
    def way(self) -> str:
        """How it is trained, in words."""
        width = len(self.trajectories)
        how = f"stacked, {count(width, 'trajectory')} wide" if width > 1 else TRAINED_ALONE
        return f"{how}, {count(self.choice.threads, 'thread')} ({self.choice.reason})"

    @property
    def epochs(self) -> int:
        """Of its longest trajectory."""
        return max(trajectory.config.epochs for trajectory in self.trajectories)


@dataclass(frozen=True)
class Plan:
    """What will train."""

    stacks: tuple[Stack, ...]

    @property
    def trials(self) -> list[Trial]:
        return [trial for stack in self.stacks for trial in stack.trials]

    @property
    def trajectories(self) -> list[Trajectory]:
        return [trajectory for stack in self.stacks for trajectory in stack.trajectories]

    @property
    def epochs_asked_for(self) -> int:
        """Of all trials, had each been trained on its own."""
        return sum(trial.config.epochs for trial in self.trials)

    @property
    def epochs_to_train(self) -> int:
        """Of all trajectories."""
        return sum(trajectory.config.epochs for trajectory in self.trajectories)

    @property
    def seconds(self) -> float:
        """Estimated time."""
        return sum(stack.epochs * stack.choice.epoch_seconds for stack in self.stacks)


def plan(trials: Iterable[Trial], choose: Callable[[Sequence[Trial]], StackSettings], apart: str = "") -> Plan:
    """Finds exact duplicates, shared trajectories, and what can be stacked.

    Args:
        choose: says how trajectories that could be one stack are trained best; takes the longest trial of each.
        apart: why every trial must be trained on its own, if it must.
    """
    if apart:
        return Plan(tuple(_alone(Trajectory((trial,)), choose, apart) for trial in trials))
    groups: dict[str, list[Trajectory]] = {}
    for trajectory in _trajectories(trials):
        groups.setdefault(stack_key(trajectory.config, trajectory.longest.run), []).append(trajectory)
    stacks: list[Stack] = []
    for group in groups.values():
        why_not = obstacle(group[0].config)
        if why_not is not None and len(group) > 1:
            stacks += [_alone(trajectory, choose, why_not) for trajectory in group]
            continue
        ordered = sorted(group, key=lambda trajectory: (trajectory.config.epochs, trajectory.config.seed))
        choice = choose([trajectory.longest for trajectory in sorted(group, key=_seed)])
        stacks += [_stack(sorted(part, key=_seed), choice) for part in _even_parts(ordered, choice.width)]
    return Plan(tuple(stacks))


def _alone(trajectory: Trajectory, choose: Callable[[Sequence[Trial]], StackSettings], why: str) -> Stack:
    return _stack([trajectory], replace(choose([trajectory.longest]), reason=why))


def _stack(trajectories: Sequence[Trajectory], choice: StackSettings) -> Stack:
    return Stack(tuple(trajectories), choice, keep=any(one.longest.run.checkpoint.keep for one in trajectories))


def _trajectories(trials: Iterable[Trial]) -> list[Trajectory]:
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        found.setdefault(trajectory_key(trial.config, trial.run), []).append(trial)
    return [Trajectory(tuple(sorted(read, key=lambda trial: trial.config.epochs))) for read in found.values()]


def _seed(trajectory: Trajectory) -> int:
    """Those of one seed side by side, for they share their batches."""
    return trajectory.config.seed


def _even_parts(group: Sequence[Trajectory], width: int) -> list[Sequence[Trajectory]]:
    """Parts of about the same size, none larger than `width`."""
    parts = math.ceil(len(group) / width)
    bounds = [round(part * len(group) / parts) for part in range(parts + 1)]
    return [group[begin:end] for begin, end in itertools.pairwise(bounds)]


def unique(trials: Sequence[Trial]) -> list[Trial]:
    """One trial of each fingerprint, in their order: the first, or the one that asks for the most pictures."""
    chosen: dict[str, Trial] = {}
    for trial in trials:
        known = chosen.get(trial.fingerprint)
        if known is None or trial.run.pictures > known.run.pictures:
            chosen[trial.fingerprint] = trial
    return [trial for trial in trials if trial is chosen[trial.fingerprint]]


def summary(planned: Plan) -> str:
    """The plan as one line."""
    trials, trajectories = len(planned.trials), len(planned.trajectories)
    counts = f"{count(trials, 'trial')} -> {count(trajectories, 'trajectory')} -> {count(len(planned.stacks), 'stack')}"
    saved = f": {planned.epochs_to_train} of {planned.epochs_asked_for} run-epochs to train"
    return counts + (saved if planned.epochs_to_train < planned.epochs_asked_for else "")


def describe(planned: Plan) -> list[str]:
    """The plan for people, line by line."""
    lines = [
        summary(planned).split(":")[0],
        f"{planned.epochs_asked_for} run-epochs asked for, {planned.epochs_to_train} to train, "
        f"in about {_duration(planned.seconds)}",
        "",
    ]
    for number, stack in enumerate(planned.stacks, 1):
        batch = stack.trajectories[0].config.batch_size
        trials, epochs = count(len(stack.trials), "trial"), count(stack.epochs, "epoch")
        begun = ", to be resumed" if stack.id else ""
        lines.append(f"stack {number}{begun}: {trials}, batch {batch}, {epochs}, {stack.way}")
        for trajectory in stack.trajectories:
            names = [trial.name for trial in trajectory.trials]
            lines.append(f"    {names[-1]}" + (f"  <- {', '.join(names[:-1])}" if len(names) > 1 else ""))
    return lines


def count(number: int, noun: str) -> str:
    """A number with its noun, in the plural where it must be."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 0.1):.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
