"""Rules between the keys of a trial: its task, dataset and objective, and how it is trained. No PyTorch."""

from __future__ import annotations

import itertools
import math

from sweepstack.config.schedule_sections import PlateauSchedule, WarmupCosineSchedule
from sweepstack.config.schema import Config, TrialConfig
from sweepstack.config.trial_sections import MetricConfig
from sweepstack.errors import ConfigError, did_you_mean
from sweepstack.metrics import BEST, KNOWN, MULTILABEL, OWN_METRIC, REGRESSION, bare_name

HOLD_OUT = "for example validation_split=0.1"
"""The remedy where data need to be held out."""


def check_task(config: TrialConfig) -> None:
    """Checks that the dataset, the metrics and the objective of a config suit its task.

    A task or a loop of one's own may have metrics that are not known here, so its objective is checked once it is
    measured.

    Raises:
        ConfigError: they do not.
    """
    titles = [metric.title if isinstance(metric, MetricConfig) else metric for metric in config.task.metrics]
    for title in titles:
        if titles.count(title) > 1:
            raise ConfigError("task.metrics must have different names", title, "name one with name=NAME")
    for metric in config.task.metrics:
        if isinstance(metric, MetricConfig) and (metric.title in KNOWN or metric.title.endswith(BEST)):
            rule = f"a metric of your own must not have the name of a known one, nor end in {BEST}"
            raise ConfigError(rule, metric.title, "name it with name=NAME")
    if config.task.target in OWN_METRIC:
        _check_dataset(config)
        for index, metric in enumerate(config.task.metrics):
            if isinstance(metric, str) and metric not in KNOWN:
                rule = f"task.metrics[{index}] must be a metric that sweepstack knows"
                rule = f"{rule}, or {{_target_: my.metric, mode: max}}"
                raise ConfigError(rule, metric, did_you_mean(metric, KNOWN))
        for title in titles:
            _check_suits(config, title, "task.metrics must be metrics")
    _check_objective(config, titles)


def check_split(config: TrialConfig) -> None:
    """Checks that the keys which say what is held out suit each other.

    Raises:
        ConfigError: one of them is missing, has no effect, or leaves nothing to select by.
    """
    has_val = config.dataset.parts.val is not None
    parts = [(name, part) for name, part in config.dataset.parts if part is not None]
    for (one, keywords), (other, others) in itertools.combinations(parts, 2):
        if keywords == others:
            rule = f"dataset.parts.{one} and dataset.parts.{other} must differ, or both are the same data"
            raise ConfigError(rule, keywords, f"correct dataset.parts.{other}")
    if config.folds is None and config.fold is not None:
        raise ConfigError("fold needs folds, the number of all folds", config.fold, "for example folds=5 fold=0")
    if config.folds is not None:
        if config.fold is None:
            every = ",".join(map(str, range(config.folds))) if config.folds <= 10 else f"range({config.folds})"
            raise ConfigError("folds needs fold, the one that is held out", remedy=f"for example -m fold={every}")
        if config.fold >= config.folds:
            raise ConfigError(
                f"fold must be less than folds={config.folds}, it counts from 0", config.fold, "for example fold=0"
            )
        if has_val:
            rule = "folds must not be given beside dataset.parts.val, which is held out"
            raise ConfigError(rule, config.folds, "leave one of them out")
    instead = "folds" if config.folds is not None else "dataset.parts.val" if has_val else ""
    if instead and config.validation_split not in (0.0, TrialConfig.model_fields["validation_split"].default):
        rule = f"validation_split has no effect beside {instead}"
        raise ConfigError(rule, config.validation_split, "leave it out")
    if config.dataset.parts.test is None and config.selecting_part == "test":
        rule = "dataset.parts.test=null needs held-out data, or nothing selects trials"
        raise ConfigError(f"{rule}, and validation_split={config.validation_split:g} holds none", remedy=HOLD_OUT)
    if config.split.stratified and (has_val or config.selecting_part == "test"):
        raise ConfigError("split.stratified has no effect where nothing is drawn to be held out", remedy="leave it out")
    if config.split.stratified and config.task.target in (REGRESSION, MULTILABEL):
        task = config.task.target.rpartition(".")[2].lower()
        rule = f"split.stratified keeps the shares of classes, and a {task} has none"
        raise ConfigError(rule, remedy="leave it out")


def check_selection(config: TrialConfig) -> None:
    """Checks that nothing but held-out data decides how long a trial trains and which of its weights are kept.

    Raises:
        ConfigError: the test data would decide, because nothing is held out.
    """
    uses = {
        "early_stopping": config.early_stopping.patience is not None,
        "keep_best": config.keep_best,
        "schedule=plateau": isinstance(config.schedule, PlateauSchedule),
    }
    used = [key for key, is_used in uses.items() if is_used]
    if used and config.selecting_part == "test":
        rule = f"validation_split must hold data out for {used[0]}, which would else select by the test data"
        raise ConfigError(rule, config.validation_split, HOLD_OUT)


def check_pruner(config: Config) -> None:
    """Checks that held-out data and one objective decide which trials are pruned, and that the pruner has its bound.

    Raises:
        ConfigError: the test data would decide, there are two objectives, or the bound is missing.
    """
    pruner, trial = config.run.pruner, config.trial
    if pruner.name != "none" and trial.selecting_part == "test":
        rule = f"validation_split must hold data out for pruner={pruner.name}, which would else select by the test data"
        raise ConfigError(rule, trial.validation_split, HOLD_OUT)
    if pruner.name != "none" and config.run.search.name == "nsga2":
        rule = f"pruner={pruner.name} judges by one objective, and search=nsga2 has two"
        raise ConfigError(rule, remedy="leave out the pruner, or choose another search")
    if pruner.name == "threshold" and pruner.bound is None:
        rule = f"pruner.bound is required and missing: the {trial.objective} at which a trial ends"
        raise ConfigError(rule, remedy="give it, for example pruner.bound=0.5")


def check_training(config: TrialConfig) -> None:
    """Checks that keys of the training suit each other: a trainer, the groups of the optimizer, and the schedule.

    Raises:
        ConfigError: a key has no effect, or a group or a schedule has a rate that it cannot have.
    """
    if config.trainer is not None:
        unused = {
            "early_stopping": config.early_stopping.patience is not None,
            "keep_best": config.keep_best,
            "task.metrics": bool(config.task.metrics),
            "step": config.step is not None,
        }
        for key, is_used in unused.items():
            if is_used:
                raise ConfigError(f"{key} has no effect beside a trainer of your own", remedy="leave it out")
    for index, group in enumerate(config.optimizer.groups):
        lr = group.keywords.get("lr", 0.0)
        if isinstance(lr, bool) or not isinstance(lr, int | float) or not 0 <= lr < math.inf:
            rule = f"optimizer.groups[{index}].lr must be a number from 0"
            raise ConfigError(rule, lr, "for example lr: 0.01, or lr: 0 to freeze its parameters")
    if isinstance(config.schedule, WarmupCosineSchedule) and config.schedule.epochs >= config.epochs:
        rule = f"schedule.epochs must be less than epochs={config.epochs}, or the rate never reaches its full size"
        remedy = f"for example schedule.epochs={config.epochs / 10:g}"
        raise ConfigError(rule, config.schedule.epochs, remedy)


def _check_dataset(config: TrialConfig) -> None:
    task = config.task.target.rpartition(".")[2].lower()
    needed, other = ("outputs", "classes") if config.task.target == REGRESSION else ("classes", "outputs")
    if getattr(config.dataset, needed) is None:
        example = {"outputs": 1, "classes": 10}[needed]
        also = f" dataset.{other}=null" if getattr(config.dataset, other) is not None else ""
        rule = f"dataset.{needed} is required and missing" + (f" for {task}" if also or needed == "outputs" else "")
        raise ConfigError(rule, remedy=f"give it, for example ++dataset.{needed}={example}{also}")
    if getattr(config.dataset, other) is not None:
        rule = f"dataset.{other} must not be given for {task}, which has dataset.{needed}"
        raise ConfigError(rule, getattr(config.dataset, other), f"set dataset.{other}=null, or choose another task")


def _check_suits(config: TrialConfig, metric: str, rule: str) -> None:
    if metric in KNOWN and config.task.target not in KNOWN[metric].tasks:
        task = config.task.target.rpartition(".")[2].lower()
        known = [name for name, one in KNOWN.items() if config.task.target in one.tasks and name != "loss"]
        raise ConfigError(f"{rule} of a {task}", metric, f"known: {', '.join(known)}")


def _check_objective(config: TrialConfig, titles: list[str]) -> None:
    objective = config.task.objective
    if objective is None:
        return
    name = bare_name(objective.name)
    if name in KNOWN and objective.mode != KNOWN[name].mode:
        rule = f"task.objective.mode must be {KNOWN[name].mode} for {name}"
        raise ConfigError(rule, objective.mode, f"set task.objective.mode={KNOWN[name].mode}")
    declared = {metric.title: metric.mode for metric in config.task.metrics if isinstance(metric, MetricConfig)}
    if declared.get(name, objective.mode) != objective.mode:
        rule = f"task.objective.mode must be that of the metric {name}, {declared[name]}"
        raise ConfigError(rule, objective.mode, "let both say the same")
    part = config.selecting_part
    if objective.name != f"{part}/{name}":
        held = f"validation_split={config.validation_split:g} " + ("holds data out" if part == "val" else "holds none")
        if config.folds is not None or config.dataset.parts.val is not None:
            held = "a fold is held out" if config.folds is not None else "dataset.parts.val is held out"
        raise ConfigError(
            f"task.objective.name must be {part}/ and the name of a metric, because {held}",
            objective.name,
            f"set task.objective.name={part}/{name}" + ("" if part == "val" else ", or validation_split=0.1"),
        )
    if config.task.target in OWN_METRIC and config.trainer is None:
        known = [*KNOWN, *titles]
        if name not in known:
            rule = "task.objective.name must be val/ or test/ and the name of a metric"
            raise ConfigError(rule, objective.name, did_you_mean(name, known))
        _check_suits(config, name, "task.objective.name must be a metric")
