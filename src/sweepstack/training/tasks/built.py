"""The task of a config, ready to train with: its loss, the loss of a batch, and what it is measured by."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sweepstack.config.schema import TrialConfig
from sweepstack.config.targets import Bound
from sweepstack.config.trial_sections import MetricConfig, TaskConfig
from sweepstack.errors import ConfigError, UserError, did_you_mean, one_line
from sweepstack.metrics import OWN_METRIC, bare_name
from sweepstack.training.data.inputs import Inputs, call
from sweepstack.training.instantiate import bound, check_keywords, instantiate
from sweepstack.training.tasks.classification import Classification
from sweepstack.training.tasks.losses import build_loss, is_mean, weight_of
from sweepstack.training.tasks.measures import Measure, Totals
from sweepstack.training.tasks.multilabel import Multilabel
from sweepstack.training.tasks.regression import Regression
from sweepstack.training.tasks.task import Task

KNOWN_LOSSES = (Classification.loss, Regression.loss, Multilabel.loss)
"""Losses of tasks that are means over the items of a batch."""


def build_task(config: TaskConfig) -> Task:
    """Builds the task that a config names.

    Raises:
        ConfigError: it cannot be built, or is no `Task`.
    """
    check_keywords("task", config.target, 0, config.keywords)
    try:
        task = instantiate({"_target_": config.target, **config.keywords}, "task")
    except UserError:
        raise
    except Exception as error:
        raise ConfigError(f"task: {config.target} refuses its values: {one_line(error)}", remedy="change it") from error
    if not isinstance(task, Task):
        rule = f"task._target_ must name a subclass of sweepstack.Task, {config.target} gives"
        raise ConfigError(rule, type(task).__name__, "for example task=classification")
    return task


class BuiltTask:
    """The task of a config on a device.

    Args:
        config: the config of the trial.
        device: the device to train on.

    Raises:
        ConfigError: the loss or a metric cannot be built.
    """

    def __init__(self, config: TrialConfig, device: torch.device) -> None:
        self.task = build_task(config.task)
        self._named = build_loss(config.task.loss, device) if config.task.loss is not None else None
        self.measures = _measures(config, self.task)
        self._model = config.model.target
        if self._named is None and type(self.task).loss is Task.loss:
            rule = f"a task must have a loss, {config.task.target} defines none"
            raise ConfigError(rule, remedy="define loss(self, outputs, targets), or give task.loss")
        self._mean = self._named or self.task.loss
        is_known = type(self.task).loss in KNOWN_LOSSES if self._named is None else is_mean(self._named)
        self._whole = None if is_known else Measure(whole=lambda *both: self._mean(*(part.clone() for part in both)))
        """How the loss of a part of the data is computed if it may be no mean over its items."""
        self._plain = type(self.task) is Classification and self._named is None
        """Whether the loss is the plain cross entropy, whose sums PyTorch computes itself."""
        aligns = type(self.task).aligned is not Task.aligned
        self.loss: Callable[[Tensor, Tensor], Tensor] = self._aligned_loss if aligns else self._mean
        """Takes the outputs of a model and targets, and gives the mean loss, a tensor without axes."""
        self._step: Bound | None = None
        if config.step is not None:
            self._step = bound(config.step, "step")
            for module in self._step_modules():
                module.to(device)

    def _aligned_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._mean(self.task.aligned(outputs, targets), targets)

    def _step_modules(self) -> list[nn.Module]:
        if self._step is None:
            return []
        return [part for part in (*self._step.args, *self._step.keywords.values()) if isinstance(part, nn.Module)]

    @property
    def modules(self) -> list[nn.Module]:
        """The modules of the user's own beside the model: a loss, and arguments of the step, such as a teacher."""
        return [*([self._named] if isinstance(self._named, nn.Module) else []), *self._step_modules()]

    def weight(self, targets: Tensor) -> Tensor | int:
        """Returns the weight of a batch in the mean loss of several: its items, or the sum of their class weights."""
        return weight_of(self._named, targets)

    def batch_loss(self, model: Callable[..., Tensor], images: Inputs, targets: Tensor) -> Tensor:
        """Returns the loss of a model on a batch: that of the config's `step` if it has one.

        Args:
            model: the model, in training mode.
            images: [n, *shape], or a tuple or a dict of tensors.
            targets: [n, ...].
        """
        if self._step is not None:
            if isinstance(model, nn.Module):
                model.train()  # the step may have left it in evaluation mode
            loss: Tensor = self._step(model, (images, targets), self.loss)
            return loss
        outputs = call(model, images)
        if not isinstance(outputs, Tensor):  # the check before the training does not look: a step can take long
            rule = f"model must give one tensor when it is trained, {self._model} gives {type(outputs).__name__}"
            wrong = ConfigError(rule, remedy="write a step that takes it, step={_target_: my.step}")
            raise TypeError(str(wrong)) from wrong
        return self.loss(outputs, targets)

    def totals(self, stacked: bool = False) -> Totals:
        """Returns an empty collection of what a part of the data is measured by.

        Args:
            stacked: True if it is for outputs of a stack [K, n, ...].
        """
        return Totals(self._whole or (self._stacked_sums if stacked else self._sums), self.measures)

    def add(self, totals: Totals, outputs: Tensor, targets: Tensor, stacked: bool = False) -> Tensor:
        """Adds a batch to a collection, and returns the predictions as they are stored.

        Args:
            totals: what `totals` returned.
            outputs: of one model [n, ...], or of a stack [K, n, ...].
            targets: [n, ...].
            stacked: True if the outputs are of a stack.
        """
        outputs = self.task.aligned(outputs, targets, stacked)
        predictions = self.task.predictions(outputs)
        totals.add(outputs, predictions, targets, stacked)
        return self.task.stored(predictions, outputs)

    def _sums(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | int]:
        if self._plain:
            return cross_entropy(outputs, targets, reduction="sum"), len(targets)
        weight = weight_of(self._named, targets)
        return self._mean(outputs, targets) * weight, weight

    def _stacked_sums(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | int]:
        if self._plain:
            each = cross_entropy(outputs.transpose(1, 2), targets.expand(len(outputs), -1), reduction="none")
            return each.sum(1), len(targets)
        weight = weight_of(self._named, targets)
        return torch.stack([self._mean(one, targets) for one in outputs]) * weight, weight


def _measures(config: TrialConfig, task: Task) -> dict[str, Measure]:
    """Returns the task's own metric, those of `task.metrics`, and that of the objective."""
    known = {**task.measures()}
    wanted: list[str | MetricConfig] = [OWN_METRIC[config.task.target]] if config.task.target in OWN_METRIC else []
    wanted += config.task.metrics
    names = {metric.title if isinstance(metric, MetricConfig) else metric for metric in wanted} | {"loss"}
    if config.task.objective is not None and bare_name(config.task.objective.name) not in names:
        wanted.append(bare_name(config.task.objective.name))
    found: dict[str, Measure] = {}
    for metric in wanted:
        if isinstance(metric, MetricConfig):
            found[metric.title] = _own(metric)
        elif metric in known:
            found[metric] = known[metric]
        elif metric != "loss":
            key = "task.metrics" if metric in config.task.metrics else "task.objective.name"
            rule = f"{key} must name a metric of {config.task.target}"
            remedy = f"{did_you_mean(metric, known)}; or {{_target_: my.metric, mode: max}} in task.metrics"
            raise ConfigError(rule, metric, remedy)
    return found


def _own(metric: MetricConfig) -> Measure:
    """Builds a metric of a user: a function of outputs and targets."""
    check_keywords("task.metrics", metric.target, 2, metric.keywords)
    function = bound(metric, "task.metrics")
    return Measure(whole=lambda outputs, targets: function(outputs.clone(), targets.clone()))  # it may change them
