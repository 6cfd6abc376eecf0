"""Checks of a config that need PyTorch and the data. They run before any training."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sweepstack.blame import contained, judge
from sweepstack.config.schedule_sections import OwnSchedule
from sweepstack.config.schema import RunConfig, TrialConfig
from sweepstack.config.trial_sections import DatasetConfig
from sweepstack.errors import ConfigError, UserError, one_line
from sweepstack.schedules import factor
from sweepstack.training import models, optimizers, random_state
from sweepstack.training.data.inputs import call, over
from sweepstack.training.data.load import data_of
from sweepstack.training.data.source import Batch, Data
from sweepstack.training.hardware import choose_device
from sweepstack.training.instantiate import check_keywords, import_target
from sweepstack.training.tasks.built import BuiltTask
from sweepstack.training.tasks.losses import Stateless, check_loss, check_value
from sweepstack.training.tasks.measures import as_number
from sweepstack.training.tasks.task import check_rows
from sweepstack.training.trainer import autocast_of

PROBE_SIZES = (2, 16, 2000)
"""Numbers of images that a model is tried with, in turn: a model that fails on two images may accept more."""
OWN_KEYS = {"parts", "source", "identity", "tokens", "collate_fn"}
"""Keys of a dataset that say how it is read."""
CPU = torch.device("cpu")
"""The device of the checks."""


def check_trial(config: TrialConfig, device: str, run: RunConfig | None = None) -> Data:
    """Checks that every target can be imported and called, and that the model accepts the dataset's images.

    What a loop of the user's own does with model and optimizer is its own affair, and is not checked.

    It trains nothing: an error that only training shows makes one trial fail, and no other.

    Args:
        device: the `device` of a config, such as auto.
        run: see `data_of`.

    Returns:
        The data. They are loaded after the checks that do not need them, because loading may take long.

    Raises:
        ConfigError: a check fails.
        DataError: the data cannot be loaded.
    """
    choose_device(device)
    _check_names(config.dataset)
    for part in (config.dataset.parts.train, config.dataset.parts.val, config.dataset.parts.test):
        if part is not None:
            check_keywords("dataset", config.dataset.target, 0, {**config.dataset.keywords, **part})
    check_keywords("model", config.model.target, 0, config.model.keywords)
    check_keywords("optimizer", config.optimizer.target, 1, {"lr": config.optimizer.lr, **config.optimizer.keywords})
    if config.trainer is not None:
        check_keywords("trainer", config.trainer.target, 2, config.trainer.keywords)
        return data_of(config, choose_device(device), run)
    if config.task.loss is not None:
        check_keywords("task.loss", config.task.loss.target, 0, config.task.loss.keywords)
    if config.step is not None:
        check_keywords("step", config.step.target, 3, config.step.keywords)
    with _undisturbed():
        task = BuiltTask(config, CPU)
        model = _build_model(config)
        data = data_of(config, choose_device(device), run)
        _check_evaluation(config, task, model, data)
        _check_step(config, task, model, data)
        parameters = list(model.parameters())
        if not parameters:
            rule = f"model must have parameters to train, {config.model.target} has none"
            raise ConfigError(rule, remedy="choose another")
        if not any(parameter.requires_grad for parameter in parameters):
            rule = f"model must have parameters to train, all of {config.model.target} are frozen"
            raise ConfigError(rule, remedy="let one of them require its gradient")
    try:
        optimizers.check_values(config.optimizer, model)
    except UserError:
        raise
    except Exception as error:
        rule = f"optimizer: {config.optimizer.target} refuses its values: {_describe_error(error)}"
        raise ConfigError(rule, remedy="change it") from error
    return data


def _check_names(config: DatasetConfig) -> None:
    """Checks that no keyword of a user's dataset has the name of a key that is read here and not passed on.

    Raises:
        ConfigError: one has.
    """
    function = import_target("dataset", config.target)
    with contextlib.suppress(TypeError, ValueError):  # a built-in may have no signature
        for key in OWN_KEYS & inspect.signature(function).parameters.keys():
            value = getattr(config, key)
            if value != DatasetConfig.model_fields[key].default:
                rule = f"dataset.{key} is a key of sweepstack, {config.target} does not receive it"
                raise ConfigError(rule, value, "give that parameter another name")


def check_last_batch(config: TrialConfig, data: Data) -> None:
    """Checks that the model can train on one image, if an epoch has a batch of one image.

    Raises:
        ConfigError: the model cannot, for example because of BatchNorm.
    """
    size, count = config.batch_size, len(data.train)
    if config.trainer is not None or config.drop_last or (size > 1 and count % size != 1):
        return
    with _undisturbed():
        try:
            model = models.build_model(config.model)
            _learn(config, model, data, 2)
        except Exception:  # the last batch is not the cause: the trial itself will report this error
            return
        try:
            _learn(config, model, data, 1)
        except Exception as error:
            target, last = config.model.target, f"{_describe_error(error)}"
            if size == 1 or count == 1:
                rule = f"batch_size must be 2 or more for {target}, which cannot train on one image ({last})"
                raise ConfigError(rule, size, "for example batch_size=100") from error
            better = next(more for more in range(size + 1, count + 2) if count % more != 1)
            rule = (
                f"batch_size must not leave one of the {count} images for the last batch, on which {target} cannot "
                f"train ({last})"
            )
            raise ConfigError(rule, size, f"for example batch_size={better}") from error


def check_schedule(config: TrialConfig, data: Data) -> None:
    """Checks that a schedule of the user's own gives a factor for each step of the training.

    Raises:
        ConfigError: it cannot be called, fails, or gives a factor that is negative or not finite.
    """
    if not isinstance(config.schedule, OwnSchedule):
        return
    target, steps = config.schedule.target, data.steps_per_epoch(config.batch_size, config.accumulate)
    check_keywords("schedule", target, 3, config.schedule.keywords)
    for step in range(steps * config.epochs):
        try:
            factor(config.schedule, step, steps, config.epochs)
        except Exception as error:
            rule = f"schedule: {target} gives no learning rate for step {step}: {_describe_error(error)}"
            raise ConfigError(rule, remedy="correct the function") from error


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Restores the global random states at the end of the block."""
    with torch.random.fork_rng(devices=[]), random_state.preserved():
        yield


def _build_model(config: TrialConfig) -> nn.Module:
    try:
        return models.build_model(config.model)
    except UserError:
        raise
    except Exception as error:
        rule = f"model: {config.model.target} refuses its values: {_describe_error(error)}"
        raise ConfigError(rule, remedy="change it") from error


def _check_evaluation(config: TrialConfig, task: BuiltTask, model: nn.Module, data: Data) -> None:
    def evaluate(count: int) -> tuple[object, Tensor]:
        images, targets = _on_cpu(data, count)
        with torch.no_grad(), autocast_of(config, CPU), contained():
            return call(model.eval(), images), targets

    first: Exception | None = None
    for count in sorted({min(count, len(data.train)) for count in PROBE_SIZES}):
        try:
            found, targets = evaluate(count)
            break
        except Exception as error:
            first = first or error
    else:
        assert first is not None
        _refuse_dtype(config, model, first)
        shape = "them" if config.dataset.shape is None else list(config.dataset.shape)
        rule = (
            f"model must take the dataset's images, {config.model.target} does not take {shape}: "
            f"{_describe_error(first)}"
        )
        remedy = "let it use ${dataset.shape}, or choose another model or dataset"
        raise ConfigError(rule, remedy=remedy) from first
    outputs = check_rows(found, len(targets), config)
    task.task.check_outputs(outputs, targets, config)
    name = (
        f"task: the loss of {config.task.target}"
        if config.task.loss is None
        else f"task.loss: {config.task.loss.target}"
    )
    kept = Stateless(task.modules)
    check_loss(name, task.loss, outputs, targets)
    kept.check(name)
    _check_metrics(config, task, outputs.float(), targets)


def _check_metrics(config: TrialConfig, task: BuiltTask, outputs: Tensor, targets: Tensor) -> None:
    """Checks that each metric of the user's own gives one number, if it takes so few items."""
    for metric in config.task.metrics:
        whole = None if isinstance(metric, str) else task.measures[metric.title].whole
        if isinstance(metric, str) or whole is None:
            continue
        try:
            value = whole(task.task.aligned(outputs, targets), targets)
        except Exception:  # it may need more items, or all classes; the trial itself will report this error
            continue
        try:
            as_number(metric.title, value)
        except TypeError as error:
            raise ConfigError(f"task.metrics: {error}", remedy=f"let {metric.target} return a mean") from error


def _check_step(config: TrialConfig, task: BuiltTask, model: nn.Module, data: Data) -> None:
    """Checks that a step of the user's own gives one number with a gradient, and keeps no state."""
    if config.step is None:
        return
    images, targets = _on_cpu(data)
    target, kept = config.step.target, Stateless(task.modules)
    try:
        with autocast_of(config, CPU), contained():
            value = task.batch_loss(model.train(), images, targets)
    except Exception as error:
        rule = f"step: {target} fails on {config.model.target} and a batch of {len(images)}: {_describe_error(error)}"
        raise ConfigError(rule, remedy="correct it") from error
    check_value("step", target, value)
    kept.check(f"step: {target}")


def _on_cpu(data: Data, count: int = 16) -> Batch:
    """Returns the first items to train on as a batch on the CPU."""
    images, targets = data.some(count)
    return over(torch.Tensor.cpu, images), targets.cpu()


def _learn(config: TrialConfig, model: nn.Module, data: Data, count: int) -> None:
    """Computes the loss and the gradient of the first `count` images."""
    images, targets = _on_cpu(data, count)
    with contained():
        with autocast_of(config, CPU):
            loss = BuiltTask(config, CPU).batch_loss(model.train(), images, targets)
        loss.backward()  # type: ignore[no-untyped-call]


def _refuse_dtype(config: TrialConfig, model: nn.Module, error: Exception) -> None:
    """Raises a ConfigError if the dtype of the model's parameters explains an error from inside PyTorch."""
    own = torch.get_default_dtype()
    others = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()} - {own}
    if others:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in others))
        wanted = str(own).removeprefix("torch.")
        rule = f"model must have {wanted} parameters, as images are, {config.model.target} has {names}"
        raise ConfigError(f"{rule}: {_describe_error(error)}", remedy="call .float() in its constructor") from error


def _describe_error(error: Exception) -> str:
    """Returns the text of an exception, and the line of the user's own code that raised it, if one did."""
    where = judge(error).where
    return f"{one_line(error)} (in your {where})" if where else one_line(error)
