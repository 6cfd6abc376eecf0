"""Datasets as tensors, the held-out part, and epochs of batches."""

import dataclasses
import math
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from sweepstack.config.trial_sections import DatasetConfig
from sweepstack.errors import DataError
from sweepstack.paths import cache_folder
from sweepstack.training.data import digits, mnist
from sweepstack.training.data.memory import digest_of

from ..loading import Data, load_data

CPU = torch.device("cpu")
SEEDS, EPOCHS = st.integers(0, 2**63 - 1), st.integers(1, 1000)


def config(**keywords) -> DatasetConfig:
    plain = {"_target_": "sweepstack.training.data.digits", "shape": [1, 8, 8], "classes": 10}
    return DatasetConfig.model_validate({**plain, **keywords})


def numbered(count: int, held_out: int = 0) -> Data:
    """Data in which image and label number i are i, so that a batch says which places it was taken from."""
    places = torch.arange(count)
    images = places.float().reshape(-1, 1)
    return Data(
        train=places[held_out:],
        held_out=places[:held_out],
        device=CPU,
        images=images,
        labels=places,
        test_images=images,
        test_labels=places,
    )


def places(batches) -> list[list[int]]:
    taken = []
    for images, labels in batches:
        assert images.flatten().tolist() == labels.tolist()
        taken.append(labels.tolist())
    return taken


def flat(batches) -> list[int]:
    return [place for batch in places(batches) for place in batch]


# Epochs of batches


@given(
    count=st.integers(1, 200),
    held_out=st.integers(0, 50),
    batch_size=st.integers(1, 300),
    seed=SEEDS,
    epoch=EPOCHS,
)
def test_an_epoch_is_a_permutation_in_batches_the_last_one_short(count, held_out, batch_size, seed, epoch):
    data = numbered(count + held_out, held_out)
    batches = places(data.batches(batch_size, seed, epoch))
    assert sorted(place for batch in batches for place in batch) == data.train.tolist()
    assert len(batches) == data.steps_per_epoch(batch_size) == math.ceil(count / batch_size)
    assert {len(batch) for batch in batches[:-1]} <= {batch_size}
    assert len(batches[-1]) == count - batch_size * (len(batches) - 1)


@given(seed=SEEDS, epoch=EPOCHS, other_seed=SEEDS, other_epoch=EPOCHS, batch_size=st.integers(1, 300))
def test_the_order_is_of_seed_and_epoch_alone(seed, epoch, other_seed, other_epoch, batch_size):
    data = numbered(200)
    torch.manual_seed(other_seed)
    order = flat(data.batches(batch_size, seed, epoch))
    torch.manual_seed(seed)
    assert flat(data.batches(7, seed, epoch)) == order
    assert (flat(data.batches(batch_size, seed, other_epoch)) == order) == (other_epoch == epoch)
    assert (flat(data.batches(batch_size, other_seed, epoch)) == order) == (other_seed == seed)


def test_two_epochs_can_be_read_side_by_side():
    data = numbered(50)
    first, second = data.batches(10, 0, 1), data.batches(10, 0, 2)
    alternating = [next(batches) for _ in range(5) for batches in (first, second)]
    assert flat(alternating[0::2]) == flat(data.batches(10, 0, 1))
    assert flat(alternating[1::2]) == flat(data.batches(10, 0, 2))


# The held-out part


@settings(max_examples=20)
@given(split=st.floats(0.001, 0.9))
def test_held_out_and_trained_on_are_disjoint_and_cover_everything(split):
    data = load_data(config(), split, CPU)
    train, held_out = set(data.train.tolist()), set(data.held_out.tolist())
    assert len(held_out) == round(1437 * split)
    assert not train & held_out
    assert train | held_out == set(range(1437))


def test_the_held_out_part_depends_on_no_seed():
    torch.manual_seed(1)
    first = load_data(config(), 0.2, CPU)
    for std in (0.3, 0.4):  # two other datasets, and the first is no longer kept
        load_data(config(std=std), 0.2, CPU)
    torch.manual_seed(2)
    again = load_data(config(), 0.2, CPU)
    assert again.images is not first.images
    assert torch.equal(again.held_out, first.held_out)
    assert torch.equal(again.train, first.train)


def test_trials_share_one_copy():
    assert load_data(config(), 0.25, CPU).images is load_data(config(), 0.5, CPU).images
    assert load_data(config(), 0.25, CPU).images is not load_data(config(std=2.0), 0.25, CPU).images


@pytest.mark.parametrize("chunk", [1, 7, 2000])
def test_evaluation_reads_the_held_out_part_or_else_the_test_data(chunk):
    data = numbered(30, held_out=10)
    assert flat(data.evaluation(chunk)) == list(range(10))
    assert flat(data.test(chunk)) == list(range(30))
    nothing_held_out = numbered(30)
    assert flat(nothing_held_out.evaluation(chunk)) == list(range(30))


# What comes out


def test_digits_are_those_of_scikit_learn_parted_once():
    train, test = digits(train=True), digits(train=False)
    (images, labels), (test_images, test_labels) = train.tensors, test.tensors
    assert images.shape == (1437, 8, 8)
    assert test_images.shape == (360, 8, 8)
    together = [(*image.flatten().tolist(), label) for image, label in [*train, *test]]  # type: ignore[misc]
    bunch = load_digits()
    assert sorted((*pixels, float(label)) for *pixels, label in together) == sorted(
        (*(pixels / 16), float(label)) for pixels, label in zip(bunch.data, bunch.target, strict=True)
    )
    assert torch.equal(digits(train=True).tensors[0], images)
    assert set(labels.tolist()) == set(test_labels.tolist()) == set(range(10))


def test_mnist_is_mnist():
    images, labels = mnist(train=True).tensors
    assert images.dtype == torch.uint8
    assert images.shape == (60_000, 28, 28)
    assert labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert float(images.float().mean()) / 255 == pytest.approx(0.1307, abs=5e-5)
    test_images, test_labels = mnist(train=False).tensors
    assert test_images.shape == (10_000, 28, 28)
    assert test_labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_torchvisions_mnist_gives_the_same_from_the_same_files():
    ours = load_data(
        DatasetConfig.model_validate(
            {"_target_": "sweepstack.training.data.mnist", "shape": [1, 28, 28], "classes": 10}
        ),
        0.1,
        CPU,
    )
    root = str(cache_folder())
    theirs = load_data(
        DatasetConfig.model_validate(
            {"_target_": "torchvision.datasets.MNIST", "root": root, "shape": [1, 28, 28], "classes": 10}
        ),
        0.1,
        CPU,
    )
    assert torch.equal(ours.images, theirs.images)
    assert torch.equal(ours.labels, theirs.labels)
    assert torch.equal(ours.test_images, theirs.test_images)
    assert torch.equal(ours.held_out, theirs.held_out)


def test_batches_are_scaled_and_standardised():
    pixels = torch.randint(0, 256, (20, 1, 3, 3), dtype=torch.uint8)
    data = dataclasses.replace(
        numbered(20), images=pixels, test_images=pixels.flip(0), train=torch.arange(20), mean=0.25, std=0.5
    )
    expected = (pixels.numpy().astype(np.float64) / 255 - 0.25) / 0.5
    for images, labels in data.batches(7, seed=0, epoch=1):
        assert images.dtype == torch.float32
        np.testing.assert_allclose(images.numpy(), expected[labels.numpy()], atol=1e-6)
    ((images, _),) = data.test()
    np.testing.assert_allclose(images.numpy(), expected[::-1], atol=1e-6)


def test_a_model_that_changes_its_input_in_place_spoils_nothing():
    data = load_data(config(), 0.1, CPU)
    before = [(images.clone(), labels) for images, labels in data.test()]
    for batches in (data.batches(100, 0, 1), data.evaluation(), data.test()):
        for images, _ in batches:
            images.zero_()
    for (images, _), (again, _) in zip(before, data.test(), strict=True):
        assert torch.equal(images, again)
        assert float(again.abs().sum()) > 0
    assert float(data.images.sum()) > 0


def test_facts_tell_one_dataset_from_another():
    data = load_data(config(), 0.1, CPU)
    assert (data.facts.train, data.facts.held_out, data.facts.test) == (1293, 144, 360)
    parts = data.images, data.labels, data.test_images
    one_label = data.test_labels.clone()
    assert digest_of(*parts, one_label) == data.facts.digest
    one_label[0] = (one_label[0] + 1) % 10
    assert digest_of(*parts, one_label) != data.facts.digest


# What is refused


@pytest.mark.parametrize(
    ("changes", "split", "message"),
    [
        (
            {"shape": [1, 8, 9]},
            0.1,
            "dataset.shape must be that of one image of sweepstack.training.data.digits, whose training images are "
            "[8, 8], got [1, 8, 9]; set dataset.shape=[8,8], or let the dataset give the other shape",
        ),
        (
            {"classes": 9},
            0.1,
            "dataset.classes must be more than every label, training labels of sweepstack.training.data.digits are 0 "
            "to 9, got 9; set dataset.classes=10, or number the classes from 0",
        ),
        (
            {},
            0.0001,
            "validation_split must leave images to train on and to select by of 1437, got 0.0001; "
            "for example validation_split=0.1",
        ),
        (
            {},
            0.9999,
            "validation_split must leave images to train on and to select by of 1437, got 0.9999; "
            "for example validation_split=0.1",
        ),
    ],
)
def test_data_that_is_not_what_the_config_says_is_refused(changes, split, message):
    with pytest.raises(DataError) as caught:
        load_data(config(**changes), split, CPU)
    assert str(caught.value) == message


# Datasets of the user's own

MODULE = """
import numpy as np
import torch
from PIL import Image


class Shades:
    '''Torchvision's style: PIL images, here dark ones (0) and bright ones (1), and a transform.'''

    def __init__(self, train, count=40, transform=None):
        self.count = count if train else 10
        self.transform = transform

    def __len__(self):
        return self.count

    def __getitem__(self, place):
        image = Image.new("L", (4, 4), 200 * (place % 2) + place)
        return (self.transform(image) if self.transform else image), place % 2


class Colours(list):
    '''NumPy, channels last.'''

    def __init__(self, train):
        pixels = np.zeros((6, 5, 4, 3), dtype=np.uint8)
        pixels[..., 1] = 255
        super().__init__(zip(pixels, [0, 1, 0, 1, 0, 1]))


class Unlike:
    def __init__(self, train):
        pass

    def __len__(self):
        return 2

    def __getitem__(self, place):
        return torch.zeros(1, 4 + place, 4), place


class Empty(Unlike):
    def __len__(self):
        return 0
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_data.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("own")
def test_pil_images_become_pixels():
    data = load_data(config(_target_="own_data.Shades", count=30, shape=[1, 4, 4], classes=2), 0.1, CPU)
    assert data.images.dtype == torch.uint8
    assert data.images.shape == (30, 1, 4, 4)
    assert data.images[:, 0, 0, 0].tolist() == [200 * (place % 2) + place for place in range(30)]
    assert data.labels.tolist() == [0, 1] * 15
    assert len(data.test_labels) == 10


@pytest.mark.usefixtures("own")
def test_a_transform_named_in_the_config_is_applied():
    transform = {"_target_": "torchvision.transforms.Compose", "transforms": [
        {"_target_": "torchvision.transforms.Resize", "size": [2, 2]},
        {"_target_": "torchvision.transforms.ToTensor"},
    ]}  # fmt: skip
    data = load_data(config(_target_="own_data.Shades", transform=transform, shape=[1, 2, 2], classes=2), 0.1, CPU)
    assert data.images.dtype == torch.float32
    assert data.images.shape == (40, 1, 2, 2)
    assert data.images[:2, 0, 0, 0].tolist() == pytest.approx([0.0, 201 / 255])


@pytest.mark.usefixtures("own")
def test_colours_come_channels_first():
    data = load_data(config(_target_="own_data.Colours", shape=[3, 5, 4], classes=2), 0.5, CPU)
    assert data.images.shape == (6, 3, 5, 4)
    assert data.images.amax((0, 2, 3)).tolist() == [0, 255, 0]


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Unlike",
            "dataset: item 1 (from 0) of the training part of own_data.Unlike: all images must be of one shape and "
            "dtype, the first one is [1, 4, 4] float32, got '[1, 5, 4] float32'; "
            "give it a transform, such as torchvision.transforms.Resize, or convert them; or join them by "
            "dataset.collate_fn={_target_: my.pad}",
        ),
        ("Empty", "dataset must give one image or more, own_data.Empty gives no training image; correct it"),
    ],
)
def test_images_of_unlike_shapes_or_none_at_all_are_refused(name, message):
    with pytest.raises(DataError) as caught:
        load_data(config(_target_=f"own_data.{name}", shape=[1, 4, 4], classes=2), 0.5, CPU)
    assert str(caught.value) == message
