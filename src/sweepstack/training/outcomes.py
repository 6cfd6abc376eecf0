"""What a training measures and how it ends, as values; for the plain trainer and for stacks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sweepstack.config.schema import TrialConfig
from sweepstack.metrics import BEST, is_better
from sweepstack.schedules import factor
from sweepstack.training.objective import ObjectiveTracker
from sweepstack.trial import Outcome, TrialState


def update_metrics(config: TrialConfig, measured: Mapping[str, float], metrics: dict[str, float]) -> None:
    """Updates `metrics` with what was measured on the part of the data that `config` selects by.

    The best value of the objective so far is added if held-out data select.

    Args:
        config: the config of the trial.
        measured: the loss and the metrics, by name.
        metrics: all metrics of the trial.
    """
    metrics.update({f"{config.selecting_part}/{name}": value for name, value in measured.items()})
    name, best = config.objective, f"{config.objective}{BEST}"
    if config.selecting_part == "val" and (best not in metrics or is_better(metrics[name], metrics[best], config.mode)):
        metrics[best] = metrics[name]


def undefined_metric(measured: Mapping[str, float]) -> str | None:
    """Returns the first metric that is no finite number although the loss is one; None if there is none."""
    if not math.isfinite(measured["loss"]):  # then the training has diverged, which is reported as such
        return None
    return next((name for name, value in measured.items() if not math.isfinite(value)), None)


def unmeasurable(name: str, step: int, metrics: dict[str, float]) -> Outcome:
    """Returns FAILED, because a metric was no finite number.

    Args:
        name: the metric, with its part of the data.
        step: the number of updates after which it was measured.
        metrics: what was measured until then.
    """
    remedy = "leave it out of task.metrics, or measure it on more data"
    reason = f"{name} must be a finite number, it was {metrics[name]} after step {step}; {remedy}"
    return Outcome(TrialState.FAILED, metrics, reason, diverged=True)


def diverged(
    config: TrialConfig, losses: Tensor, step: int, steps: int, metrics: dict[str, float], plateau: float = 1.0
) -> Outcome:
    """Returns FAILED with the first loss that is not finite.

    Args:
        losses: those of the latest updates, float [updates]; one of them is not finite.
        step: the update that `losses` ends with.
        config, steps, metrics, plateau: see `failed`.
    """
    first = int((~losses.isfinite()).nonzero()[0])
    return failed(config, float(losses[first]), step - len(losses) + first + 1, steps, metrics, plateau)


def killed(step: int, total: int) -> Outcome:
    """Returns KILLED, because the training was asked to stop."""
    return Outcome(TrialState.KILLED, reason=f"stopped after step {step} of {total}")


def pruned(metrics: Mapping[str, float]) -> Outcome:
    """Returns PRUNED, because the pruner of the sweep has ended the training; who asks for the outcome knows why.

    Args:
        metrics: what was measured until then.
    """
    return Outcome(TrialState.PRUNED, dict(metrics))


def failed(
    config: TrialConfig, loss: float, step: int, steps: int, metrics: dict[str, float], plateau: float = 1.0
) -> Outcome:
    """Returns FAILED, because the loss was not finite.

    Args:
        config: of the trial; its learning rate at that step is in the reason.
        step: the update with that loss, counted from 1.
        steps: updates in an epoch.
        metrics: what was measured until then.
        plateau: the factor that `schedule=plateau` had come to.
    """
    lr = config.optimizer.lr * factor(config.schedule, step - 1, steps, config.epochs) * plateau
    reason = f"the loss was {loss} at step {step} with learning rate {lr:g}; try a smaller optimizer.lr"
    return Outcome(TrialState.FAILED, metrics, reason, diverged=True)


def finished(
    config: TrialConfig,
    kept: Mapping[str, Any],
    tracker: ObjectiveTracker,
    step: int,
    steps: int,
    metrics: dict[str, float],
) -> Outcome:
    """Returns the outcome of a training at its end: FAILED if a metric on the test data is not a number; without a test
    part, if one on the held-out data is none.

    Args:
        config: of the trial.
        kept: what `trainer.tested` returned.
        tracker: knows why the training ended early, if it did.
        step: the number of updates.
        steps: updates in an epoch.
        metrics: what was measured until then; receives those of `kept`.
    """
    metrics.update(kept["figures"])
    part = config.selecting_part if config.dataset.parts.test is None else "test"
    measured = {name.partition("/")[2]: value for name, value in metrics.items() if name.startswith(f"{part}/")}
    if not math.isfinite(measured["loss"]):  # the very last updates can be the ones that diverge
        return failed(config, measured["loss"], step, steps, metrics, tracker.factor)
    if (undefined := undefined_metric(measured)) is not None:
        return unmeasurable(f"{part}/{undefined}", step, metrics)
    why = tracker.why_early(step, steps * config.epochs)
    predictions, held_out_predictions = (
        None if (predicted := kept.get(name)) is None else predicted.numpy()
        for name in ("predictions", "held_out_predictions")  # checkpoints of earlier versions have no second one
    )
    return Outcome(
        TrialState.FINISHED,
        metrics,
        why,
        weights=kept["weights"],
        predictions=predictions,
        held_out_predictions=held_out_predictions,
    )
