"""Trials are checked with their data, and known by them."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import TensorDataset

from sweepstack.config.fingerprint import Fingerprint
from sweepstack.errors import ConfigError
from sweepstack.execution.executor import InProcessExecutor
from sweepstack.execution.prepare import prepare
from sweepstack.execution.worker import load_data_of
from sweepstack.training.tasks import Classification, Task


class Plain(Classification):
    """A classification."""


class Counts(Task):
    """Its targets are not the same tensor as those of a classification."""

    def loss(self, outputs, targets):
        return (outputs[:, 0] - targets).square().mean()

    def check_targets(self, targets, dataset, part):
        return targets.float()


def test_tasks_that_make_other_targets_of_one_dataset_can_be_swept_together(digits_config, trial):
    targets = [f"{__name__}.{name}" for name in ("Plain", "Counts", "Plain")]
    trials = [trial(number, config=digits_config({"task._target_": one})) for number, one in enumerate(targets)]
    prepared = prepare(trials, "train", InProcessExecutor()).trials
    found = [Fingerprint.parse(one.fingerprint).data for one in prepared]
    assert found == [load_data_of(one).facts.digest for one in prepared]
    assert len(set(found)) == 2


def tokens(train: bool) -> TensorDataset:
    return TensorDataset(torch.arange(60).view(20, 3) % 5, torch.arange(20) % 2)


class OfTokens(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(5, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.embed(tokens).mean(1)


def test_pictures_of_what_is_no_image_are_refused_before_anything_trains(digits_config, trial):
    dataset = {"_target_": f"{__name__}.tokens", "shape": [3], "classes": 2, "tokens": True}
    config = digits_config({"dataset": dataset, "model": {"_target_": f"{__name__}.OfTokens"}, "batch_size": 5})
    first, second = trial(0, config=config), trial(1, config=config)
    prepare([first], "train", InProcessExecutor())
    second = replace(second, run=second.run.model_copy(update={"pictures": 3}))
    with pytest.raises(ConfigError, match=r"pictures must be 0 for tokens .*, got 3; set pictures=0"):
        prepare([first, second], "train", InProcessExecutor())
