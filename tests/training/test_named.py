"""The datasets that a config can name, read from made files in their layout."""

import gzip
import hashlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy.io import savemat

from sweepstack.config.schema import HeldOut
from sweepstack.config.trial_sections import DatasetConfig
from sweepstack.errors import ConfigError, DataError
from sweepstack.training import data
from sweepstack.training.data import user_dataset
from sweepstack.training.data.load import load_data
from sweepstack.training.data.named.idx import EMNIST_CLASSES, parse_idx
from sweepstack.training.data.named.image_folder import image_folder
from sweepstack.training.data.published import DATASETS
from sweepstack.training.instantiate import check_keywords
from sweepstack.training.tasks import Classification

from ..terminal import ROOT

GENERATOR = np.random.default_rng(0)
COUNTS = {"train": 12, "t10k": 5}


def idx(array: np.ndarray) -> bytes:
    """An array in the format of MNIST."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
    return header + array.astype(np.uint8).tobytes()


def place(root: Path, name: str, files: Mapping[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts files where a dataset has them, and makes their checksums those that are published."""
    published = DATASETS[name]
    assert published.md5.keys() == files.keys()
    folder = root / published.folder
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    monkeypatch.setitem(DATASETS, name, replace(published, md5=sums(files)))


def sums(files: Mapping[str, bytes]) -> dict[str, str]:
    return {file: hashlib.md5(content).hexdigest() for file, content in files.items()}


# In the format of MNIST


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_files_in_the_format_of_mnist_are_read(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = {stem: GENERATOR.integers(0, 256, (count, 28, 28)) for stem, count in COUNTS.items()}
    labels = {stem: GENERATOR.integers(0, 10, count) for stem, count in COUNTS.items()}
    files = {f"{stem}-images-idx3-ubyte": idx(array) for stem, array in images.items()}
    files |= {f"{stem}-labels-idx1-ubyte": idx(array) for stem, array in labels.items()}
    if name == "kmnist":
        files = {f"{file}.gz": gzip.compress(content) for file, content in files.items()}
    place(tmp_path, name, files, monkeypatch)
    for stem, train in (("train", True), ("t10k", False)):
        found = getattr(data, name)(train, str(tmp_path)).tensors
        assert found[0].dtype == torch.uint8
        assert torch.equal(found[0], torch.from_numpy(images[stem]))
        assert torch.equal(found[1], torch.from_numpy(labels[stem]))


@pytest.mark.parametrize("split", EMNIST_CLASSES)
def test_emnist_is_upright_and_its_labels_begin_at_0(
    tmp_path: Path, split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = split == "letters"
    upright, labels = GENERATOR.integers(0, 256, (7, 28, 28)), np.arange(7) + first
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        for stem in ("train", "test"):
            for kind, array in (("images-idx3", upright.transpose(0, 2, 1)), ("labels-idx1", labels)):
                packed.writestr(f"gzip/emnist-{split}-{stem}-{kind}-ubyte.gz", gzip.compress(idx(array)))
    place(tmp_path, "emnist", {"gzip.zip": archive.getvalue()}, monkeypatch)
    for train in (True, False):
        found = data.emnist(train, split, str(tmp_path)).tensors
        assert torch.equal(found[0], torch.from_numpy(upright))
        assert found[1].tolist() == [*range(7)]


def test_an_unknown_split_of_emnist_gets_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^dataset.split must be one of EMNIST, got 'leters'; did you mean 'letters'"):
        data.emnist(True, "leters", str(tmp_path))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        idx(np.zeros((2, 28, 28)))[:-1],
        idx(np.zeros((2, 28, 28))) + b"\0",
        b"\0\0\x09" + idx(np.zeros((2, 28, 28)))[3:],
        bytes([0, 0, 8, 0]),
    ],
)
def test_a_header_that_does_not_fit_the_file_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match=r"images must be a file of uint8 numbers in the format of MNIST \(IDX\), got"):
        parse_idx(content, "images")


# Pictures in colours


def cifar_files(name: str) -> tuple[dict[str, bytes], dict[bool, tuple[np.ndarray, list[int]]]]:
    """Files as CIFAR has them, and what is in them for training and for tests."""
    files, found = {}, {}
    batches = {True: [f"data_batch_{number}" for number in range(1, 6)], False: ["test_batch"]}
    if name == "cifar100":
        batches = {True: ["train"], False: ["test"]}
    for train, batch in batches.items():
        pixels, labels = GENERATOR.integers(0, 256, (len(batch) * 4, 3072), np.uint8), [*range(len(batch) * 4)]
        found[train] = pixels.reshape(-1, 3, 32, 32), labels
        for index, file in enumerate(batch):
            rows = slice(index * 4, index * 4 + 4)
            key = "labels" if name == "cifar10" else "fine_labels"
            files[file] = pickle.dumps({"data": pixels[rows], key: labels[rows], "coarse_labels": [0] * 4}, 2)
    return files, found


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_read_from_its_folder_or_its_archive(
    tmp_path: Path, name: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, expected = cifar_files(name)
    published = DATASETS[name]
    if packed:
        with tarfile.open(tmp_path / published.archive, "w:gz") as archive:
            for file, content in files.items():
                member = tarfile.TarInfo(f"{published.folder}/{file}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        monkeypatch.setitem(DATASETS, name, replace(published, md5=sums(files)))
    else:
        place(tmp_path, name, files, monkeypatch)
    for train, (images, labels) in expected.items():
        found = getattr(data, name)(train, str(tmp_path)).tensors
        assert torch.equal(found[0], torch.from_numpy(images))
        assert found[1].tolist() == labels


def test_torchvisions_cifar_gives_the_same_from_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    files, _ = cifar_files("cifar10")
    place(tmp_path, "cifar10", files, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "batches.meta").write_bytes(pickle.dumps({"label_names": [*"abcdefghij"]}))
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda *_: True)
    theirs = datasets.CIFAR10(str(tmp_path), train=True)
    images, labels = data.cifar10(True, str(tmp_path)).tensors
    assert np.array_equal(images.movedim(1, -1), theirs.data)
    assert labels.tolist() == theirs.targets


def test_svhn_is_read_with_the_digit_0_as_class_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = GENERATOR.integers(0, 256, (6, 3, 32, 32), np.uint8), np.array([10, 1, 2, 9, 10, 5], np.uint8)
    files = {}
    for part_name in ("train", "test"):
        buffer = io.BytesIO()
        savemat(buffer, {"X": images.transpose(2, 3, 1, 0), "y": labels[:, None]})
        files[f"{part_name}_32x32.mat"] = buffer.getvalue()
    place(tmp_path, "svhn", files, monkeypatch)
    found = data.svhn(False, str(tmp_path)).tensors
    assert torch.equal(found[0], torch.from_numpy(images))
    assert found[1].tolist() == [0, 1, 2, 9, 0, 5]


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "emnist", "kmnist", "svhn"])
def test_a_corrupt_file_is_named(tmp_path: Path, name: str) -> None:
    files = DATASETS[name]
    (tmp_path / files.folder).mkdir(parents=True)
    for file in files.md5:
        (tmp_path / files.folder / file).write_bytes(b"broken")
    with pytest.raises(DataError, match=r"is corrupt: its MD5 sum should be \w{32}, got .*\(6 bytes\)"):
        getattr(data, name)(True, folder=str(tmp_path))


# Folders of images


def picture(shade: int, size: tuple[int, int] = (20, 10)) -> Image.Image:
    return Image.new("RGB", size, (shade, 0, 255 - shade))


def save(folder: Path, shades: list[int]) -> None:
    folder.mkdir(parents=True)
    for index, shade in enumerate(shades):
        picture(shade).save(folder / f"{index:02}.png")


def read(folder: Path, train: bool, **keywords: Any) -> tuple[Any, torch.Tensor]:
    config = {
        "_target_": "sweepstack.training.data.named.image_folder.image_folder",
        "folder": str(folder),
        "size": [8, 6],
        "shape": [1 if keywords.get("grey") else 3, 8, 6],
        "classes": 2,
        **keywords,
    }
    part = user_dataset.Part(DatasetConfig.model_validate(config), "training" if train else "test")
    return user_dataset.read(part, Classification().check_targets)


def test_a_folder_with_two_parts_is_read(tmp_path: Path) -> None:
    save(tmp_path / "train" / "cat", [10, 20])
    save(tmp_path / "train" / "dog", [30])
    save(tmp_path / "test" / "dog", [40, 50])  # no cat
    images, labels = read(tmp_path, True)
    assert images.dtype == torch.uint8
    assert images.shape == (3, 3, 8, 6)
    assert (images[:, 0, 0, 0].tolist(), labels.tolist()) == ([10, 20, 30], [0, 0, 1])
    images, labels = read(tmp_path, False)
    assert (images[:, 2, 7, 5].tolist(), labels.tolist()) == ([215, 205], [1, 1])


def test_a_folder_of_classes_is_parted_once_within_each_class(tmp_path: Path) -> None:
    save(tmp_path / "cat", [*range(0, 40, 2)])
    save(tmp_path / "dog", [*range(1, 21, 2)])
    train, test = (read(tmp_path, which, test=0.3) for which in (True, False))
    assert test[1].bincount().tolist() == [6, 3]
    shades = [*train[0][:, 0, 0, 0].tolist(), *test[0][:, 0, 0, 0].tolist()]
    assert sorted(shades) == sorted([*range(0, 40, 2), *range(1, 21, 2)])
    assert torch.equal(read(tmp_path, False, test=0.3)[0], test[0])
    samples = image_folder(False, str(tmp_path), [8, 6], test=0.3).samples
    assert [label for _, label in samples] == test[1].tolist()
    assert all(Path(path).is_file() for path, _ in samples)


def test_images_can_be_grey(tmp_path: Path) -> None:
    save(tmp_path / "cat", [0, 255])
    save(tmp_path / "dog", [100, 255])
    images, _ = read(tmp_path, True, grey=True, test=0.5)
    assert images.shape == (2, 1, 8, 6)
    assert len(image_folder(True, str(tmp_path), [8, 6], True, 0.5)) == 2


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ([], "dataset.folder must have a folder for each of two classes or more, {} has, got 'none'"),
        (["cat"], "dataset.folder must have a folder for each of two classes or more, {} has, got 'cat'"),
        (["train/cat", "train/dog"], "dataset.folder must have both parts, train/CLASS/*.png and test/CLASS/*.png"),
        (["train/cat", "train/dog", "test/cow"], "every class in {}/test must be in {}/train, too, got 'cow'"),
        (["cat", "dog"], "dataset.test must leave items to train on and items to test on, of 0 items"),
    ],
)
def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path, folders: list[str], message: str) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        image_folder(True, str(tmp_path))
    assert str(caught.value).startswith(message.replace("{}", str(tmp_path)))


def test_every_format_of_pillow_is_read_and_other_files_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "cat", [0, 255])
    save(tmp_path / "dog", [100, 255])
    for name in ("a.gif", "b.JPEG", "c.tga", "d.jp2"):
        picture(50).save(tmp_path / "cat" / name)
    for name in ("notes.txt", "paper.pdf", ".DS_Store"):
        (tmp_path / "dog" / name).write_text("no image")
    for _ in range(2):
        assert image_folder(True, str(tmp_path), test=None).targets == [0] * 6 + [1] * 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"{tmp_path}: 2 files are left out, Pillow reads no such format, for example {tmp_path}/dog/"
    )


def test_a_class_without_an_image_to_train_on_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "train" / "cat", [0, 255])
    (tmp_path / "train" / "dog").mkdir()
    save(tmp_path / "test" / "dog", [1])
    with pytest.raises(DataError, match=r"every class must have an image to train on, 1 of 2 have none, got 'dog'"):
        image_folder(True, str(tmp_path))


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    save(tmp_path / "cat", [0, 255])
    save(tmp_path / "dog", [100, 255])
    (tmp_path / "cat" / "01.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"fails at item \d \(from 0\) of its \w+ part .*cat/01.png") as caught:
        read(tmp_path, True, test=0.5), read(tmp_path, False, test=0.5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [64, [64], [0, 64], "64", [64.5, 64]])
def test_a_size_that_is_none_is_refused(tmp_path: Path, size: Any) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match=r"dataset.size must be height and width in pixels, got"):
        image_folder(True, str(tmp_path), size)


def test_a_folder_can_be_streamed_and_is_known_by_its_files(tmp_path: Path) -> None:
    save(tmp_path / "cat", [10, 20, 30])
    save(tmp_path / "dog", [40, 50, 60])
    config = {
        "_target_": "sweepstack.training.data.named.image_folder.image_folder",
        "folder": str(tmp_path),
        "size": [8, 6],
        "test": 0.34,
        "shape": [3, 8, 6],
        "classes": 2,
    }
    kept, streamed = (
        load_data(
            DatasetConfig.model_validate({**config, "source": source}),
            HeldOut(0.5, stratified=True),
            torch.device("cpu"),
        )
        for source in ("auto", "streamed")
    )
    assert kept.facts.train == streamed.facts.train == 2
    for one, other in zip(kept.test(), streamed.test(), strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


# As users name them


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "conf" / "dataset").glob("*.yaml")))
def test_every_dataset_of_the_config_fits_its_function(name: str) -> None:
    values = yaml.safe_load((ROOT / "conf" / "dataset" / f"{name}.yaml").read_text())
    found = {"shape": [1], "classes": 2, "outputs": None, "targets": "classes"}
    plain = {key: found.get(key) if str(value).startswith("${from_data:") else value for key, value in values.items()}
    config = DatasetConfig.model_validate(plain)
    check_keywords("dataset", config.target, 0, {"train": True, **config.keywords})


def test_a_table_is_known_by_its_columns_and_classes_too(tmp_path: Path) -> None:
    def digest(header: str, classes: tuple[str, str], source: str = "auto") -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.csv"
        path.write_text(header + "".join(f"{index % 7},{classes[index % 2]}\n" for index in range(40)))
        config = {"_target_": "sweepstack.training.data.table", "file": str(path), "predict": "y", "source": source}
        data = DatasetConfig.model_validate({**config, "shape": [1], "classes": 2})
        return load_data(data, 0.2, torch.device("cpu"), workers=0).digest

    found = [digest("x,y\n", ("a", "b")), digest("z,y\n", ("a", "b")), digest("x,y\n", ("a", "c"))]
    assert len({*found}) == 3
    assert digest("x,y\n", ("a", "b"), "streamed") == found[0]


def test_the_groups_of_a_table_that_are_held_out_in_part_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y,house\n" + "".join(f"{index % 7},{'ab'[index % 2]},{index // 4}\n" for index in range(80)))
    config = {"_target_": "sweepstack.training.data.table", "file": str(path), "predict": "y", "columns": ["x"]}

    def load(held: HeldOut | float, group: str | None = "house") -> str:
        load_data(
            DatasetConfig.model_validate({**config, "shape": [1], "classes": 2, "group": group}),
            held,
            torch.device("cpu"),
        )
        return capsys.readouterr().err

    said = "The rows of one house can be both trained on and held out: split.grouped=true keeps them together.\n"
    assert "The rows" not in load(HeldOut(0.2, grouped=True)) + load(0.0) + load(0.2, None)
    assert load(0.2).endswith(said)
    with pytest.raises(ConfigError, match=r"the groups of a table; set dataset.group=COLUMN"):
        load(HeldOut(0.2, grouped=True), None)
