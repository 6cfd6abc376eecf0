"""What follows from the objective while a trial trains: a plateau, an early end, which measurement is the best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweepstack.config.schedule_sections import PlateauSchedule
from sweepstack.config.schema import TrialConfig
from sweepstack.metrics import Mode, is_better


@dataclass
class _Patience:
    """Counts the measurements since the best one."""

    best: float = math.nan
    waited: int = 0

    def take(self, value: float, mode: Mode, min_delta: float = 0.0) -> int:
        """Returns how many measurements have come since the best one, this one included; 0 if this one is the best.

        Args:
            value: of the objective; NaN is never the best.
            mode: which values are better.
            min_delta: the difference to the best value that does not count yet.
        """
        if is_better(value + min_delta if mode == "min" else value - min_delta, self.best, mode):
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        return self.waited


class ObjectiveTracker:
    """Follows the objective of a trial from one measurement to the next."""

    def __init__(self, config: TrialConfig) -> None:
        self._config = config
        self._is_used = (
            config.early_stopping.patience is not None
            or config.keep_best
            or isinstance(config.schedule, PlateauSchedule)
        )
        self._counts = self._plateau, self._early, self._best = _Patience(), _Patience(), _Patience()
        self.factor = 1.0
        """The factor on the learning rate that `schedule=plateau` has come to."""
        self.ends_early = False
        """True once `early_stopping` ends the training."""

    def is_best(self, metrics: Mapping[str, float]) -> bool:
        """Takes a measurement. Returns True if it is the best so far, and is to be kept."""
        if not self._is_used:
            return False
        config = self._config
        schedule, early, mode = config.schedule, config.early_stopping, config.mode
        value = metrics[config.objective]
        if isinstance(schedule, PlateauSchedule) and self._plateau.take(value, mode) > schedule.patience:
            self.factor = max(self.factor * schedule.factor, schedule.min_factor)
            self._plateau.waited = 0
        if early.patience is not None:
            self.ends_early = self._early.take(value, mode, early.min_delta) >= early.patience
        return config.keep_best and self._best.take(value, mode) == 0

    def may_keep(self, is_last: bool) -> bool:
        """Returns whether the coming measurement can be the one whose predictions are kept.

        Args:
            is_last: True if the training ends with it in any case.
        """
        return is_last or self.ends_early or self._config.keep_best or self._config.early_stopping.patience is not None

    def why_early(self, step: int, total: int) -> str:
        """Says for the record that, and why, the training ended before its last step; empty if it did not.

        Args:
            step: the step that it ended after.
            total: its last step.
        """
        if not self.ends_early or step >= total:
            return ""
        measurements = "measurement" if self._early.waited == 1 else f"{self._early.waited} measurements"
        return (
            f"stopped early after step {step} of {total}: the last {measurements} had no better "
            f"{self._config.objective} than {self._early.best:g}"
        )

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint needs, as plain values; nothing if the config does not look at the objective."""
        counts = [(one.best, one.waited) for one in self._counts]
        return {"objective": {"factor": self.factor, "counts": counts}} if self._is_used else {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` has returned.

        Raises:
            LookupError, TypeError, ValueError: the state is that of another training.
        """
        if self._is_used:
            self.factor = state["objective"]["factor"]
            for one, (best, waited) in zip(self._counts, state["objective"]["counts"], strict=True):
                one.best, one.waited = best, waited
