"""The section `schedule` of the config: how the learning rate changes while a trial trains."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from sweepstack.config.sections import Float, Fraction, Int, Mark, Section, TargetConfig


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
