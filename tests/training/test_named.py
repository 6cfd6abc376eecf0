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

import numpy as np
import pytest
import torch
from scipy.io import savemat

from sweepstack.errors import DataError
from sweepstack.training import data
from sweepstack.training.data.named.idx import EMNIST_CLASSES, parse_idx
from sweepstack.training.data.published import DATASETS

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
