"""Finds the classes of a folder of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweepstack.errors import DataError
from sweepstack.paths import typed_path

TRAIN, TEST = "train", "test"
"""The folders of the two parts, if a folder of images has parts."""


def class_folders(folder: Any) -> tuple[Path, Path | None, Sequence[str]]:
    """Returns the folder with the training images, that with the test images, and the sorted names of the classes.

    The second one is None if the folder has no parts, but classes only.

    Raises:
        DataError: there is no such folder, or it has fewer than two classes.
    """
    root = typed_path(str(folder))
    if folder is None or not root.is_dir():
        raise DataError("dataset.folder must be a folder of images, there is none", folder, "correct the path")
    train, test = root / TRAIN, root / TEST
    if train.is_dir() != test.is_dir():
        rule = f"dataset.folder must have both parts, {TRAIN}/CLASS/*.png and {TEST}/CLASS/*.png, or only classes"
        raise DataError(rule, str(root), f"there is no folder {test if train.is_dir() else train}; make it")
    parted = train.is_dir()
    classes = _folders(train if parted else root)
    if len(classes) < 2:
        rule = f"dataset.folder must have a folder for each of two classes or more, {train if parted else root} has"
        raise DataError(rule, ", ".join(classes) or "none", "make one for each class")
    if parted and (unknown := sorted({*_folders(test)} - {*classes})):
        raise DataError(f"every class in {test} must be in {train}, too", unknown[0], "add it there, or rename it")
    return train if parted else root, test if parted else None, classes


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def size_of(size: Any) -> tuple[int, int]:
    """Returns height and width.

    Raises:
        DataError: they are not two whole numbers from 1.
    """
    numbers = list(size) if isinstance(size, Sequence) and not isinstance(size, str) else []
    if len(numbers) != 2 or any(type(number) is not int or number < 1 for number in numbers):
        raise DataError("dataset.size must be height and width in pixels", size, "for example dataset.size=[64,64]")
    return numbers[0], numbers[1]
