"""A model is checked with images of its dataset, as it is trained and as it is evaluated, before anything trains."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from sweepstack.config.schema import TrialConfig
from sweepstack.errors import ConfigError
from sweepstack.inference.weights import has_kinks
from sweepstack.training.checks import check_last_batch, check_trial
from sweepstack.training.hardware import choose_threads
from sweepstack.training.trainer import train
from sweepstack.trial import TrialState

from ..loading import load_data
from .test_stacked_loop import CPU, data_of


def own(name: str, **keywords: object) -> dict[str, object]:
    return {"model": {"_target_": f"{__name__}.{name}", **keywords}}


class Packed(nn.Module):
    """Rows of an image as a sequence that ends where they are empty; a sequence of nothing is refused by PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.leave = nn.GRU(8, 8, batch_first=True), nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        rows = images.view(-1, 8, 8)
        lengths = (rows.sum(2) > 0).sum(1)
        packed = pack_padded_sequence(rows, lengths, batch_first=True, enforce_sorted=False)
        return self.leave(self.recurrent(packed)[1][0])


class ByContrast(nn.Linear):
    def __init__(self) -> None:
        super().__init__(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        if bool((flat.std(1) == 0).any()):
            raise ValueError("an image has no contrast")
        return super().forward(flat / flat.std(1, keepdim=True))


class FewAtLeast(nn.Linear):
    def __init__(self, least: int) -> None:
        super().__init__(64, 10)
        self.least = least

    def forward(self, images: Tensor) -> Tensor:
        if len(images) < self.least:
            raise ValueError(f"{self.least} images at least")
        return super().forward(images.flatten(1))


class Normed(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))


class Of(nn.Sequential):
    """A model of another dtype."""

    def __init__(self, dtype: str) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 10).to(getattr(torch, dtype)))


class Converting(nn.Linear):
    """A model of another dtype that takes images as they are."""

    def __init__(self) -> None:
        super().__init__(64, 10, dtype=torch.float64)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.flatten(1).double())


class Frozen(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
        self.requires_grad_(False)


class Cached(nn.Linear):
    """Keeps what its first evaluation made, and multiplies by it in training."""

    def __init__(self) -> None:
        super().__init__(64, 10)
        self.scale: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = torch.ones(64)
        return super().forward(images.flatten(1) * self.scale)


def line_of(function: Callable[[TrialConfig, Any], object], config: TrialConfig) -> str:
    with pytest.raises(ConfigError) as refused:
        function(config, "cpu" if function is check_trial else data_of(config))
    return str(refused.value)


GOOD = [own("Packed"), own("ByContrast"), own("FewAtLeast", least=20), own("Converting"), own("Normed"), own("Cached")]


@pytest.mark.parametrize("model", GOOD, ids=lambda model: model["model"]["_target_"].rpartition(".")[2])
def test_a_model_that_is_good_for_the_data_passes_and_trains(digits_config, model):
    config = digits_config({**model, "epochs": 1})
    check_trial(config, "cpu")
    assert choose_threads(config, None) >= 1
    assert has_kinks(config) in (True, False)
    assert train(config, data_of(config), lambda _: None).state is TrialState.FINISHED


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        (own("Of", dtype="float64"), ["must have float32 parameters", "has float64", "; call .float() in"]),
        (own("Of", dtype="float16"), ["must have float32 parameters", "has float16", "; call .float() in"]),
        (own("Frozen"), ["must have parameters to train", "are frozen"]),
        (own("FewAtLeast", least=5000), ["5000 images at least (in your test_checks.py, line ", ", forward)"]),
    ],
)
def test_a_model_that_could_not_train_is_refused_with_the_reason(digits_config, model, parts):
    line = line_of(check_trial, digits_config(model))
    assert "\n" not in line
    for part in parts:
        assert part in line


def test_a_last_batch_of_one_is_refused_where_the_model_cannot_take_it(digits_config):
    assert len(load_data(digits_config().dataset, 0.1, CPU).train) == 1293
    line = line_of(check_last_batch, digits_config({**own("Normed"), "batch_size": 323}))
    assert line.startswith("batch_size must not leave one of the 1293 images for the last batch, on which ")
    assert line.endswith(", got 323; for example batch_size=324")
    line = line_of(check_last_batch, digits_config({**own("Normed"), "batch_size": 1}))
    assert line.startswith("batch_size must be 2 or more for ")
    for changes in ({"batch_size": 324}, {"batch_size": 100}, {"batch_size": 5000}):
        check_last_batch(digits_config({**own("Normed"), **changes}), data_of(digits_config()))
    check_last_batch(digits_config({"batch_size": 323}), data_of(digits_config()))
    check_trial(digits_config({**own("Normed"), "batch_size": 1}), "cpu")
