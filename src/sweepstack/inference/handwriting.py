"""Pictures of handwritten digits, as people have them -> images as MNIST's authors made them.

"The original black and white (bilevel) images from NIST were size normalized to fit in a 20x20 pixel box while
preserving their aspect ratio. [...] the images were centered in a 28x28 image by computing the center of mass of the
pixels, and translating the image so as to position this point at the center of the 28x28 field." (LeCun, Cortes,
Burges: The MNIST database of handwritten digits, http://yann.lecun.com/exdb/mnist)
"""

from __future__ import annotations

import math
import stat
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage

from sweepstack.errors import UserError, one_line

IMAGE_FORMATS = ("PNG", "JPEG")
MOST_PIXELS = 50_000_000
"""A small file can claim to be a picture that fills the memory."""
LARGE = 600
"""Larger pictures are made smaller first, to so many pixels a side."""
FAINTEST = 0.08
"""Of black to white: what differs less from the paper is none of the ink."""
SPECK = 0.02
"""Of the ink of the largest stroke: what has less is none."""
EDGE = 0.1
"""Of the darkest ink: what is as dark belongs to what is drawn."""
FITS = 8
SHADE = np.float32(1 / 255)
"""A difference that counts for none."""

Grey = NDArray[np.float32]
"""[height, width], 0 to 1."""


class PictureError(UserError):
    """A file is no picture that can be classified."""


def read_image(path: Path) -> Grey:
    """A PNG or JPEG file in shades of grey, upright, and on white where it is transparent.

    Files are not trusted: no other format is tried, and nothing larger than 50 megapixels is decoded.

    Raises:
        PictureError: the file cannot be read, or is no such picture.
    """
    try:
        if not (stat.S_ISREG(mode := path.stat().st_mode) or stat.S_ISDIR(mode)):
            raise PictureError(
                "must be a file, it is a pipe, a socket or a device",
                remedy="save the picture as a file",
            )
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=IMAGE_FORMATS) as picture:
            width, height = picture.size
            if width * height > MOST_PIXELS:
                raise PictureError(
                    f"must have at most {MOST_PIXELS:,} pixels, it has {width} x {height}",
                    remedy="make it smaller",
                )
            picture.draft("L", (LARGE, LARGE))  # a JPEG can be decoded at a fraction of its size
            return _grey(ImageOps.exif_transpose(picture))
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(
            "must be a PNG or JPEG picture, it is neither",
            remedy="save it as one of them",
        ) from error
    except Image.DecompressionBombError as error:
        raise PictureError(
            f"must have at most {MOST_PIXELS:,} pixels, it has far more",
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
    picture.thumbnail((LARGE, LARGE), Image.Resampling.BOX)
    return np.asarray(picture, np.float32) / np.float32(255)


def prepare_image(grey: Grey, shape: Sequence[int], box: int, centre: tuple[float, float]) -> Grey:
    """Bright ink on black, [height, width] of `shape`: what is drawn has `box` pixels on its longer side, and its
    centre of mass at `centre`, as near to it as there is room.

    Args:
        box, centre: those of the dataset, see `longest_side` and `centre_of_mass`.

    Raises:
        PictureError: nothing is drawn.
    """
    ink = _without_specks(_ink(grey))
    rows, columns = (np.flatnonzero((ink > EDGE).any(axis)) for axis in (1, 0))
    drawn = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = shape[-2:]
    scale = min(box / max(drawn.shape), height / drawn.shape[0], width / drawn.shape[1])
    size = [max(1, round(side * scale)) for side in drawn.shape]
    small = np.asarray(Image.fromarray(drawn).resize((size[1], size[0]), Image.Resampling.BICUBIC)).clip(0, 1)
    small = small / small.max()  # thin strokes are dim when they are made small
    image = np.zeros((height, width), np.float32)
    top = _place(small.sum(1), height, centre[0])
    left = _place(small.sum(0), width, centre[1])
    image[top : top + size[0], left : left + size[1]] = small
    return image


def _ink(grey: Grey) -> Grey:
    """How much ink there is, 0 to 1, whether it is dark on light or light on dark. The paper is what the edge of the
    picture is like; it may be unevenly lit and rough."""
    grey = np.pad(grey, 1, mode="edge") if min(grey.shape) < 3 else grey
    paper, roughness = _paper(grey)
    difference = grey - paper
    if (difference**3).sum() < 0:  # the ink is what differs most, not what there is most of
        difference = -difference
    most = float(difference.max())
    if most < max(FAINTEST, 6 * roughness):
        raise PictureError(
            "must show a digit, it is of one shade",
            remedy="take another picture",
        )
    ink = np.where(difference < max(EDGE / 2 * most, 4 * roughness), 0, difference / most)
    return ink.astype(np.float32)


def _without_specks(ink: Grey) -> Grey:
    """Dust and rough paper would make the digit seem larger."""
    labels, count = ndimage.label(ink > EDGE, np.ones((3, 3)))
    amounts = ndimage.sum_labels(ink, labels, np.arange(1, count + 1))
    specks = np.flatnonzero(amounts < SPECK * amounts.max()) + 1
    return np.where(np.isin(labels, specks), np.float32(0), ink)


def _paper(grey: Grey) -> tuple[Grey, float]:
    """The paper as a plane through the edge of the picture, and the standard deviation around it. The plane is that of
    the least absolute differences (least squares, weighted again some times), for ink may touch the edge and must not
    count much; so a quarter of the edge tells how rough the paper is."""
    height, width = grey.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    edge = np.zeros(grey.shape, bool)
    edge[[0, -1]] = edge[:, [0, -1]] = True
    middle = np.median(grey[edge])
    edge &= np.abs(grey - middle) < 0.2
    terms = np.stack([np.ones_like(y), y / height - 0.5, x / width - 0.5], -1)
    weights = np.ones(edge.sum(), np.float32)
    for _ in range(FITS):
        factors, *_ = np.linalg.lstsq(terms[edge] * weights[:, None], grey[edge] * weights, rcond=None)
        apart = np.abs(grey[edge] - terms[edge] @ factors)
        weights = 1 / np.sqrt(np.maximum(apart, SHADE))
    return terms @ factors, float(np.quantile(apart, 0.25) / 0.3186)  # as of a normal distribution


def _place(mass: NDArray[np.float32], side: int, centre: float) -> int:
    """Where to begin, so that the centre of mass is where it should be."""
    own = float((mass * np.arange(len(mass))).sum() / mass.sum())
    return min(max(0, math.floor(centre - own + 0.5)), side - len(mass))


def centre_of_mass(images: NDArray[Any]) -> tuple[float, float]:
    """Where it is in most of these images, [n, ..., height, width]: row and column, from 0. In MNIST it is pixel 14 of
    0 to 27, which is half a pixel beside the middle."""
    ink = images.reshape(-1, *images.shape[-2:]).astype(np.float64)
    ink = ink[ink.sum((1, 2)) > 0]
    if not len(ink):
        return (images.shape[-2] - 1) / 2, (images.shape[-1] - 1) / 2
    amounts = ink.sum((1, 2))
    rows, columns = ((ink.sum(axis) * np.arange(ink.shape[3 - axis])).sum(1) / amounts for axis in (2, 1))
    return float(np.median(rows)), float(np.median(columns))


def longest_side(images: NDArray[Any]) -> int:
    """In most of these images, [n, ..., height, width] of 0 to 1: the longer side of what is drawn, in pixels."""
    drawn = images.reshape(len(images), -1, *images.shape[-2:] if images.ndim > 2 else (1, images.shape[-1])).max(1)
    sides = [_extent((drawn > EDGE).any(axis)) for axis in (1, 2)]
    return max(1, int(np.median(np.maximum(*sides))))


def _extent(marked: NDArray[np.bool_]) -> NDArray[np.int64]:
    """From the first to the last mark of each row, [n, side] -> [n]; 0 where there is none."""
    side = marked.shape[1]
    return np.where(marked.any(1), side - marked.argmax(1) - marked[:, ::-1].argmax(1), 0)
