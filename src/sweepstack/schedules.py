"""Schedules: pure functions from the step to a factor on the learning rate. They need no PyTorch."""

from __future__ import annotations

import functools
import math
import pkgutil
from collections.abc import Callable
from typing import Any

from sweepstack.config.schedule_sections import (
    ConstantSchedule,
    CosineSchedule,
    OneCycleSchedule,
    OwnSchedule,
    PlateauSchedule,
    ScheduleConfig,
    StepSchedule,
    WarmupCosineSchedule,
    WarmupSchedule,
)
from sweepstack.config.targets import bound


def looks_at_horizon(schedule: ScheduleConfig) -> bool:
    """True if the factor at a step depends on the total number of steps, or may do so.

    If it does not, a training of 5 epochs is the beginning of one of 10.
    """
    return isinstance(schedule, CosineSchedule | OneCycleSchedule | WarmupCosineSchedule | OwnSchedule)


def factor(schedule: ScheduleConfig, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Computes the factor on the learning rate of an optimizer update.

    Cosine: Loshchilov and Hutter, SGDR (2017), without restarts. One-cycle: Smith and Topin (2018), cosine form,
    as `torch.optim.lr_scheduler.OneCycleLR` without its momentum cycle. Plateau: always 1, because the measurements
    decide on its factor, see `training/objective.py`.

    Args:
        schedule: the schedule.
        step: the number of the update, from 0.
        steps_per_epoch: the updates in one epoch.
        epochs: the epochs of the whole training.

    Raises:
        ValueError: a schedule of the user's own gives a factor that is negative or not finite.
    """
    total = steps_per_epoch * epochs
    match schedule:
        case ConstantSchedule() | PlateauSchedule():
            return 1.0
        case StepSchedule():
            return float(schedule.gamma ** (step // steps_per_epoch // schedule.every))
        case CosineSchedule():
            return _anneal(1.0, schedule.final, step / total)
        case WarmupSchedule():
            done = min(1.0, step / (schedule.epochs * steps_per_epoch))
            return schedule.start + (1.0 - schedule.start) * done
        case WarmupCosineSchedule():
            rise = schedule.epochs * steps_per_epoch
            if step < rise:
                return schedule.start + (1.0 - schedule.start) * step / rise
            return _anneal(1.0, schedule.final, (step - rise) / (total - rise))
        case OwnSchedule():
            found = float(_function(schedule.model_dump_json(by_alias=True))(step, steps_per_epoch, epochs))
            if not 0 <= found < math.inf:
                raise ValueError(f"a factor must be finite and not negative, got {found:g} at step {step}")
            return found
        case OneCycleSchedule():
            peak = max(schedule.rise * total - 1.0, 0.0)
            if step <= peak:
                return _anneal(schedule.start, 1.0, step / peak if peak else 1.0)
            return _anneal(1.0, schedule.final, (step - peak) / (total - 1.0 - peak))


@functools.cache
def _function(schedule_json: str) -> Callable[..., Any]:
    schedule = OwnSchedule.model_validate_json(schedule_json)
    return bound(schedule, "schedule", lambda _, target: pkgutil.resolve_name(target))


def _anneal(start: float, end: float, done: float) -> float:
    """Follows half a cosine from `start` to `end` while `done` goes from 0 to 1."""
    return end + (start - end) * (1.0 + math.cos(math.pi * done)) / 2.0
