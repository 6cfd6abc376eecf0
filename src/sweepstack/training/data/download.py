"""Downloads, verifies and caches dataset files. Each process verifies the checksum of every file that it reads."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from pathlib import Path

from sweepstack.errors import DataError, did_you_mean, one_line
from sweepstack.files.downloads import download_lock, download_prefix, downloads
from sweepstack.files.replacing import check_replaceable, move_over
from sweepstack.paths import cache_folder
from sweepstack.training.data.published import DATASETS, Files, Source, Unpacked


def obtain(name: str, root: str | Path | None = None) -> Path:
    """Fetches the missing files of a dataset, verifies all its files and returns their folder.

    Args:
        name: a key of `DATASETS`.
        root: the folder of datasets; None for the cache.

    Raises:
        DataError: the dataset is unknown, a file is corrupt, or no source could be reached.
    """
    if name not in DATASETS:
        raise DataError(f"dataset {name!r} has no files to fetch", remedy=did_you_mean(name, DATASETS))
    files = DATASETS[name]
    folder = _present_or_fetched(name, files, root)
    for file in files.md5:
        _verified(folder / file, files.md5[file])
    return folder


def read_file(name: str, file: str, root: str | Path | None = None) -> bytearray:
    """Reads and verifies one file of a dataset; fetches it if it is missing.

    Args:
        name: a key of `DATASETS`.
        file: the name of the file.
        root: the folder of datasets; None for the cache.

    Raises:
        DataError: the file is corrupt, or no source could be reached.
    """
    files = DATASETS[name]
    return _verified(_present_or_fetched(name, files, root) / file, files.md5[file])


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


def _present_or_fetched(name: str, files: Files, given: str | Path | None) -> Path:
    root = Path(given).expanduser().absolute() if given else cache_folder()
    folder = root / files.folder
    if _missing(folder, files):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with download_lock(root, name):  # another process may fetch them now, or have done so
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
    for leftover in downloads(root, name):  # the lock is held, so no other process uses them
        shutil.rmtree(leftover, ignore_errors=True)
    archive = root / files.archive
    sources: list[Source] = [*([Unpacked(archive)] if files.archive and archive.is_file() else []), *files.sources]
    reasons = []
    for source in sources:
        print(f"Fetching {name} from {source.title} ...", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix=download_prefix(name), dir=root) as temporary:
            try:
                fetched = source.fetch(files, Path(temporary))
                for file, md5 in files.md5.items():
                    _verified(fetched / file, md5)
            except Exception as error:  # a source can fail in any way
                reasons.append(f"{source.title}: {one_line(error)}")
                continue
            for file in files.md5:
                move_over(fetched / file, root / files.folder / file)
            print(f"Fetched and verified {name}: {root / files.folder}", file=sys.stderr)
            return
    remedy = f"put these files into {root / files.folder} and run again: {', '.join(files.md5)}"
    if files.archive:
        remedy = f"put {files.archive} into {root} and run again"
    raise DataError(f"{name} could not be fetched ({'; '.join(reasons)})", remedy=remedy)
