"""Converts pictures of handwritten digits to images as the authors of MNIST made them.

"The original black and white (bilevel) images from NIST were size normalized to fit in a 20x20 pixel box while
preserving their aspect ratio. [...] the images were centered in a 28x28 image by computing the center of mass of the
pixels, and translating the image so as to position this point at the center of the 28x28 field." (LeCun, Cortes,
Burges: The MNIST database of handwritten digits, http://yann.lecun.com/exdb/mnist)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage

from sweepstack.errors import one_line
from sweepstack.inference.inputs import InputError, check_is_file

IMAGE_FORMATS = ("PNG", "JPEG")
"""The formats of pictures that are read."""
MAX_PIXELS = 50_000_000
"""The most pixels of a picture that is read: a small file can claim to be a picture that fills the memory."""
MAX_SIDE = 600
"""Pixels of a side: larger pictures are made smaller first."""
MIN_CONTRAST = 0.08
"""The least contrast of ink with the paper, as a part of that of black with white."""
MIN_SPECK = 0.02
"""A spot with less ink than this part of the ink of the largest stroke is ignored."""
MIN_INK = 0.1
"""A pixel belongs to the drawing if it has at least this part of the darkest ink."""
PAPER_FITS = 8
"""The number of least-squares fits that find the paper."""
SHADE = np.float32(1 / 255)
"""The smallest difference between two shades of grey."""

Grey = NDArray[np.float32]
"""An image [height, width] of values from 0 to 1."""


class PictureError(InputError):
    """A file is not a picture that can be read."""


def read_image(path: Path) -> Grey:
    """Reads a PNG or JPEG file in shades of grey, upright, and on white where it is transparent.

    Files are not trusted: no other format is tried, and nothing larger than 50 megapixels is decoded.

    Raises:
        PictureError: the file cannot be read, or is not such a picture.
    """
    try:
        check_is_file(path)
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=IMAGE_FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise PictureError(
                    f"must have at most {MAX_PIXELS:,} pixels, it has {width} x {height}",
                    remedy="make it smaller",
                )
            picture.draft("L", (MAX_SIDE, MAX_SIDE))  # a JPEG can be decoded at a fraction of its size
            return _grey(ImageOps.exif_transpose(picture))
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(
            "must be a PNG or JPEG picture, it is neither",
            remedy="save it as one of them",
        ) from error
    except Image.DecompressionBombError as error:
        raise PictureError(
            f"must have at most {MAX_PIXELS:,} pixels, it has far more",
            remedy="make it smaller",
        ) from error
    except OSError as error:
        if error.strerror:
            raise PictureError(
                f"cannot be read ({error.strerror})",
                remedy="correct the path",
            ) from error
        raise PictureError(
            f"is damaged ({one_line(error)})",
            remedy="save it again",
        ) from error
    except Exception as error:  # a damaged file can fail in any way
        raise PictureError(
            f"is damaged ({one_line(error)})",
            remedy="save it again",
        ) from error


def _grey(picture: Image.Image) -> Grey:
    if "A" in picture.getbands() or "a" in picture.getbands() or "transparency" in picture.info:
        drawn = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn)
    if picture.mode.startswith("I"):  # 16 bits
        picture = Image.fromarray((np.asarray(picture, np.float32) / 257).clip(0, 255).astype(np.uint8))
    picture = picture.convert("L")
    picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BOX)
    return np.asarray(picture, np.float32) / np.float32(255)


def prepare_image(grey: Grey, shape: Sequence[int], box: int, centre: tuple[float, float]) -> Grey:
    """Makes an image like those of the dataset: bright ink on black, [height, width].

    Args:
        grey: the picture.
        shape: the shape of the dataset's images; the last two are height and width.
        box: pixels of the longer side of the drawing; see `longest_side`.
        centre: row and column of the drawing's centre of mass, as near as there is room; see `centre_of_mass`.

    Raises:
        PictureError: the picture shows nothing.
    """
    ink = _without_specks(_ink(grey))
    rows, columns = (np.flatnonzero((ink > MIN_INK).any(axis)) for axis in (1, 0))
    drawn = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = shape[-2:]
    scale = min(box / max(drawn.shape), height / drawn.shape[0], width / drawn.shape[1])
    size = [max(1, round(side * scale)) for side in drawn.shape]
    small = np.asarray(Image.fromarray(drawn).resize((size[1], size[0]), Image.Resampling.BICUBIC)).clip(0, 1)
    small = small / small.max()  # thin strokes are dim when they are made small
    image = np.zeros((height, width), np.float32)
    top = _offset(small.sum(1), height, centre[0])
    left = _offset(small.sum(0), width, centre[1])
    image[top : top + size[0], left : left + size[1]] = small
    return image


def _ink(grey: Grey) -> Grey:
    """Finds how much ink each pixel has, 0 to 1, whether the ink is dark on light or light on dark.

    The paper looks like the edge of the picture; it may be unevenly lit and rough.
    """
    grey = np.pad(grey, 1, mode="edge") if min(grey.shape) < 3 else grey
    paper, roughness = _paper(grey)
    difference = grey - paper
    if (difference**3).sum() < 0:  # the ink differs most from the paper, even if there is little of it
        difference = -difference
    darkest = float(difference.max())
    if darkest < max(MIN_CONTRAST, 6 * roughness):
        raise PictureError(
            "must show a digit, it is of one shade",
            remedy="take another picture",
        )
    ink = np.where(difference < max(MIN_INK / 2 * darkest, 4 * roughness), 0, difference / darkest)
    return ink.astype(np.float32)


def _without_specks(ink: Grey) -> Grey:
    """Removes specks of dust and rough paper, which would make the digit seem larger."""
    labels, count = ndimage.label(ink > MIN_INK, np.ones((3, 3)))
    amounts = ndimage.sum_labels(ink, labels, np.arange(1, count + 1))
    specks = np.flatnonzero(amounts < MIN_SPECK * amounts.max()) + 1
    return np.where(np.isin(labels, specks), np.float32(0), ink)


def _paper(grey: Grey) -> tuple[Grey, float]:
    """Fits the paper as a plane through the edge of the picture; returns it and the standard deviation around it.

    The plane has the least absolute differences (least squares with new weights, repeated), so that ink that touches
    the edge counts little. For the same reason the lowest quarter of the differences gives the standard deviation.
    """
    height, width = grey.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    edge = np.zeros(grey.shape, bool)
    edge[[0, -1]] = edge[:, [0, -1]] = True
    middle = np.median(grey[edge])
    edge &= np.abs(grey - middle) < 0.2
    terms = np.stack([np.ones_like(y), y / height - 0.5, x / width - 0.5], -1)
    weights = np.ones(edge.sum(), np.float32)
    for _ in range(PAPER_FITS):
        factors, *_ = np.linalg.lstsq(terms[edge] * weights[:, None], grey[edge] * weights, rcond=None)
        differences = np.abs(grey[edge] - terms[edge] @ factors)
        weights = 1 / np.sqrt(np.maximum(differences, SHADE))
    return terms @ factors, float(np.quantile(differences, 0.25) / 0.3186)  # the quantile of a normal distribution


def _offset(mass: NDArray[np.float32], side: int, centre: float) -> int:
    """Returns where the drawing must begin, so that its centre of mass is at `centre`."""
    own = float((mass * np.arange(len(mass))).sum() / mass.sum())
    return min(max(0, math.floor(centre - own + 0.5)), side - len(mass))


def centre_of_mass(images: NDArray[Any]) -> tuple[float, float]:
    """Finds the centre of mass of images [n, ..., height, width]: the median row and column, from 0.

    In MNIST it is pixel 14 of 0 to 27, which is half a pixel beside the middle.
    """
    ink = images.reshape(-1, *images.shape[-2:]).astype(np.float64)
    ink = ink[ink.sum((1, 2)) > 0]
    if not len(ink):
        return (images.shape[-2] - 1) / 2, (images.shape[-1] - 1) / 2
    amounts = ink.sum((1, 2))
    rows, columns = ((ink.sum(axis) * np.arange(ink.shape[3 - axis])).sum(1) / amounts for axis in (2, 1))
    return float(np.median(rows)), float(np.median(columns))


def longest_side(images: NDArray[Any]) -> int:
    """Finds the median of the longer side of the drawing, in pixels, of images [n, ..., height, width] from 0 to 1."""
    drawn = images.reshape(len(images), -1, *images.shape[-2:] if images.ndim > 2 else (1, images.shape[-1])).max(1)
    sides = [_extent((drawn > MIN_INK).any(axis)) for axis in (1, 2)]
    return max(1, int(np.median(np.maximum(*sides))))


def _extent(marked: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Counts the pixels from the first to the last mark of each row, [n, side] -> [n]; 0 for a row without a mark."""
    side = marked.shape[1]
    return np.where(marked.any(1), side - marked.argmax(1) - marked[:, ::-1].argmax(1), 0)
