"""A folder of images, one folder for each class."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets.folder import default_loader
from torchvision.transforms import v2

from sweepstack.data_files.draw import draw_test_part
from sweepstack.data_files.images import class_folders, size_of
from sweepstack.errors import DataError, printable

_reported: set[str] = set()
"""Lines about files left out that this process has printed."""


class ImageFolder(torchvision.datasets.ImageFolder):  # type: ignore[misc]
    """Torchvision's `ImageFolder` with given classes, in which a class may have no image, and with every format that
    Pillow reads. A line on standard error names the number of other files, once in a process.

    Args:
        root: the folder with a folder for each class.
        transform: from an image of PIL to what an item has.
        classes: the names of all classes, in the order of their indices.
    """

    def __init__(self, root: Path, transform: v2.Transform, classes: Sequence[str]) -> None:
        self._named = list(classes)
        left_out: list[str] = []

        def is_image(path: str) -> bool:
            if Path(path).suffix.lower() in _readable():
                return True
            if not Path(path).name.startswith("."):
                left_out.append(path)
            return False

        super().__init__(str(root), transform, is_valid_file=is_image, allow_empty=True)
        if left_out:
            line = (
                f"{root}: {len(left_out):,} files are left out, Pillow reads no such format, for example {left_out[0]}"
            )
            if line not in _reported:
                _reported.add(line)
                print(printable(line), file=sys.stderr)

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """See `torchvision.datasets.DatasetFolder.find_classes`: the given ones."""
        return self._named, {name: index for index, name in enumerate(self._named)}


@functools.cache
def _readable() -> frozenset[str]:
    """The ends of the names of files that Pillow reads."""
    return frozenset(end for end, kind in Image.registered_extensions().items() if kind in Image.OPEN)


def scaling(size: Sequence[int], grey: bool) -> v2.Transform:
    """Returns what makes the images of a folder alike.

    Args:
        size: height and width.
        grey: in shades of grey.
    """
    return v2.Compose([v2.Resize(list(size_of(size))), *([v2.Grayscale()] if grey else [])])


def read_picture(path: Path, size: Sequence[int] = (64, 64), grey: bool = False) -> NDArray[np.uint8]:
    """Reads an image as `image_folder` does, uint8 [channels, height, width].

    Args:
        path: the file.
        size: height and width.
        grey: in shades of grey.
    """
    image = np.array(scaling(size, grey)(default_loader(str(path))))
    return image[None] if grey else image.transpose(2, 0, 1)


def image_folder(
    train: bool, folder: str, size: Sequence[int] = (64, 64), grey: bool = False, test: float | None = 0.2
) -> ImageFolder:
    """The images of a folder as PIL images of one size, each with the index of its class; items are read when asked
    for, and are always the same.

    Args:
        train: return the training part; else the test part.
        folder: train/CLASS/IMAGE and test/CLASS/IMAGE, or CLASS/IMAGE. Classes are sorted by their names.
        size: height and width, to which each image is scaled, whatever its proportions.
        grey: in shades of grey instead of colours.
        test: the part of the images of each class that is for tests, drawn once; None: none. A folder with
            parts needs no draw.

    Raises:
        DataError: there is no such folder, its parts do not fit together, or a class has no image to train on.
    """
    train_folder, test_folder, classes = class_folders(folder)
    root = train_folder if train or test_folder is None else test_folder
    found = ImageFolder(root, scaling(size, grey), classes)
    if test_folder is None:
        tested = draw_test_part(len(found.samples), test, found.targets)
        found.samples = [one for one, is_test in zip(found.samples, tested.tolist(), strict=True) if is_test != train]
        found.imgs, found.targets = found.samples, [index for _, index in found.samples]
    empty = sorted({*range(len(classes))} - {*found.targets}) if train else []
    if empty:
        rule = f"every class must have an image to train on, {len(empty):,} of {len(classes):,} have none"
        raise DataError(rule, classes[empty[0]], "add one, or remove its folder", where=str(root))
    return found
