"""A user's dataset: what its items give is trained on, always the same, or it is refused with the remedy."""

import gzip
import pickle
import random
import struct
import textwrap
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from sweepstack.config.trial_sections import DatasetConfig
from sweepstack.errors import DataError
from sweepstack.training.data import digits, user_dataset
from sweepstack.training.data.conversion import Given, Source, images_of
from sweepstack.training.data.user_dataset import Part
from sweepstack.training.tasks import Classification

from ..loading import load_data

CPU = torch.device("cpu")
COUNT = 20
LABELS = [0, 1] * (COUNT // 2)
PIXELS = torch.rand(COUNT, 1, 4, 4, generator=torch.Generator().manual_seed(0))

_making = [lambda train: None]


def made(train):
    """The dataset under test, by its name in a config."""
    return _making[0](train)


def part(make, shape=(1, 4, 4), classes=2, train=True):
    _making[0] = make if callable(make) else lambda train: make
    config = {"_target_": f"{__name__}.made", "shape": list(shape), "classes": classes}
    images, labels = user_dataset.read(
        Part(DatasetConfig.model_validate(config), "training" if train else "test"), Classification().check_targets
    )
    assert isinstance(images, Tensor)
    return images, labels


def refused(make, **keywords) -> str:
    with pytest.raises(DataError) as caught:
        part(make, **keywords)
    assert caught.value.errors[0].remedy
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is trained on is what the items give


class OddEven(Dataset):
    def __init__(self, train):
        images, labels = digits(train).tensors
        self.data, self.targets = images[:, None], labels

    def __len__(self):
        return len(self.data)

    def __getitem__(self, place):
        return self.data[place], int(self.targets[place]) % 2


class Inverted(TensorDataset):
    def __getitem__(self, place):
        image, label = super().__getitem__(place)
        return 1 - image, 1 - label


def test_items_count_and_attributes_do_not():
    images, labels = part(OddEven, shape=(1, 8, 8))
    assert torch.equal(labels, digits(train=True).tensors[1] % 2)
    assert torch.equal(images[:, 0], digits(train=True).tensors[0])
    images, labels = part(Inverted(PIXELS, torch.tensor(LABELS)))
    assert torch.equal(images, 1 - PIXELS)
    assert labels.tolist() == [1 - label for label in LABELS]


@given(
    arrays.arrays(
        st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.uint16, np.bool_, ">f4"]),  # type: ignore[arg-type]
        st.tuples(st.integers(1, 5), st.just(2), st.integers(1, 3)),
        elements=st.integers(0, 1),
    ),
    st.sampled_from([np.int64, np.uint8, np.float32, np.uint64, np.bool_]),
    st.booleans(),
)
def test_whatever_numbers_are_given_those_are_trained_on(pixels, kind, as_tensors):
    numbers = np.arange(len(pixels)) % 2
    if as_tensors:
        pixels = pixels.astype(pixels.dtype.newbyteorder("="))
        given: Any = TensorDataset(torch.from_numpy(pixels), torch.from_numpy(numbers.astype(kind)))
    else:
        given = list(zip(pixels[:, ::-1][:, ::-1], numbers.astype(kind), strict=True))
    images, labels = part(given, shape=pixels.shape[1:])
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    np.testing.assert_array_equal(images.numpy(), pixels.astype(np.float32))
    np.testing.assert_array_equal(labels.numpy(), numbers)


def test_a_dataset_that_gives_the_same_tensor_again_and_again_is_copied():
    class Reused(Dataset):
        image = torch.empty(1, 4, 4)

        def __len__(self):
            return COUNT

        def __getitem__(self, place):
            return self.image.fill_(place), place % 2

    images, _ = part(Reused())
    assert images[:, 0, 0, 0].tolist() == list(range(COUNT))


def test_tensors_that_the_user_keeps_can_change_without_changing_what_is_trained_on():
    kept = PIXELS.clone()
    images, _ = part(TensorDataset(kept, torch.tensor(LABELS)))
    kept.zero_()
    assert torch.equal(images, PIXELS)


def idx(path, numbers: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{numbers.ndim}I", 0, 8, numbers.ndim, *numbers.shape)
    path.write_bytes(header + numbers.tobytes())
    with gzip.open(f"{path}.gz", "wb") as packed:
        packed.write(header + numbers.tobytes())


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "KMNIST"])
def test_torchvisions_classes_give_what_their_items_give(tmp_path, name):
    generator = np.random.default_rng(0)
    for stem, count in (("train", 30), ("t10k", 10)):
        idx(
            tmp_path / name / "raw" / f"{stem}-images-idx3-ubyte", generator.integers(0, 256, (count, 28, 28), np.uint8)
        )
        idx(tmp_path / name / "raw" / f"{stem}-labels-idx1-ubyte", generator.integers(0, 10, count, np.uint8))
    from torchvision import datasets

    kind = getattr(datasets, name)
    for train in (True, False):
        quick = part(lambda train: kind(str(tmp_path), train), shape=(1, 28, 28), classes=10, train=train)
        by_items = part([*kind(str(tmp_path), train)], shape=(1, 28, 28), classes=10, train=train)
        assert all(torch.equal(one, other) for one, other in zip(quick, by_items, strict=True))
        labels = part(
            lambda train: kind(str(tmp_path), train, target_transform=lambda label: label % 2),
            shape=(1, 28, 28),
            train=train,
        )[1]
        assert torch.equal(labels, quick[1] % 2)


def test_torchvisions_cifar_gives_what_its_items_give(tmp_path, monkeypatch):
    from torchvision import datasets

    folder = tmp_path / datasets.CIFAR10.base_folder
    folder.mkdir()
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        pixels = np.random.default_rng(0).integers(0, 256, (4, 3072), np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [0, 1, 2, 3]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [*"abcdefghij"]}))
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda *_: True)
    quick = part(lambda train: datasets.CIFAR10(str(tmp_path), train), shape=(3, 32, 32), classes=10)
    by_items = part([*datasets.CIFAR10(str(tmp_path))], shape=(3, 32, 32), classes=10)
    assert quick[0].shape == (20, 3, 32, 32)
    assert all(torch.equal(one, other) for one, other in zip(quick, by_items, strict=True))


# How images are laid out


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("how", ["tensors", "arrays"])
def test_channels_last_are_transposed_and_not_reshaped(dtype, how):
    first = torch.randint(0, 256, (COUNT, 3, 5, 4)).to(dtype)
    last = first.movedim(1, -1)
    items = [(image.numpy() if how == "arrays" else image, label) for image, label in zip(last, LABELS, strict=True)]
    assert torch.equal(part(items, shape=(3, 5, 4))[0], first)
    assert torch.equal(part(items, shape=(5, 4, 3))[0], last)


def test_a_shape_says_no_more_than_it_can():
    images = torch.rand(COUNT, 4, 4)
    for shape in ([4, 4], [1, 4, 4], [4, 4, 1], [16], [1, 16]):
        for same in (images, images[:, None], images[..., None]):
            taken, _ = part(TensorDataset(same, torch.tensor(LABELS)), shape=shape)
            assert torch.equal(taken, images.reshape(COUNT, *shape))
    flat = TensorDataset(images.reshape(COUNT, 16), torch.tensor(LABELS))
    assert torch.equal(part(flat, shape=(1, 4, 4))[0], images[:, None])
    for other, unfit in ((images, (2, 8)), (images, (2, 2, 4)), (images.reshape(COUNT, 16), (4, 2, 2))):
        refusal = refused(TensorDataset(other, torch.tensor(LABELS)), shape=unfit)
        assert f"got {list(unfit)}; set dataset.shape={str([*other.shape[1:]]).replace(' ', '')}, or let" in refusal


def test_uint8_numbers_that_are_no_pixels_are_refused():
    tokens = torch.randint(0, 256, (COUNT, 16), dtype=torch.uint8)
    assert "are no pictures but rows, got [16]; for what is no pixel (tokens, counts) give float32 or int64" in refused(
        TensorDataset(tokens, torch.tensor(LABELS)), shape=(16,)
    )
    assert "rows" in refused([*zip(tokens.numpy(), LABELS, strict=True)], shape=(1, 16))
    board = torch.randint(0, 3, (COUNT, 4, 4), dtype=torch.uint8)
    assert "none above 127, got '2 as the highest'" in refused(TensorDataset(board, torch.tensor(LABELS)))
    for whole in (tokens.long(), tokens.int()):
        assert torch.equal(part(TensorDataset(whole, torch.tensor(LABELS)), shape=(16,))[0], tokens.float())


# What is refused


def quantized() -> torch.Tensor:
    with warnings.catch_warnings(action="ignore"):  # deprecated, and still met
        return torch.quantize_per_tensor(PIXELS, 0.1, 0, torch.quint8)


def broken(value) -> torch.Tensor:
    pixels = PIXELS.clone()
    pixels[7, 0, 1, 1] = value
    return pixels


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (broken(torch.nan), "got nan; correct or leave out 1 of 20 images, first number 7 (from 0)"),
        (broken(-torch.inf), "got -inf; correct or leave out 1 of 20 images, first number 7 (from 0)"),
        (broken(1.0).double() * 1e300, "must be finite as float32"),
        (PIXELS.to_sparse(), "not a sparse tensor; call its to_dense()"),
        (PIXELS.to("meta"), "not a tensor on the device meta, which holds no values; make it on the device cpu"),
        (quantized(), "not a quantized tensor; call its dequantize()"),
        (PIXELS + 1j * PIXELS, "not complex numbers; give real ones"),
        (torch.full((COUNT, 1, 4, 4), 2**30), "got 1073741824; scale or renumber them"),
        (torch.zeros(COUNT, 0, 4, 4), "the training images of"),
    ],
)
def test_images_that_are_not_understood_are_refused(images, message):
    assert message in refused(TensorDataset(images, torch.tensor(LABELS)))
    if images.layout == torch.strided:
        assert message in refused([*zip(images, LABELS, strict=True)])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("a.png", "got 'a.png'; give a tensor"),
        (None, "got None; give a tensor"),
        (np.array([[object()]]), "got 'an array of object'"),
        (np.ones((4, 4)) * 1j, "not complex numbers"),
        (np.ma.masked_array(np.ones((4, 4)), np.eye(4)), "call its filled"),  # type: ignore[arg-type]
        ([[1.0, 2.0], [3.0]], "it must be numbers, got 'list: "),
        (Image.new("P", (4, 4)), """got 'mode P'; convert it: image.convert("RGB")"""),
    ],
)
def test_single_images_that_are_not_understood_are_refused(image, message):
    refusal = refused([(PIXELS[0], 0), (image, 1)])
    assert refusal.startswith(f"dataset: item 1 (from 0) of the training part of {__name__}.made: ")
    assert message in refusal


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.rand(COUNT, generator=torch.Generator().manual_seed(0)), "for numbers to predict use task=regression"),
        (torch.tensor([0, 1.5] * 10), "training label 1 (from 0)"),
        (torch.full((COUNT,), torch.nan), "got nan"),
        (torch.full((COUNT,), torch.inf), "got inf"),
        (torch.tensor(LABELS)[:, None], "got 'shape [1]'; give the number inside it: labels.flatten(), or int(label)"),
        (torch.ones(COUNT, 2), "got 'shape [2]'; for several labels of one image use task=multilabel"),
        (torch.eye(2)[LABELS], "got 'shape [2]'; for one-hot labels give labels.argmax(1), or label.argmax()"),
        (torch.zeros(COUNT, 3, 3), "for several labels of one image use task=multilabel"),
        (torch.tensor(LABELS) - 1, "begin below, got -1; renumber them"),
        (torch.tensor(LABELS) + 1, "got 2; set dataset.classes=3, or number the classes from 0"),
        (torch.tensor(LABELS) * 1j, "not complex numbers"),
    ],
)
def test_labels_that_are_no_class_indices_are_refused(labels, message):
    assert message in refused(TensorDataset(PIXELS, labels))
    assert message in refused([*zip(PIXELS, labels, strict=True)])
    if not labels.is_complex():
        assert message in refused([*zip(PIXELS, labels.numpy(), strict=True)])


@pytest.mark.parametrize("label", ["cat", None, {"class": 1}, 2**70])
def test_single_labels_that_are_no_numbers_are_refused(label):
    refusal = refused([(PIXELS[0], 0), (PIXELS[1], label)])
    assert "label" in refusal


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(PIXELS, LABELS, strict=True)


class Short(Dataset):
    def __len__(self):
        return COUNT

    def __getitem__(self, place):
        return PIXELS[place], LABELS[:7][place]


class Leaving(Short):
    def __getitem__(self, place):
        raise SystemExit(0)


class Vast(Short):
    def __len__(self):
        return 10**15


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ([], "gives no training image"),
        ([(PIXELS[0], 0, "a name")], "it must be a pair (inputs, target), got 'tuple of 3'"),
        ([{"image": PIXELS[0], "label": 0}], "it must be a pair (inputs, target), got 'dict of 2'"),
        ([PIXELS[:2]], "it must be a pair (inputs, target), got 'Tensor'"),
        (TensorDataset(PIXELS), "another number of tensors, got 1"),
        (Stream(), "got 'Stream'; read it into a list"),
        ((pair for pair in ()), "got 'generator'; read it into a list"),
        (None, "got 'NoneType'; read it into a list"),
        (Short(), "fails at item 7 (from 0) of its training part (IndexError: list index out of range); correct it"),
        (Leaving(), "fails at item 0 (from 0) of its training part (SystemExit: 0); correct it"),
        (Vast(), "a dataset must fit into memory"),
    ],
)
def test_datasets_that_are_none_are_refused(dataset, message):
    assert message in refused(dataset)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images: (images * 255).byte(), "those of {} are float32 and uint8"),
        (lambda images: images, "(image - dataset.mean) / dataset.std must be finite as float32"),
    ],
)
def test_both_parts_can_be_scaled_alike(change, message):
    images, labels = torch.full((COUNT, 1, 4, 4), 0.9), torch.tensor(LABELS)
    _making[0] = lambda train: TensorDataset(images if train else change(images), labels)  # type: ignore[assignment]
    config = {"_target_": f"{__name__}.made", "shape": [1, 4, 4], "classes": 2, "std": 1e-45}
    with pytest.raises(DataError) as caught:
        load_data(DatasetConfig.model_validate(config), 0.1, CPU)
    assert message.format(f"{__name__}.made") in str(caught.value)


# Random numbers


class Noisy(Dataset):
    draw = staticmethod(lambda: float(torch.rand(1)))

    def __len__(self):
        return COUNT

    def __getitem__(self, place):
        return PIXELS[place] + self.draw(), LABELS[place]


DRAWS = {
    "torch": lambda: float(torch.rand(1)),
    "numpy": lambda: float(np.random.rand()),
    "random": random.random,
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_random_items_have_no_values_to_hold(draw, monkeypatch):
    monkeypatch.setattr(Noisy, "draw", staticmethod(draw))
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    with pytest.raises(user_dataset.DrawsItems):
        part(lambda train: Noisy())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]  # type: ignore[index]


def test_a_split_that_is_drawn_while_a_dataset_is_made_parts_it_without_overlap(monkeypatch, capsys):
    monkeypatch.setattr(user_dataset, "_reported", set())

    def split(train):
        order = torch.randperm(COUNT)
        chosen = order[:15] if train else order[15:]
        return TensorDataset(torch.arange(COUNT).float()[chosen], torch.tensor(LABELS)[chosen])

    train, test = (part(split, shape=(1,), train=which)[0].flatten().tolist() for which in (True, False))
    assert sorted(train + test) == list(range(COUNT))
    assert "draws random numbers while it is made: they are seeded" in capsys.readouterr().err


@pytest.mark.parametrize(
    "make",
    [
        lambda train: TensorDataset(torch.from_numpy(np.random.default_rng().random((COUNT, 1, 4, 4))), LABEL_TENSOR),
        lambda train: [(PIXELS[place] + random.SystemRandom().random(), LABELS[place]) for place in range(COUNT)],
        lambda train: TensorDataset(COUNTED.add_(1).clone(), LABEL_TENSOR),
        lambda train: TensorDataset(PIXELS, LABEL_TENSOR[np.random.default_rng().permutation(COUNT)]),
    ],
)
def test_data_that_are_not_the_same_twice_are_refused(make):
    assert "dataset must give the same data whenever it is read" in refused(make)


LABEL_TENSOR, COUNTED = torch.tensor(LABELS), torch.zeros(COUNT, 1, 4, 4)


def test_what_draws_nothing_says_nothing(capsys, monkeypatch):
    monkeypatch.setattr(user_dataset, "_reported", set())
    part(OddEven, shape=(1, 8, 8))
    assert capsys.readouterr().err == ""


def test_a_module_that_draws_while_it_is_imported_draws_the_same_in_every_process(tmp_path, monkeypatch):
    from sweepstack.training.instantiate import import_target

    monkeypatch.syspath_prepend(tmp_path)
    source = """
        import random, numpy, torch
        DRAWN = [random.random(), numpy.random.rand(), float(torch.rand(1))]
        Fixed = dict
    """
    for name in ("own_draws_one", "own_draws_other"):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        random.random(), np.random.rand(), torch.rand(1)
        import_target("dataset", f"{name}.Fixed")
    import own_draws_one
    import own_draws_other

    assert own_draws_one.DRAWN == own_draws_other.DRAWN


def test_long_reading_shows_how_far_it_has_come(monkeypatch, capsys):
    monkeypatch.setattr(user_dataset, "PROGRESS_AFTER", -1.0)
    part([*zip(PIXELS, LABELS, strict=True)])
    assert capsys.readouterr().err == f"Reading the training part of {__name__}.made: 0 of {COUNT} items\n"


@pytest.mark.parametrize("shape", [[28, 28], [1, 28, 28]])
@pytest.mark.parametrize("had", [(28, 28), (1, 28, 28), (28, 28, 1)])
def test_grey_pixels_of_numpy_are_clear(had: tuple[int, ...], shape: list[int]) -> None:
    pixels = np.arange(20 * 784, dtype=np.uint8).reshape(20, *had)
    config = DatasetConfig.model_validate({"_target_": "a.b", "shape": shape, "classes": 10})
    part = Given(torch.from_numpy(pixels), torch.zeros(20), Source.ARRAY)
    images = images_of(part, config, "training")
    assert isinstance(images, Tensor)
    assert images.shape == (20, *shape)


COUNTED = torch.rand(20, 1, 4, 4)


def counted_down(train: bool) -> TensorDataset:
    COUNTED.sub_(0.25)
    return TensorDataset(COUNTED, torch.arange(20) % 2)


def test_data_that_are_changed_in_place_when_they_are_read_again_are_refused() -> None:
    own = {"_target_": f"{__name__}.counted_down", "shape": [1, 4, 4], "classes": 2}
    with pytest.raises(DataError, match="must give the same data whenever it is read"):
        user_dataset.read(Part(DatasetConfig.model_validate(own), "training"), Classification().check_targets)
