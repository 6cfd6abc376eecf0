"""A loop of one's own: the function that a config names as its `trainer`, and the context that it is called with."""

from __future__ import annotations

import functools
import math
import numbers
import re
import time
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, SupportsFloat

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sweepstack.config.schema import TrialConfig
from sweepstack.config.trial_sections import TrainerConfig
from sweepstack.errors import one_line
from sweepstack.metrics import BEST, is_better
from sweepstack.training import optimizers
from sweepstack.training.checkpoint import CheckpointManager, fitting
from sweepstack.training.data.source import Data
from sweepstack.training.instantiate import bound, instantiate
from sweepstack.training.outcomes import pruned
from sweepstack.training.random_state import random_state, seed_all, set_random_state
from sweepstack.training.trainer import warm_up
from sweepstack.trial import Measurement, OnMeasured, Outcome, TrialState, Verdict

METRIC_NAME = re.compile(r"[\w\-. ]+(/[\w\-. ]+)*")
"""Matches the name of a metric."""
STORABLE = (type(None), bool, int, float, str, torch.Size, torch.dtype, torch.device)
"""Types of plain values that a checkpoint can hold, beside tensors and containers."""


class BrokenRule(Exception):  # noqa: N818 -- the reason of a failure, in words
    """A loop breaks a rule of its context; the message says which, and at which step.

    Args:
        reason: the message.
        diverged: True if a metric is not a finite number, which the same training would give again.
    """

    def __init__(self, reason: str, diverged: bool = False) -> None:
        super().__init__(reason)
        self.diverged = diverged


class Context:
    """What a loop of one's own gets beside its config, and what it reports to.

    Args:
        config: what is trained.
        data: the data that it is trained on.
        folder: the folder for the loop's own files.
        report: receives what the loop measures.
        checkpoints: saves and restores the state of the loop.
    """

    def __init__(
        self, config: TrialConfig, data: Data, folder: Path, report: OnMeasured, checkpoints: CheckpointManager
    ) -> None:
        self._config, self._folder, self._report, self._checkpoints = config, folder, report, checkpoints
        self.data = data
        """The data: `data.batches(batch_size, seed, epoch)` yields the batches of an epoch, `data.evaluation()` those
        of the held-out part, `data.test()` those of the test data."""
        self.device: torch.device = data.device
        """The device to train on. Batches are on it."""
        self.checkpoint = LoopCheckpoint(self, checkpoints)
        """Saves and restores the state of the loop."""
        self._metrics: dict[str, float] = {}  # the last value of each metric that was reported
        self._step = 0  # of the last report
        self._stopped = self._pruned = False  # a report was answered by STOP or by PRUNE
        self._began = time.perf_counter()  # of a resumed training: as if it had not been interrupted

    @functools.cached_property
    def folder(self) -> Path:
        """A folder for files of the loop's own. The files in it, not those in its folders, are kept with the record.

        A resumed training may get another folder: what it needs belongs into its state.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        for file in self._folder.iterdir():
            if file.is_file() and file.stat().st_nlink > 1:  # an earlier record has it, and must not change with it
                file.unlink()
        return self._folder

    def report(self, metrics: Mapping[str, SupportsFloat], step: int) -> Verdict:
        """Reports metrics, and says whether the loop goes on.

        Args:
            metrics: finite numbers, or tensors of one number, by names such as "train/loss" and "val/accuracy".
            step: the number of updates or epochs so far, from 1; higher than that of the last report.

        Returns:
            STOP if the loop has to save its state and to return, else CONTINUE.
        """
        if isinstance(step, bool) or not isinstance(step, numbers.Integral) or step <= self._step:
            shown = one_line(repr(step))
            raise BrokenRule(
                f"the loop must report steps that are whole numbers from 1 and grow, it reported {shown} after "
                f"{self._step}; report all metrics of a step at once"
            )
        found = self._checked(metrics, f"at step {step}")
        for name in found:
            if not name.startswith(self._along):
                begin = " or ".join(self._along)
                raise BrokenRule(
                    f"the loop must report names that begin with {begin}, it reported {name} at step {step}; return "
                    "what is measured once, at the end"
                )
        objective = self._config.objective
        if objective in found and objective.startswith("val/"):
            best = self._metrics.get(f"{objective}{BEST}", math.nan)
            better = is_better(found[objective], best, self._config.mode)
            found[f"{objective}{BEST}"] = found[objective] if better else best
        self._step = int(step)
        self._metrics |= found
        verdict = self._report(Measurement(self._step, self._step, max(self._step, self._config.epochs), found))
        self._stopped = self._stopped or verdict is Verdict.STOP or self._checkpoints.stopping
        self._pruned = self._pruned or verdict is Verdict.PRUNE
        return Verdict.STOP if self._stopped or self._pruned else Verdict.CONTINUE

    def build_model(self) -> Any:
        """Returns what the config names as `model`. It is on the CPU."""
        return instantiate({"_target_": self._config.model.target, **self._config.model.keywords}, "model")

    def build_optimizer(self, module: nn.Module) -> Optimizer:
        """Returns the optimizer that the config names, for the parameters of a module, with the rate `optimizer.lr`."""
        return optimizers.build_optimizer(self._config.optimizer, module)

    def _outcome(self, returned: Any) -> Outcome:
        """Returns how a loop ends that has returned something."""
        if self._stopped:
            return Outcome(TrialState.KILLED, reason=f"stopped after step {self._step}")
        if self._pruned:
            return pruned(self._with_seconds())
        weights: dict[str, Any] | None = None
        metrics: dict[str, float] | None = None
        for part in returned if isinstance(returned, tuple) else (returned,):
            if part is None:
                continue
            kind = "weights" if _are_weights(part) else "metrics"
            if (weights if kind == "weights" else metrics) is not None:
                raise BrokenRule(f"the loop must return {kind} once, it returned them twice; put them into one dict")
            if kind == "weights":
                state = part.state_dict() if isinstance(part, nn.Module) else part
                weights = {key: one.detach().cpu() if isinstance(one, Tensor) else one for key, one in state.items()}
            else:
                metrics = self._checked(part, "at the end")
        self._take_last(metrics or {})
        if self._config.objective not in self._metrics:
            reported = ", ".join(sorted(self._metrics)) or "nothing"
            raise BrokenRule(
                f"the loop must report {self._config.objective}, which selects trials, it reported {reported}; report "
                "it, or name another metric with task.objective={name: NAME, mode: min or max}"
            )
        return Outcome(TrialState.FINISHED, self._with_seconds(), weights=weights)

    def _take_last(self, metrics: Mapping[str, float]) -> None:
        """Takes metrics that the loop returned; those that are measured along the way are reported once more."""
        along = {name: value for name, value in metrics.items() if name.startswith(self._along)}
        if along:
            self.report(along, max(self._step + 1, self._config.epochs))
        self._metrics |= metrics

    def _with_seconds(self) -> dict[str, float]:
        seconds = time.perf_counter() - self._began
        return {**self._metrics, "train_seconds": seconds, "train_seconds_share": seconds}

    @property
    def _along(self) -> tuple[str, ...]:
        """How the names of metrics begin that are measured along the way."""
        return "train/", f"{self._config.selecting_part}/"

    def _checked(self, metrics: Any, when: str) -> dict[str, float]:
        """Returns metrics as plain numbers, or raises `BrokenRule`."""
        if not isinstance(metrics, Mapping):
            kind = type(metrics).__name__
            raise BrokenRule(f"the loop must give metrics as a dict of names and numbers, it gave a {kind} {when}")
        found: dict[str, float] = {}
        for name, value in metrics.items():
            if not isinstance(name, str) or not METRIC_NAME.fullmatch(name):
                raise BrokenRule(f"the loop must report names such as val/accuracy, it reported {name!r} {when}")
            try:
                if isinstance(value, str):
                    raise TypeError("a text is no number")
                found[name] = float(value.item() if isinstance(value, Tensor) else value)
            except (TypeError, ValueError, RuntimeError, OverflowError):
                shown = one_line(repr(value))
                raise BrokenRule(f"the loop must report numbers, it reported {name} = {shown} {when}") from None
            if not math.isfinite(found[name]):
                self._metrics |= found
                raise BrokenRule(f"the loop reported {name} = {found[name]} {when}", diverged=True)
        return found


class LoopCheckpoint:
    """Saves and restores the state of a loop, together with the random states of PyTorch, NumPy and Python.

    Args:
        context: what it has heard from the loop is saved, too.
        manager: knows the folder, and when it is time to save.
    """

    def __init__(self, context: Context, manager: CheckpointManager) -> None:
        self._context, self._manager = context, manager
        self._is_checked = False

    def save(self, state: Any) -> None:
        """Saves the state of the loop if that is due, or if the loop has to stop. Call it after each report.

        Args:
            state: all that the loop needs to go on: tensors and plain values in dicts, lists and tuples, such as the
                `state_dict()` of a model or an optimizer.
        """
        is_due = self._manager.stopping or self._context._pruned or self._manager.due()
        if is_due or not self._is_checked:
            _check_storable(state, "state")
            self._is_checked = True
        if is_due:
            context = self._context
            done = {"step": context._step, "metrics": context._metrics, "seconds": time.perf_counter() - context._began}
            self._manager.save({"loop": state, **done, "random": random_state(context.device)})

    def restore(self) -> Any:
        """Returns the state that was saved last, and sets the random states to those of that time.

        Call it after model and optimizer are built. The tensors are on the CPU. None if the loop begins from scratch.

        Raises:
            CheckpointError: the checkpoint is of another kind. Do not catch it: the training begins from scratch.
        """
        saved, context = self._manager.state, self._context
        if saved is None:
            return None
        with fitting():
            context._step, context._metrics = saved["step"], dict(saved["metrics"])
            context._began -= saved["seconds"]
            set_random_state(saved["random"], context.device)
            return saved["loop"]


def train(
    config: TrialConfig,
    named: TrainerConfig,
    data: Data,
    folder: Path,
    report: OnMeasured,
    checkpoints: CheckpointManager,
) -> Outcome:
    """Trains one trial with a loop of the user's own. Sets the global random states, as the plain trainer does.

    Args:
        config: what is trained.
        named: the loop.
        data: the data that it is trained on.
        folder: the folder for the loop's own files.
        report: called with what the loop reports.
        checkpoints: has the state to resume from.

    Returns:
        FINISHED with the last value of each metric, and the weights if the loop returns any; FAILED if it breaks a rule
        of its context, such as a metric that is not a finite number; KILLED when it was stopped; PRUNED when `report`
        was answered so.
    """
    warm_up(data.device)
    seed_all(config.seed)
    context = Context(config, data, folder, report, checkpoints)
    try:
        return context._outcome(bound(named, "trainer")(config, context))
    except BrokenRule as error:
        text = "".join(traceback.format_exception(error))
        metrics = context._with_seconds()
        return Outcome(TrialState.FAILED, metrics, str(error), traceback=text, diverged=error.diverged)


def _are_weights(part: Any) -> bool:
    """True for a module and for a mapping with tensors, False for metrics, whose names say on which data they are."""
    if not isinstance(part, Mapping):
        return isinstance(part, nn.Module)
    is_named = any(isinstance(name, str) and name.startswith(("train/", "val/", "test/")) for name in part)
    return not is_named and any(isinstance(value, Tensor) for value in part.values())


def _check_storable(value: Any, path: str) -> None:
    """Raises `BrokenRule` if a checkpoint could not be read again because of a value in it."""
    parts: Iterable[tuple[Any, Any]]
    if isinstance(value, Mapping) and type(value).__name__ in ("dict", "OrderedDict", "Counter"):
        parts = value.items()
    elif type(value) in (list, tuple):
        parts = enumerate(value)
    elif isinstance(value, Tensor) or type(value) in STORABLE:
        return
    else:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise BrokenRule(
            f"checkpoint.save takes tensors and plain values in dicts, lists and tuples, {path} is a {kind}; convert it"
        )
    for name, part in parts:
        _check_storable(name, f"a key of {path}")
        _check_storable(part, f"{path}[{name!r}]")
