"""Augmentation: drawn for each image from seed, epoch and index; the same stacked, alone, streamed and resumed."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import TensorDataset

from sweepstack.config.schema import TrialConfig
from sweepstack.config.trial_sections import AugmentConfig
from sweepstack.errors import ConfigError, DataError, UserError
from sweepstack.training.data import digits
from sweepstack.training.data.augmentation import Augmentation
from sweepstack.training.data.load import data_of
from sweepstack.training.data.source import Data
from sweepstack.training.data.streamed import TransformedInMemory
from sweepstack.training.trainer import train
from sweepstack.trial import Outcome

from ..loading import train_stacked

CPU = torch.device("cpu")
CROP_FLIP = {"crop": 2, "flip": 0.5, "erase": 0.25}
ROTATE = {"transforms": [{"_target_": "torchvision.transforms.v2.RandomRotation", "degrees": 90}]}


def images(count: int, channels: int = 3, height: int = 6, width: int = 5) -> Tensor:
    return 1 + torch.arange(count * channels * height * width).float().reshape(count, channels, height, width)


@settings(max_examples=30)
@given(crop=st.integers(0, 4), flip=st.sampled_from([0.0, 0.5, 1.0]), seed=st.integers(0, 99), epoch=st.integers(1, 9))
def test_crops_and_flips_are_windows_of_the_padded_image(crop, flip, seed, epoch):
    given = images(9)
    augmentation = Augmentation(AugmentConfig(crop=crop or None, flip=flip))
    draws = augmentation.draws(9, seed, epoch)
    changed = augmentation.apply(given, draws)
    padded = torch.nn.functional.pad(given, [crop] * 4)
    for index in range(9):
        windows = [
            window
            for top in range(2 * crop + 1)
            for left in range(2 * crop + 1)
            for cut in [padded[index, :, top : top + 6, left : left + 5]]
            for window in ([cut] if flip == 0 else [cut.flip(2)] if flip == 1 else [cut, cut.flip(2)])
        ]
        assert any(torch.equal(changed[index], window) for window in windows)
    order = torch.randperm(9)
    assert torch.equal(augmentation.apply(given[order], draws[order]), changed[order])


def test_every_place_and_both_sides_are_as_likely_as_torchvision_has_them():
    augmentation = Augmentation(AugmentConfig(crop=1, flip=0.5))
    one = images(1, 1, 3, 3).expand(9000, 1, 3, 3)
    changed = augmentation.apply(one, augmentation.draws(9000, 0, 1))
    found, counts = changed.flatten(1).unique(dim=0, return_counts=True)
    assert len(found) == 18
    assert counts.min() > 400
    assert counts.max() < 600


def test_erased_rectangles_are_of_the_size_that_torchvision_draws():
    augmentation = Augmentation(AugmentConfig(erase=0.5))
    given = images(4000, 1, 20, 20)
    erased = (augmentation.apply(given, augmentation.draws(4000, 0, 1)) == 0).flatten(1).float().mean(1)
    assert 0.46 < float((erased > 0).float().mean()) < 0.54
    from torchvision.transforms import v2

    torch.manual_seed(0)
    theirs = torch.stack([(v2.RandomErasing(1.0)(image) == 0).float().mean() for image in given[:1500]])
    assert abs(float(erased[erased > 0].mean() - theirs.mean())) < 0.015


def few(train: bool) -> TensorDataset:
    """So few digits that worker processes take no time."""
    return TensorDataset(*(part[:100] for part in digits(train).tensors))


@pytest.fixture
def of(digits_config: Any) -> Any:
    def made(augment: dict[str, Any], **changes: Any) -> TrialConfig:
        few_epochs = {"dataset._target_": f"{__name__}.few", "epochs": 2, "batch_size": 30, "validation_split": 0.2}
        return digits_config({"augment": augment, **few_epochs, **changes})

    return made


def end(config: TrialConfig) -> Outcome:
    return train(config, data_of(config, CPU), lambda measurement: None)


def seen(data: Data, plain: Data, seed: int, epoch: int) -> dict[bytes, bytes]:
    """The changed image of each image of an epoch."""
    pairs = zip(plain.batches(30, seed, epoch), data.batches(30, seed, epoch), strict=True)
    return {
        was.numpy().tobytes(): now.numpy().tobytes()
        for (before, _), (after, _) in pairs
        for was, now in zip(before, after, strict=True)
    }


@pytest.mark.parametrize("augment", [CROP_FLIP, ROTATE])
def test_an_image_is_changed_anew_in_each_epoch_and_for_each_seed(of, augment):
    data, plain = data_of(of(augment), CPU), data_of(of({}), CPU)
    first = seen(data, plain, 0, 1)
    assert seen(data, plain, 0, 1) == first
    for other in ((0, 2), (1, 1)):
        same = sum(seen(data, plain, *other)[image] == changed for image, changed in first.items())
        assert same < 0.2 * len(first)
    for part in ("evaluation", "test"):
        for (one, _), (other, _) in zip(getattr(data, part)(), getattr(plain, part)(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("augment", [CROP_FLIP, ROTATE, {**CROP_FLIP, **ROTATE}])
def test_stacked_streamed_and_alone_learn_the_same(of, augment):
    configs = [of(augment, seed=seed, **{"optimizer.lr": lr}) for seed in (0, 1) for lr in (0.1, 0.5)]
    data = data_of(configs[0], CPU)
    assert isinstance(data, TransformedInMemory) == ("transforms" in augment)
    ended = train_stacked(configs, data)
    for key, source in ((0, "memory"), (3, "memory"), (3, "streamed")):
        one = configs[key]
        alone = end(one.model_copy(update={"dataset": one.dataset.model_copy(update={"source": source})}))
        assert alone.weights is not None
        for name, value in alone.weights.items():
            torch.testing.assert_close(ended[key].weights[name], value, rtol=1e-4, atol=1e-5)


class Shrink:
    """A transform that changes the shape."""

    def __call__(self, image: Tensor) -> Tensor:
        return image[..., 1:]


class Doubled:
    def __call__(self, image: Tensor) -> Tensor:
        return image.double()


class Broken:
    def __call__(self, image: Tensor) -> Tensor:
        raise ValueError("no angle")


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (
            {"transforms": [{"_target_": f"{__name__}.Shrink"}]},
            r"augment.transforms must keep shape and dtype \[1, 8, 8\]",
        ),
        ({"transforms": [{"_target_": f"{__name__}.Doubled"}]}, "must keep shape and dtype"),
        ({"transforms": [{"_target_": "builtins.dict"}]}, "something that can be called"),
        ({"crop": 8}, "augment.crop must be less than height and width"),
        ({"transforms": [{"_target_": f"{__name__}.Broken"}]}, r"item \d+ .*ValueError: no angle"),
        (
            {"transforms": [{"_target_": "torchvision.transforms.v2.RandomRotation", "degrees": "x"}]},
            "refuses its values",
        ),
        ({"transforms": [{"_target_": "torchvision.transforms.v2.RandomRotatio"}]}, "RandomRotatio"),
    ],
)
def test_transforms_that_do_not_suit_are_refused_before_the_training(of, augment, message):
    with pytest.raises(UserError, match=message) as caught:
        data_of(of(augment), CPU)
    assert caught.value.errors[0].remedy


def test_rows_cannot_be_cropped(digits_config):
    table = {"_target_": "sweepstack.training.data.diabetes", "shape": [10], "outputs": 1}
    task = {"_target_": "sweepstack.training.tasks.Regression"}
    with pytest.raises((ConfigError, DataError), match="must have images"):
        data_of(digits_config({"dataset": table, "task": task, "augment": {"flip": 0.5}}), CPU)
