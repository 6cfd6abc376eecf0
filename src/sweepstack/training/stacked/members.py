"""Who is in a stack: members, the trials that read them, and the time that is shared out among them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sweepstack.config.schema import TrialConfig
from sweepstack.training.objective import ObjectiveTracker
from sweepstack.trial import OnMeasured, Outcome


@dataclass(eq=False)
class TrialReader:
    """A trial that reads a trajectory up to its own end."""

    config: TrialConfig
    report: OnMeasured
    end: Callable[[Outcome], None]
    """Takes the trial's outcome as soon as it is known."""
    key: str = ""
    """What a checkpoint knows it by, such as the trial's fingerprint; unique in the stack."""
    metrics: dict[str, float] = field(default_factory=dict)
    share: float = 0.0
    """Seconds of the stack that were this trial's part."""
    kept: Mapping[str, Any] | None = None
    """The best measurement so far, in the form of `trainer.tested`; only with `keep_best`."""

    def __post_init__(self) -> None:
        self.tracker = ObjectiveTracker(self.config)

    def every(self, steps: int) -> int:
        """Updates from one measurement to the next, at `steps` an epoch."""
        return steps if self.config.evaluate_every == "epoch" else self.config.evaluate_every

    def is_due(self, step: int, steps: int) -> bool:
        """Whether it is measured after `step` updates."""
        return step % self.every(steps) == 0 or self.is_at_end(step, steps)

    def is_at_end(self, step: int, steps: int) -> bool:
        return step == steps * self.config.epochs or self.tracker.ends_early

    def may_keep(self, step: int, steps: int) -> bool:
        """Whether a measurement after `step` updates can be the one whose predictions are kept."""
        return self.tracker.may_keep(step == steps * self.config.epochs)


@dataclass
class Member:
    """A trajectory in the stack."""

    config: TrialConfig
    """The one with the most epochs among those of its trials."""
    readers: list[TrialReader]
    """Those that have not ended."""
    trajectory: int
    """Its place among those that the stack began, or went on, with."""


class Clock:
    """Seconds of training, without those of tests and of what is done with outcomes."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._divided = time.perf_counter()
        self._began = self._divided - seconds

    def seconds(self) -> float:
        """Up to the last call of `divide`, so that they are the sum of all shares."""
        return self._divided - self._began

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        passed = time.perf_counter() - began
        self._began += passed
        self._divided += passed

    def divide(self, members: Sequence[Member]) -> None:
        """Gives each member, and of it each reader, an equal part of what has passed since the last time."""
        now = time.perf_counter()
        training = [member for member in members if member.readers]
        for member in training:
            for reader in member.readers:
                reader.share += (now - self._divided) / len(training) / len(member.readers)
        self._divided = now


def keys_of(members: Sequence[Member]) -> set[str]:
    """Returns the keys of those that have not ended."""
    return {reader.key for member in members for reader in member.readers}


def leave(member: Member, readers: Sequence[TrialReader]) -> list[TrialReader]:
    """Takes readers out of a member; gives them back."""
    leaving = list(readers)
    member.readers = [reader for reader in member.readers if reader not in leaving]
    return leaving


def timed(reader: TrialReader, clock: Clock) -> dict[str, float]:
    """Returns the metrics of a trial, with its seconds up to the last call of `Clock.divide`."""
    reader.metrics.update(train_seconds=clock.seconds(), train_seconds_share=reader.share)
    return reader.metrics


def give(reader: TrialReader, outcome: Outcome, clock: Clock) -> None:
    """Gives a reader its outcome; the clock stands still meanwhile."""
    with clock.stopped():
        reader.end(outcome)
