"""Loads data that tests look into, and trains stacks on data."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from sweepstack.config.schema import TrialConfig
from sweepstack.config.trial_sections import DatasetConfig, TaskConfig
from sweepstack.training.data import load
from sweepstack.training.data.memory import InMemory
from sweepstack.training.data.source import Data as AnyData
from sweepstack.training.stacked import build
from sweepstack.training.stacked.loop import train_stack
from sweepstack.training.stacked.members import TrialReader
from sweepstack.trial import Outcome


@dataclass(frozen=True, eq=False, kw_only=True)
class Data(InMemory):
    """Data in memory whose inputs are one tensor."""

    images: Tensor
    test_images: Tensor


def load_data(
    config: DatasetConfig, validation_split: float, device: torch.device, task: TaskConfig = load.CLASSES
) -> Data:
    """The data of a dataset."""
    found = load.load_data(config, validation_split, device, task)
    return Data(**{field.name: getattr(found, field.name) for field in fields(found)})


def train_stacked(configs: Sequence[TrialConfig], data: AnyData) -> list[Outcome]:
    """How trials end that are trained as one stack."""
    ended: dict[int, Outcome] = {}

    def reader(index: int, config: TrialConfig) -> TrialReader:
        return TrialReader(config, lambda measurement: None, lambda outcome: ended.update({index: outcome}))

    readers = [[reader(index, config)] for index, config in enumerate(configs)]
    shape = configs[0].dataset.shape or ()
    train_stack(readers, data, build.build_stacked_model(configs, shape, data.device, data.some()))
    return [ended[index] for index in range(len(configs))]
