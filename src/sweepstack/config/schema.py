"""The keys of a config, as types: `TrialConfig` is what is trained, `RunConfig` how, where, and recorded where.

A new key is one line in one of the two. The fingerprint, the plan, the names of jobs and the params of records follow
from the model that has the key and from the marks of the key (see `Mark`). `conf/config.yaml` shows it to users.

This file imports nothing heavy, so that a mistake is reported before PyTorch is loaded.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, Field

from sweepstack.config.names import GROUPS as GROUPS
from sweepstack.config.run_sections import (
    AnyEngine,
    CheckpointConfig,
    EngineConfig,
    LaunchConfig,
    PrunerConfig,
    SearchConfig,
    TrackingConfig,
)
from sweepstack.config.schedule_sections import PlateauSchedule, ScheduleConfig
from sweepstack.config.sections import Float, Int, Mark, Section, marked
from sweepstack.config.trial_sections import (
    AugmentConfig,
    DatasetConfig,
    EarlyStoppingConfig,
    ModelConfig,
    OptimizerConfig,
    SplitConfig,
    StepConfig,
    TaskConfig,
    TrainerConfig,
)
from sweepstack.metrics import OWN_METRIC, Mode

MAX_SEED = 2**63 - 1
"""The largest seed that PyTorch accepts."""


def _epoch_or_count(value: Any) -> Any:
    """Checks both branches of the union with one message; pydantic would give one for each."""
    if value == "epoch" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError("Input should be epoch or a number of iterations from 1")


Model = TypeVar("Model", bound=BaseModel)


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
