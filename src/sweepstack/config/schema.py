"""The keys of a config, as types: `TrialConfig` is what is trained, `RunConfig` how, where, and recorded where.

A new key is one line in one of the two. The fingerprint, the plan, the names of jobs and the params of records follow
from the model that it is in and from its marks (see `Mark`). `conf/config.yaml` shows it to users.

Nothing heavy is imported here: a mistake must be answered before PyTorch is loaded.
"""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from sweepstack.config.names import check_experiment, check_sweep

MAX_SEED = 2**63 - 1
GROUPS = ("dataset", "model", "optimizer", "schedule")
"""Config groups: each choice brings a whole section of the config."""


def _strict_number(value: Any) -> Any:
    """Only what YAML calls a number: neither `true` nor the text "3"."""
    if isinstance(value, bool | str):
        raise ValueError("Input should be a number")
    return value


def _epoch_or_count(value: Any) -> Any:
    """Both branches of the union in one sentence; pydantic would give a line for each."""
    if value == "epoch" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError("Input should be epoch or a number of iterations from 1")


URI_PATTERN = r"^(sqlite|postgresql|mysql|mssql|https?|databricks)\b"


Int = Annotated[int, BeforeValidator(_strict_number)]


Float = Annotated[float, BeforeValidator(_strict_number), Field(allow_inf_nan=False)]


Part = Annotated[Float, Field(ge=0, le=1)]


Model = TypeVar("Model", bound=BaseModel)


class Mark(enum.Enum):
    """What is special about a key; it stands in the key's annotation."""

    HASHED_AT_DEFAULT = enum.auto()
    """The fingerprint holds the key at its default, too: so it was in version 0.1. Any later key enters the fingerprint
    at other values only, or all trials that were trained before it came would be trained again."""
    MEASURES = enum.auto()
    """The key says when a training is measured. It changes no weights, and it is no param of the record."""
    PARSED = enum.auto()
    """`parse` checks the key completely: no check that needs PyTorch or the data depends on it."""
    PER_JOB = enum.auto()
    """Jobs of one sweep may differ in this key of `RunConfig`, and their names tell it. Without the mark, a key of
    `RunConfig` has one value for the whole sweep."""
    PER_STACK = enum.auto()
    """Trials with different values of this key of `RunConfig` cannot be trained in one stack."""
    RECORDED = enum.auto()
    """This key of `RunConfig` is a param of the record, as the keys of `TrialConfig` are."""


def marked(model: type[BaseModel], mark: Mark) -> set[str]:
    """The keys of a model that have the mark."""
    return {key for key, field in model.model_fields.items() if mark in field.metadata}


class Section(BaseModel):
    """A part of the config: unknown keys are refused, and it cannot be changed once it is parsed."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, ser_json_inf_nan="constants")


class TargetConfig(BaseModel):
    """Something named by `_target_`, a dotted path to a callable; all other keys are its keyword arguments."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True, ser_json_inf_nan="constants")

    target: Annotated[
        str, Field(alias="_target_", pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)+$", examples=["package.module.name"])
    ]

    @property
    def keywords(self) -> dict[str, Any]:
        """The keyword arguments for the target."""
        return dict(self.model_extra or {})


class DatasetConfig(TargetConfig):
    """A dataset: `target(train=True, **keywords)` and `target(train=False, **keywords)` give its two parts."""

    shape: Annotated[tuple[Annotated[Int, Field(ge=1)], ...], Field(min_length=1, examples=["[1,28,28]"])]
    classes: Annotated[Int, Field(ge=2, examples=[10])]
    mean: Annotated[Float, Field(examples=[0.0]), Mark.HASHED_AT_DEFAULT] = 0.0
    std: Annotated[Float, Field(gt=0, examples=[1.0]), Mark.HASHED_AT_DEFAULT] = 1.0


class ModelConfig(TargetConfig):
    """A model: `target(**keywords)` gives an `nn.Module` from images [N, *shape] to logits [N, classes]."""


class OptimizerConfig(TargetConfig):
    """An optimizer: `target(parameters, lr=lr, **keywords)` gives a `torch.optim.Optimizer`."""

    lr: Annotated[Float, Field(gt=0, examples=[0.01]), Mark.PARSED]


class ConstantSchedule(Section):
    kind: Literal["constant"]


class StepSchedule(Section):
    kind: Literal["step"]
    every: Annotated[Int, Field(ge=1, examples=[2])]
    gamma: Annotated[Float, Field(gt=0, le=1, examples=[0.5])]


class CosineSchedule(Section):
    kind: Literal["cosine"]
    final: Annotated[Part, Field(examples=[0.0]), Mark.HASHED_AT_DEFAULT] = 0.0


class OneCycleSchedule(Section):
    kind: Literal["one_cycle"]
    rise: Annotated[Float, Field(gt=0, lt=1, examples=[0.3]), Mark.HASHED_AT_DEFAULT] = 0.3
    start: Annotated[Part, Field(examples=[0.04]), Mark.HASHED_AT_DEFAULT] = 0.04
    final: Annotated[Part, Field(examples=[4e-6]), Mark.HASHED_AT_DEFAULT] = 4e-6


class WarmupSchedule(Section):
    kind: Literal["warmup"]
    epochs: Annotated[Float, Field(gt=0, examples=[1.0]), Mark.HASHED_AT_DEFAULT] = 1.0
    start: Annotated[Part, Field(examples=[0.1]), Mark.HASHED_AT_DEFAULT] = 0.1


ScheduleConfig = Annotated[
    ConstantSchedule | StepSchedule | CosineSchedule | OneCycleSchedule | WarmupSchedule,
    Field(discriminator="kind"),
]


class TrackingConfig(Section):
    """Where trials are recorded; null leaves the choice to the environment and the project."""

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
    """How the trials of a sweep are executed; changes no result but for rounding."""

    dry_run: Annotated[bool, Field(strict=True, examples=["true"])] = False
    stack: Annotated[bool, Field(strict=True, examples=["true"])] = True
    width: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[64])] = None


class CheckpointConfig(Section):
    """When the state of a training is saved, so that it can be resumed: after an epoch, at most every so many
    seconds."""

    every: Annotated[Float, Field(ge=0, examples=[10.0])] = 10.0
    keep: Annotated[bool, Field(strict=True, examples=["true"])] = False


class TrialConfig(Section):
    """What is trained: all that can change the weights or the metrics. Units: `lr` is the step size before the
    schedule's factor, `epochs` are passes over the training part, `validation_split` is a fraction of the training
    data, `evaluate_every` counts iterations (optimizer updates) unless it is "epoch"."""

    dataset: Annotated[DatasetConfig, Field(examples=["mnist"])]
    model: Annotated[ModelConfig, Field(examples=["logistic"])]
    optimizer: Annotated[OptimizerConfig, Field(examples=["sgd"])]
    schedule: Annotated[ScheduleConfig, Field(examples=["constant"]), Mark.PARSED]
    epochs: Annotated[Int, Field(ge=1, examples=[5]), Mark.PARSED]
    batch_size: Annotated[Int, Field(ge=1, examples=[100]), Mark.PARSED]
    seed: Annotated[Int, Field(ge=0, le=MAX_SEED, examples=[0]), Mark.PARSED, Mark.HASHED_AT_DEFAULT] = 0
    validation_split: Annotated[Float, Field(ge=0, lt=1, examples=[0.1]), Mark.HASHED_AT_DEFAULT] = 0.1
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
        """The metric that selects: on the held-out part, or on the test data when nothing is held out."""
        return "val/accuracy" if self.validation_split else "test/accuracy"


class RunConfig(Section):
    """How and where trials are trained, and where they are recorded: it changes no result but for rounding."""

    device: Annotated[
        str,
        Field(pattern=r"^(auto|cpu|mps|cuda(:(0|[1-9][0-9]{0,2}))?)$", examples=["cpu", "cuda:0"]),
        *(Mark.PER_JOB, Mark.PER_STACK, Mark.RECORDED),
    ] = "auto"
    threads: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[1]), Mark.PER_JOB, Mark.PER_STACK] = None
    pictures: Annotated[Int, Field(ge=0, le=100, examples=[10]), Mark.PER_JOB] = 0
    tracking: TrackingConfig = TrackingConfig()
    launch: LaunchConfig = LaunchConfig()
    rerun: Annotated[bool, Field(strict=True, examples=["true"])] = False
    retries: Annotated[Int, Field(ge=0, examples=[2])] = 0
    max_failures: Annotated[Annotated[Int, Field(ge=1)] | None, Field(examples=[10])] = None
    checkpoint: CheckpointConfig = CheckpointConfig()


class Config(NamedTuple):
    """All that a user's config says of one trial."""

    trial: TrialConfig
    run: RunConfig


class FlatConfig(RunConfig, TrialConfig):
    """The keys of both side by side, as users write them and as journals store them."""

    def split(self) -> Config:
        """The two parts."""
        return Config(self._part(TrialConfig), self._part(RunConfig))

    def _part(self, kind: type[Model]) -> Model:
        return kind.model_construct(**{key: getattr(self, key) for key in kind.model_fields})
