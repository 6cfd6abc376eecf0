"""The temporary folders of downloads: their names, and the lock that is held while they are in use."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock


def download_prefix(name: str) -> str:
    """Returns how the names of the temporary folders of a dataset's downloads begin."""
    return f".{name}.fetch-"


def download_lock(root: Path, name: str) -> FileLock:
    """Returns the lock that is held while the files of a dataset are fetched.

    Args:
        root: the folder of datasets.
        name: the name of the dataset.
    """
    return FileLock(root / f".{name}.lock")


def downloads(root: Path, name: str) -> list[Path]:
    """Returns the temporary folders of a dataset's downloads. If nobody holds the lock, they were broken off.

    Args:
        root: the folder of datasets.
        name: the name of the dataset.
    """
    return sorted(root.glob(f"{download_prefix(name)}*"))


def downloaded_names(root: Path) -> list[str]:
    """Returns the names of the datasets that have temporary folders of downloads."""
    return sorted({path.name[1:].partition(".fetch-")[0] for path in downloads(root, "*")})
