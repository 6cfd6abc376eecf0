"""The keys of a config, as types: `TrialConfig` is what is trained, `RunConfig` how, where, and recorded where.

A new key is one line in one of the two. The fingerprint, the plan, the names of jobs and the params of records follow
from the model that has the key and from the marks of the key (see `Mark`). `conf/config.yaml` shows it to users.

This file imports nothing heavy, so that a mistake is reported before PyTorch is loaded.
"""

from __future__ import annotations

import enum
import sys
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
)

from sweepstack.config.names import URI_PATTERN, check_experiment, check_sweep
from sweepstack.metrics import CLASSIFICATION, KNOWN, OWN_METRIC, Mode, bare_name

MAX_SEED = 2**63 - 1
"""The largest seed that PyTorch accepts."""
MAX_SEARCH_SEED = 2**32 - 1
"""The largest seed of a search, which NumPy accepts."""
GROUPS = ("dataset", "model", "optimizer", "schedule")
"""The config groups: each choice in a group brings a whole section of the config."""


def _strict_number(value: Any) -> Any:
    """Refuses `true` and the text "3", which pydantic would take as numbers."""
    if isinstance(value, bool | str):
        raise ValueError("Input should be a number")
    return value


def _epoch_or_count(value: Any) -> Any:
    """Checks both branches of the union with one message; pydantic would give one for each."""
    if value == "epoch" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError("Input should be epoch or a number of iterations from 1")


def _flag_or_force(value: Any) -> Any:
    """Checks both branches of the union with one message; pydantic would give one for each."""
    if isinstance(value, bool) or value == "force":
        return value
    raise ValueError("Input should be true, false or force")


TARGET_PATTERN = r"^[^\W\d]\w*(\.[^\W\d]\w*)+$"
"""Matches a dotted path."""
Int = Annotated[int, BeforeValidator(_strict_number)]
Float = Annotated[float, BeforeValidator(_strict_number), Field(allow_inf_nan=False)]
Fraction = Annotated[Float, Field(ge=0, le=1)]
Model = TypeVar("Model", bound=BaseModel)


class Mark(enum.Enum):
    """A special property of a key; it is part of the key's annotation."""

    HASHED_AT_DEFAULT = enum.auto()
    """The key enters the fingerprint even at its default, as it did in version 0.1. A later key must not have this
    mark: it would change the fingerprints of all earlier trials, so that they would be trained again."""
    IN_DIGEST = enum.auto()
    """The key does not enter the fingerprint, because the checksum of the data says what it changes."""
    LATER = enum.auto()
    """Version 0.1 did not have this key of `RunConfig`. Journals name it only once it is used."""
    MEASURES = enum.auto()
    """The key says when a training is measured. If measurements decide what is trained or kept (see
    `TrialConfig.measurements_decide`), it is a param of the record; else it changes no weights, and is no param."""
    PARSED = enum.auto()
    """`parse` checks the key completely: no check that needs PyTorch or the data depends on it."""
    PER_JOB = enum.auto()
    """Jobs of one sweep may differ in this key of `RunConfig`, and their names then show it. Without the mark, a key of
    `RunConfig` has one value for the whole sweep."""
    PER_STACK = enum.auto()
    """Trials with different values of this key of `RunConfig` cannot be trained in one stack."""
    RECORDED = enum.auto()
    """This key of `RunConfig` is a param of the record, as the keys of `TrialConfig` are."""


def marked(model: type[BaseModel], mark: Mark) -> set[str]:
    """Returns the keys of a model that have a mark."""
    return {key for key, field in model.model_fields.items() if mark in field.metadata}


def unused(config: BaseModel) -> dict[str, Any]:
    """The keys of a config that version 0.1 did not have and that are at their defaults, in the form that pydantic's
    `exclude` takes.

    Fingerprints, records and journals name such a key only once it is used.
    """
    if isinstance(config, RunConfig):
        later_keys = marked(RunConfig, Mark.LATER)
        return {key: True for key in later_keys if getattr(config, key) == RunConfig.model_fields[key].default}
    found: dict[str, Any] = {}
    always = marked(type(config), Mark.HASHED_AT_DEFAULT)
    for key, field in type(config).model_fields.items():
        value = getattr(config, key)
        later = not field.is_required() and key not in always
        if later and value == field.get_default(call_default_factory=True):
            found[key] = True
        elif isinstance(value, BaseModel) and (inside := unused(value)):
            found[key] = inside
    return found


class Section(BaseModel):
    """A part of the config. It refuses unknown keys, and cannot be changed after it was parsed."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, ser_json_inf_nan="constants")


class TargetConfig(BaseModel):
    """A callable that `_target_` names by a dotted path; all other keys are its keyword arguments."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True, ser_json_inf_nan="constants")

    target: Annotated[str, Field(alias="_target_", pattern=TARGET_PATTERN, examples=["package.module.name"])]

    @property
    def keywords(self) -> dict[str, Any]:
        """The keyword arguments for the target."""
        return dict(self.model_extra or {})


def _number_or_channels(value: Any) -> Any:
    """Checks both branches of the union with one message; pydantic would give one for each."""
    for part in value if isinstance(value, list | tuple) else [value]:
        if isinstance(part, bool) or not isinstance(part, int | float):
            raise ValueError("Input should be a number, or a list with one for each channel")
        if not abs(part) <= sys.float_info.max:
            raise ValueError("Input should be a finite number")
    return value


def _text_of_number(value: Any) -> Any:
    """Returns a number, such as 5 or 1.5, as its text."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


class PartsConfig(Section):
    """The keywords of a dataset's target that make its parts.

    If there is a part `val`, it is held out. Without a part `test` (null), nothing is measured on test data.
    """

    train: Annotated[dict[str, Any], Field(examples=["{split:train}"])] = {"train": True}
    val: Annotated[dict[str, Any] | None, Field(examples=["{split:valid}"])] = None
    test: Annotated[dict[str, Any] | None, Field(examples=["{split:test}"])] = {"train": False}

    def __hash__(self) -> int:
        return hash(self.model_dump_json())


class CollateConfig(TargetConfig):
    """What makes a batch of items: `target(items, **keywords)` gives their inputs and targets as two tensors, or the
    inputs as a tuple or a dict of tensors."""


class DatasetConfig(TargetConfig):
    """A dataset: `target(**keywords, **parts.train)` and `target(**keywords, **parts.test)` return its parts; these are
    by default `train=True` and `train=False`.

    `shape` is that of the input of one item; without it, an input may have any shape, and be a tuple or a dict of
    tensors. With `tokens`, inputs are whole numbers and stay so. `mean` and `std` are for all numbers, or for each
    channel. `source` says where items are while they are trained on; it changes no figure of a dataset that draws
    nothing. `identity` is a name of one's own for data that are streamed, in place of a checksum of all of their bytes.
    """

    shape: Annotated[
        Annotated[tuple[Annotated[Int, Field(ge=1)], ...], Field(min_length=1)] | None, Field(examples=["[1,28,28]"])
    ] = None
    classes: Annotated[Annotated[Int, Field(ge=2)] | None, Field(examples=[10])] = None
    """The number of classes, or of labels; of a regression None."""
    outputs: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[1])] = None
    """The number of numbers that a regression predicts; of classes None."""
    mean: Annotated[
        float | tuple[float, ...],
        BeforeValidator(_number_or_channels),
        Field(examples=[0.0, "[0.5,0.5,0.5]"]),
        Mark.HASHED_AT_DEFAULT,
    ] = 0.0
    std: Annotated[
        float | tuple[float, ...],
        BeforeValidator(_number_or_channels),
        Field(examples=[1.0, "[0.2,0.2,0.2]"]),
        Mark.HASHED_AT_DEFAULT,
    ] = 1.0
    parts: PartsConfig = PartsConfig()
    tokens: Annotated[bool, Field(strict=True, examples=["true"])] = False
    collate_fn: Annotated[CollateConfig | None, Field(examples=["{_target_:my_module.pad}"])] = None
    source: Annotated[Literal["auto", "memory", "mapped", "streamed"], Field(examples=["streamed"]), Mark.IN_DIGEST] = (
        "auto"
    )
    identity: Annotated[
        Annotated[str, Field(min_length=1)] | None,
        BeforeValidator(_text_of_number),
        Field(examples=["2026-11"]),
        Mark.IN_DIGEST,
    ] = None

    @field_validator("mean", "std")
    @classmethod
    def _check_channels(cls, value: Any, info: ValidationInfo) -> Any:
        channels = value if isinstance(value, tuple) else (value,)
        if info.field_name == "std" and not all(part > 0 for part in channels):
            raise ValueError("Input should be greater than 0")
        if isinstance(value, tuple) and "shape" in info.data:  # not there if it is wrong itself
            shape = info.data["shape"]
            if shape is None:
                raise ValueError("Input should be one number, because dataset.shape=null names no channels")
            if len(value) != shape[0]:
                raise ValueError(f"Input should have as many numbers as dataset.shape has channels ({shape[0]})")
        return value


class ModelConfig(TargetConfig):
    """A model: `target(**keywords)` returns an `nn.Module` from images [N, *shape] to the outputs of the task.

    The outputs of a classification are logits [N, classes].
    """


class GroupConfig(BaseModel):
    """Parameters that have values of their own for some keywords of the optimizer, such as `lr` and `weight_decay`.

    `params` are patterns of parameter names, such as `head.*`, and the words `biases` and `norms` (the parameters of
    normalization layers).
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    params: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
        Field(min_length=1, examples=["[biases,norms]"]),
    ]

    @property
    def keywords(self) -> dict[str, Any]:
        """The values of its own."""
        return dict(self.model_extra or {})


class OptimizerConfig(TargetConfig):
    """An optimizer: `target(parameters, lr=lr, **keywords)` returns a `torch.optim.Optimizer`.

    A parameter is in the first of the `groups` that names it; all others have the values of the optimizer.
    """

    lr: Annotated[Float, Field(gt=0, examples=[0.01]), Mark.PARSED]
    groups: Annotated[tuple[GroupConfig, ...], Field(examples=["[{params:[biases,norms],weight_decay:0}]"])] = ()


class LossConfig(TargetConfig):
    """A loss: `target(**keywords)` gives a callable.

    It takes the outputs of a batch and its targets (of classes logits [n, classes] and labels int64 [n]), and gives
    their mean loss, a tensor without axes that has a gradient. A keyword `weight` or `pos_weight` that is a list of
    numbers becomes a tensor.
    """


class StepConfig(TargetConfig):
    """A training step: `target(model, (images, targets), loss, **keywords)` gives the loss of a batch, a tensor without
    axes. `loss(outputs, targets)` is that of the task."""


class MetricConfig(TargetConfig):
    """A metric of one's own: `target(outputs, targets, **keywords)` gives one number for a whole part of the data.

    `mode` says which values are better; `proportion` that they are from 0 to 1. By default its name is that of the
    function.
    """

    name: Annotated[Annotated[str, Field(pattern=r"^[\w\-. ]+$")] | None, Field(examples=["top5"])] = None
    mode: Annotated[Mode, Field(examples=["max"])]
    proportion: Annotated[bool, Field(strict=True, examples=["true"])] = False

    @property
    def title(self) -> str:
        """Its name in records, after the part of the data: `val/title`."""
        return self.name or self.target.rpartition(".")[2]


class ObjectiveConfig(Section):
    """The metric that selects trials, with the part of the data that it is measured on, and which values are better."""

    name: Annotated[str, Field(min_length=1, examples=["val/rmse"])]
    mode: Annotated[Mode, Field(examples=["min"])]


METRIC_TAGS = ("known", "own")
MetricChoice = Annotated[
    Annotated[str, Tag("known")] | Annotated[MetricConfig, Tag("own")],
    Discriminator(lambda value: "known" if isinstance(value, str) else "own"),
]


class TaskConfig(TargetConfig):
    """What is learned: the loss that a training minimizes, what it is measured by, and what selects trials.

    Without `loss` it is that of the task: the cross entropy, or the mean squared error. `metrics` are measured beside
    the loss and the task's own metric. Without `objective`, the task's own metric selects.
    """

    target: Annotated[str, Field(alias="_target_", pattern=TARGET_PATTERN, examples=[CLASSIFICATION])] = CLASSIFICATION
    loss: Annotated[LossConfig | None, Field(examples=["{_target_:torch.nn.CrossEntropyLoss,label_smoothing:0.1}"])] = (
        None
    )
    metrics: Annotated[tuple[MetricChoice, ...], Field(examples=["[f1_macro,auroc]"])] = ()
    objective: Annotated[ObjectiveConfig | None, Field(examples=["{name:val/f1_macro,mode:max}"])] = None

    def mode_of(self, metric: str) -> Mode | None:
        """Returns whether small or large values of a metric are better; None if nothing says so."""
        if self.objective is not None and bare_name(metric) == bare_name(self.objective.name):
            return self.objective.mode
        name = bare_name(metric)
        own = {one.title: one.mode for one in self.metrics if isinstance(one, MetricConfig)}
        return own.get(name) or (KNOWN[name].mode if name in KNOWN else None)


class TrainerConfig(TargetConfig):
    """A loop of one's own: `target(config, context, **keywords)` trains a trial; see `training/own_loop.py`."""


class ConstantSchedule(Section):
    """The learning rate stays as it is."""

    kind: Literal["constant"]


class StepSchedule(Section):
    """The learning rate is multiplied by `gamma` after each `every` epochs."""

    kind: Literal["step"]
    every: Annotated[Int, Field(ge=1, examples=[2])]
    gamma: Annotated[Float, Field(gt=0, le=1, examples=[0.5])]


class CosineSchedule(Section):
    """The learning rate falls along half a cosine to `final` times its size."""

    kind: Literal["cosine"]
    final: Annotated[Fraction, Field(examples=[0.0]), Mark.HASHED_AT_DEFAULT] = 0.0


class OneCycleSchedule(Section):
    """The learning rate rises from `start` times its size to its size in the first part `rise` of the steps, then falls
    to `final` times its size."""

    kind: Literal["one_cycle"]
    rise: Annotated[Float, Field(gt=0, lt=1, examples=[0.3]), Mark.HASHED_AT_DEFAULT] = 0.3
    start: Annotated[Fraction, Field(examples=[0.04]), Mark.HASHED_AT_DEFAULT] = 0.04
    final: Annotated[Fraction, Field(examples=[4e-6]), Mark.HASHED_AT_DEFAULT] = 4e-6


class WarmupSchedule(Section):
    """The learning rate rises from `start` times its size to its size in the first `epochs` epochs, then stays."""

    kind: Literal["warmup"]
    epochs: Annotated[Float, Field(gt=0, examples=[1.0]), Mark.HASHED_AT_DEFAULT] = 1.0
    start: Annotated[Fraction, Field(examples=[0.1]), Mark.HASHED_AT_DEFAULT] = 0.1


class WarmupCosineSchedule(Section):
    """The learning rate rises from `start` times its size to its size in the first `epochs` epochs, then falls along
    half a cosine to `final` times its size."""

    kind: Literal["warmup_cosine"]
    epochs: Annotated[Float, Field(gt=0, examples=[1.0])] = 1.0
    start: Annotated[Fraction, Field(examples=[0.1])] = 0.1
    final: Annotated[Fraction, Field(examples=[0.0])] = 0.0


class PlateauSchedule(Section):
    """The learning rate is multiplied by `factor` after more than `patience` measurements in a row without a better
    objective, as `torch.optim.lr_scheduler.ReduceLROnPlateau` with threshold 0 does; it stays at least `min_factor`
    times its size."""

    kind: Literal["plateau"]
    factor: Annotated[Float, Field(gt=0, lt=1, examples=[0.1])] = 0.1
    patience: Annotated[Int, Field(ge=0, examples=[10])] = 10
    min_factor: Annotated[Fraction, Field(examples=[0.0])] = 0.0


class OwnSchedule(TargetConfig):
    """A schedule of one's own: `target(step, steps_per_epoch, epochs, **keywords)` gives the factor on the learning
    rate of an update; `step` counts from 0, `epochs` are those of the whole training."""


SCHEDULE_TAGS = ("by kind", "by target")
ScheduleConfig = Annotated[
    Annotated[
        ConstantSchedule
        | StepSchedule
        | CosineSchedule
        | OneCycleSchedule
        | WarmupSchedule
        | WarmupCosineSchedule
        | PlateauSchedule,
        Field(discriminator="kind"),
        Tag("by kind"),
    ]
    | Annotated[OwnSchedule, Tag("by target")],
    Discriminator(
        lambda value: SCHEDULE_TAGS[isinstance(value, OwnSchedule) or (isinstance(value, dict) and "_target_" in value)]
    ),
]


class TrackingConfig(Section):
    """Where trials are recorded. With null, the environment or the project decides."""

    uri: Annotated[
        str | None,
        Field(
            pattern=URI_PATTERN,
            examples=["http://127.0.0.1:5000"],
        ),
    ] = None
    journal: Annotated[str | None, Field(min_length=1, examples=["mlruns/journal"])] = None
    experiment: Annotated[
        Annotated[str, AfterValidator(check_experiment)] | None, Field(min_length=1, examples=["train"])
    ] = None
    sweep: Annotated[str, Field(min_length=1, examples=["my_sweep"]), AfterValidator(check_sweep)] = "unnamed"


class LaunchConfig(Section):
    """How the trials of a sweep are executed. It changes results by rounding at most."""

    dry_run: Annotated[bool, Field(strict=True, examples=["true"])] = False
    stack: Annotated[bool | Literal["force"], BeforeValidator(_flag_or_force), Field(examples=["true"])] = True
    width: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[64])] = None


ENGINE_KEYS = {
    "address": ("dask",),
    "tls_ca": ("dask",),
    "tls_cert": ("dask",),
    "tls_key": ("dask",),
    "partition": ("slurm",),
    "account": ("slurm",),
    "minutes": ("slurm",),
    "memory_gb": ("slurm",),
    "setup": ("slurm",),
    "detach": ("slurm",),
    "cores": ("slurm", "local"),
    "gpus_per_worker": ("slurm", "local"),
}
"""Keys of `engine` that only some engines have."""


class EngineConfig(Section):
    """Who trains the stacks of a sweep. It changes results by rounding at most.

    `auto` is `inline` or `local`, whichever the plan says is faster. `workers` train side by side: so many processes,
    Slurm jobs or Dask tasks at once. `cores` and `gpus_per_worker` are for each of them; less than one GPU is a share
    of one. `lease` is the time in seconds without a sign of life after which a worker counts as lost. With `detach`,
    jobs go on when the command is ended. `setup` are shell commands that a Slurm job runs first.
    """

    name: Annotated[Literal["auto", "inline", "local", "slurm", "dask"], Field(examples=["local"])] = "auto"
    workers: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[4])] = None
    cores: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[2])] = None
    gpus_per_worker: Annotated[Annotated[Float, Field(gt=0)] | None, Field(examples=[1])] = None
    lease: Annotated[Float, Field(ge=1, examples=[60])] = 60.0
    detach: Annotated[bool, Field(strict=True, examples=["true"])] = False
    address: Annotated[Annotated[str, Field(min_length=1)] | None, Field(examples=["tcp://scheduler:8786"])] = None
    tls_ca: Annotated[Annotated[str, Field(min_length=1)] | None, Field(examples=["ca.pem"])] = None
    tls_cert: Annotated[Annotated[str, Field(min_length=1)] | None, Field(examples=["cert.pem"])] = None
    tls_key: Annotated[Annotated[str, Field(min_length=1)] | None, Field(examples=["key.pem"])] = None
    partition: Annotated[Annotated[str, Field(min_length=1)] | None, Field(examples=["gpu"])] = None
    account: Annotated[Annotated[str, Field(min_length=1)] | None, Field(examples=["physics"])] = None
    minutes: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[60])] = None
    memory_gb: Annotated[Annotated[Float, Field(gt=0)] | None, Field(examples=[8])] = None
    setup: Annotated[tuple[str, ...], Field(examples=["[module load cuda]"])] = ()

    @field_validator(*ENGINE_KEYS)
    @classmethod
    def _check_engine(cls, value: Any, info: ValidationInfo) -> Any:
        engines = ENGINE_KEYS[str(info.field_name)]
        default = cls.model_fields[str(info.field_name)].default
        if value != default and info.data.get("name", engines[0]) not in engines:
            raise ValueError(f"Input should be {default}, because it is a key of engine={' and engine='.join(engines)}")
        return value

    @field_validator("gpus_per_worker")
    @classmethod
    def _check_whole(cls, value: float | None) -> float | None:
        if value is not None and value > 1 and value != int(value):
            raise ValueError("Input should be a whole number, or a share below 1")
        return value


class OwnEngine(TargetConfig):
    """An engine of one's own: `target(journal, lease, **keywords)` gives an `Executor`; `workers` is one of the
    keywords, unless it is null."""

    name: Annotated[Literal["own"], BeforeValidator(lambda _: "own")] = "own"
    workers: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[4])] = None
    lease: Annotated[Float, Field(ge=1, examples=[60])] = 60.0
    cores: ClassVar[None] = None


ENGINE_TAGS = ("by name", "by target of an executor")
AnyEngine = Annotated[
    Annotated[EngineConfig, Tag(ENGINE_TAGS[0])] | Annotated[OwnEngine, Tag(ENGINE_TAGS[1])],
    Discriminator(
        lambda value: ENGINE_TAGS[isinstance(value, OwnEngine) or (isinstance(value, dict) and "_target_" in value)]
    ),
]


PRUNER_KEYS = {
    "factor": ("halving", "hyperband"),
    "min_trials": ("median",),
    "bound": ("threshold",),
    "patience": ("patient",),
    "min_delta": ("patient",),
}
"""Keys of `pruner` that only some pruners have."""


class PrunerConfig(Section):
    """Which trials of a sweep end before their last epoch, by the objective on held-out data. Trials that differ only
    in seed and fold are judged together, by their mean.

    `halving`: of the settings that reach `min_epochs`, and each `factor` times as many epochs, one in `factor` goes on.
    `hyperband`: the same in several brackets that begin later and later. `median`: a setting ends whose best value is
    worse than the median of the running means of at least `min_trials` settings. `threshold`: one ends that is worse
    than `bound`. `patient`: one ends that has not got better by more than `min_delta` for `patience` epochs. With
    `keep`, the state of a pruned trial is kept, so that it can be trained to its end.
    """

    name: Annotated[
        Literal["none", "halving", "hyperband", "median", "threshold", "patient"], Field(examples=["halving"])
    ] = "none"
    factor: Annotated[Int, Field(ge=2, examples=[3])] = 3
    min_epochs: Annotated[Int, Field(ge=1, examples=[1])] = 1
    min_trials: Annotated[Int, Field(ge=2, examples=[4])] = 4
    bound: Annotated[Float | None, Field(examples=[0.5])] = None
    patience: Annotated[Int, Field(ge=1, examples=[3])] = 3
    min_delta: Annotated[Float, Field(ge=0, examples=[0.0])] = 0.0
    keep: Annotated[bool, Field(strict=True, examples=["true"])] = True

    @field_validator(*PRUNER_KEYS)
    @classmethod
    def _check_pruner(cls, value: Any, info: ValidationInfo) -> Any:
        pruners = PRUNER_KEYS[str(info.field_name)]
        default = cls.model_fields[str(info.field_name)].default
        if value != default and info.data.get("name", pruners[0]) not in pruners:
            shown = "null" if default is None else default
            raise ValueError(f"Input should be {shown}, because it is a key of pruner={' and pruner='.join(pruners)}")
        return value

    @property
    def compares(self) -> bool:
        """True if a trial is judged by those of other settings."""
        return self.name in ("halving", "hyperband", "median")


class CheckpointConfig(Section):
    """When the state of a training is saved, so that it can be resumed: after an epoch, if `every` seconds have passed
    since the last time. `keep` keeps the checkpoints of trials that have ended."""

    every: Annotated[Float, Field(ge=0, examples=[10.0])] = 10.0
    keep: Annotated[bool, Field(strict=True, examples=["true"])] = False


def _check_groups(groups: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    if any(len(group) < 2 for group in groups):
        raise ValueError("Input should have groups of two or more keys")
    keys = [key for group in groups for key in group]
    if len({*keys}) < len(keys):
        raise ValueError("Input should name each key once")
    return groups


def _pairs(value: Any) -> Any:
    """Converts conditions by key to pairs; recorded ones are pairs already."""
    if not isinstance(value, dict | list | tuple):
        raise ValueError("Input should have keys")
    if isinstance(value, dict):
        if not all(isinstance(one, str) and "=" in one for one in value.values()):
            raise ValueError("Input should have conditions such as KEY=VALUE")
        return tuple(value.items())
    return value


class SearchConfig(Section):
    """Which settings of a sweep are trained: the whole grid, or points of a space that a search chooses one after the
    other. It changes no weights.

    The budget is a number of `trials`, of trial-epochs (`epochs`), of `minutes` of each command, or ends after
    `patience` points in a row without a better objective; whichever is used up first. `seeds` trials of each point,
    with seeds from `seed` of the config on, make its objective by their mean. At most `width` points are trained at a
    time. `seed` is that of the search. `zip` names keys whose lists are read side by side instead of multiplied, `when`
    searched keys that a point has only if another one has a certain value.
    """

    name: Annotated[
        Literal["grid", "random", "qmc", "tpe", "cmaes", "gp", "nsga2"],
        Field(examples=["tpe"]),
    ] = "grid"
    trials: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[64])] = None
    epochs: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[320])] = None
    minutes: Annotated[Annotated[Float, Field(gt=0)] | None, Field(examples=[30])] = None
    patience: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[20])] = None
    seed: Annotated[Int, Field(ge=0, le=MAX_SEARCH_SEED, examples=[0])] = 0
    seeds: Annotated[Int, Field(ge=1, examples=[3])] = 1
    width: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[8])] = None
    zip: Annotated[
        tuple[tuple[str, ...], ...],
        AfterValidator(_check_groups),
        Field(examples=["[[batch_size,optimizer.lr]]"]),
    ] = ()
    when: Annotated[
        tuple[tuple[str, str], ...],
        BeforeValidator(_pairs),
        Field(examples=["{optimizer.momentum: optimizer=sgd}"]),
    ] = ()


class EarlyStoppingConfig(Section):
    """Ends a training at the measurement that is the `patience`-th in a row whose objective is not better than the best
    before by more than `min_delta`. The trial is FINISHED. Without `patience`, no training ends early."""

    patience: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[3])] = None
    min_delta: Annotated[Float, Field(ge=0, examples=[0.0])] = 0.0


class AugmentConfig(Section):
    """Random changes of training images, drawn for each image in each epoch; by default none.

    `crop` pads with so many zero pixels on each side and cuts out the old size, `flip` and `erase` are probabilities of
    a change from left to right and of a zero rectangle. `transforms` are of torchvision.transforms.v2 or your own: they
    change one image, in worker processes, before the others.
    """

    crop: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[4])] = None
    flip: Annotated[Fraction, Field(examples=[0.5])] = 0.0
    erase: Annotated[Fraction, Field(examples=[0.25])] = 0.0
    transforms: Annotated[
        tuple[TargetConfig, ...],
        Field(examples=["[{_target_:torchvision.transforms.v2.RandomRotation,degrees:10}]"]),
    ] = ()


class SplitConfig(Section):
    """How training items are held out: `stratified` by their class, and `grouped`, so that the items of a group stay
    together. The attribute `groups` of the dataset has the group of each item."""

    stratified: Annotated[bool, Field(strict=True, examples=["true"])] = False
    grouped: Annotated[bool, Field(strict=True, examples=["true"])] = False


class HeldOut(NamedTuple):
    """The training items that are held out: a fraction of them, or one of several folds."""

    fraction: float = 0.0
    stratified: bool = False
    grouped: bool = False
    folds: int | None = None
    fold: int | None = None


class TrialConfig(Section):
    """What is trained: all that can change the weights or the metrics.

    Units: `lr` is the step size before the schedule's factor, `epochs` are passes over the training part, `clip_norm`
    bounds the norm of all gradients of an update together, `accumulate` counts batches for each update (the last update
    of an epoch may have fewer), `validation_split` is a fraction of the training data, `evaluate_every` counts
    iterations (optimizer updates) unless it is "epoch".

    With `folds`, the training data are cut into so many parts, and the one of number `fold`, from 0, is held out
    instead of that fraction. Trials that differ only in `fold` and `seed` are one setting.

    `ema` is the decay of an exponential moving average of the parameters after each update; the averaged ones are
    measured and kept. With `keep_best`, the weights, the predictions and all metrics are those of the measurement with
    the best objective.
    """

    dataset: Annotated[DatasetConfig, Field(examples=["mnist"])]
    model: Annotated[ModelConfig, Field(examples=["logistic"])]
    optimizer: Annotated[OptimizerConfig, Field(examples=["sgd"])]
    task: TaskConfig = TaskConfig()
    trainer: Annotated[TrainerConfig | None, Field(examples=["{_target_:my_module.train}"])] = None
    augment: AugmentConfig = AugmentConfig()
    schedule: Annotated[ScheduleConfig, Field(examples=["constant"]), Mark.PARSED]
    epochs: Annotated[Int, Field(ge=1, examples=[5]), Mark.PARSED]
    batch_size: Annotated[Int, Field(ge=1, examples=[100]), Mark.PARSED]
    drop_last: Annotated[bool, Field(strict=True, examples=["true"])] = False
    seed: Annotated[Int, Field(ge=0, le=MAX_SEED, examples=[0]), Mark.PARSED, Mark.HASHED_AT_DEFAULT] = 0
    step: Annotated[StepConfig | None, Field(examples=["{_target_:my.step}"])] = None
    clip_norm: Annotated[Annotated[Float, Field(gt=0)] | None, Field(examples=[1.0])] = None
    accumulate: Annotated[Int, Field(ge=1, examples=[4]), Mark.PARSED] = 1
    ema: Annotated[Annotated[Float, Field(gt=0, lt=1)] | None, Field(examples=[0.999]), Mark.PARSED] = None
    early_stopping: Annotated[EarlyStoppingConfig, Mark.PARSED] = EarlyStoppingConfig()
    keep_best: Annotated[bool, Field(strict=True, examples=["true"]), Mark.PARSED] = False
    validation_split: Annotated[Float, Field(ge=0, lt=1, examples=[0.1]), Mark.HASHED_AT_DEFAULT] = 0.1
    split: SplitConfig = SplitConfig()
    folds: Annotated[Annotated[Int, Field(ge=2)] | None, Field(examples=[5])] = None
    fold: Annotated[Annotated[Int, Field(ge=0)] | None, Field(examples=[0])] = None
    evaluate_every: Annotated[
        Literal["epoch"] | int,
        BeforeValidator(_epoch_or_count),
        Field(examples=["epoch", 200]),
        *(Mark.MEASURES, Mark.PARSED, Mark.HASHED_AT_DEFAULT),
    ] = "epoch"
    precision: Annotated[Literal["float32", "bfloat16"], Field(examples=["float32"]), Mark.HASHED_AT_DEFAULT] = (
        "float32"
    )

    @property
    def objective(self) -> str:
        """The metric that selects the best trial: on the held-out data, or on the test data if nothing is held out."""
        if self.task.objective is not None:
            return self.task.objective.name
        return f"{self.selecting_part}/{OWN_METRIC.get(self.task.target, 'loss')}"

    @property
    def mode(self) -> Mode:
        """Whether the smallest or the largest value of the objective is the best."""
        return self.task.mode_of(self.objective) or "min"

    @property
    def measurements_decide(self) -> bool:
        """True if it may change the weights or the metrics when the trial is measured."""
        by_measurement = isinstance(self.schedule, PlateauSchedule) or self.early_stopping.patience is not None
        return by_measurement or self.keep_best or self.trainer is not None

    @property
    def selecting_part(self) -> str:
        """The part of the data that trials are measured on while they train: "val"; "test" if nothing is held out."""
        holds_out = self.folds is not None or self.dataset.parts.val is not None or self.validation_split
        return "val" if holds_out else "test"

    @property
    def held_out(self) -> HeldOut:
        """The items of the training part that are held out; none if the dataset has a part of its own for that."""
        is_drawn = self.folds is None and self.dataset.parts.val is None
        fraction = self.validation_split if is_drawn else 0.0
        return HeldOut(fraction, self.split.stratified, self.split.grouped, self.folds, self.fold)


class RunConfig(Section):
    """How and where trials are trained, and where they are recorded. It changes results by rounding at most."""

    device: Annotated[
        str,
        Field(pattern=r"^(auto|cpu|mps|cuda(:(0|[1-9][0-9]{0,2}))?)$", examples=["cpu", "cuda:0"]),
        *(Mark.PER_JOB, Mark.PER_STACK, Mark.RECORDED),
    ] = "auto"
    threads: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[1]), Mark.PER_JOB, Mark.PER_STACK] = None
    workers: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[4]), Mark.PER_JOB, Mark.LATER] = None
    eval_batch_size: Annotated[
        Annotated[Int, Field(ge=1)] | None, Field(examples=[500]), *(Mark.PER_JOB, Mark.PER_STACK, Mark.LATER)
    ] = None
    pictures: Annotated[Int, Field(ge=0, le=100, examples=[10]), Mark.PER_JOB] = 0
    tracking: TrackingConfig = TrackingConfig()
    launch: LaunchConfig = LaunchConfig()
    engine: Annotated[AnyEngine, Mark.LATER] = EngineConfig()
    pruner: Annotated[PrunerConfig, Field(examples=["halving"]), Mark.LATER] = PrunerConfig()
    search: Annotated[SearchConfig, Mark.LATER] = SearchConfig()
    rerun: Annotated[bool, Field(strict=True, examples=["true"])] = False
    retries: Annotated[Int, Field(ge=0, examples=[2])] = 0
    max_failures: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[10])] = None
    checkpoint: CheckpointConfig = CheckpointConfig()


class Config(NamedTuple):
    """The config of one trial."""

    trial: TrialConfig
    run: RunConfig


class FlatConfig(RunConfig, TrialConfig):
    """The keys of both configs side by side, as users write them and as journals store them."""

    def both(self) -> Config:
        """Returns the two configs."""
        return Config(self._part(TrialConfig), self._part(RunConfig))

    def _part(self, kind: type[Model]) -> Model:
        return kind.model_construct(**{key: getattr(self, key) for key in kind.model_fields})
