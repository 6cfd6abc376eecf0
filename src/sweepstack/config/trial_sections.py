"""The sections of the config that say what is trained; see `TrialConfig`."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationInfo, field_validator

from sweepstack.config.sections import TARGET_PATTERN, Float, Fraction, Int, Mark, Section, TargetConfig
from sweepstack.metrics import CLASSIFICATION, KNOWN, Mode, bare_name


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

    train: dict[str, Any] = Field({"train": True}, examples=["{split:train}"])
    val: dict[str, Any] | None = Field(None, examples=["{split:valid}"])
    test: dict[str, Any] | None = Field({"train": False}, examples=["{split:test}"])

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
