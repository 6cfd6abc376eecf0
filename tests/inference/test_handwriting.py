"""Pictures as people have them become images as MNIST has them; files that are none are told apart."""

import contextlib
import io
import os
import struct
import warnings
import zlib
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sweepstack.inference.handwriting import PictureError, centre_of_mass, longest_side, prepare_image, read_image
from sweepstack.inference.inputs import InputError
from sweepstack.training.data import digits, mnist

SHAPE, BOX, CENTRE = (1, 28, 28), 20, (14.0, 14.0)


@pytest.fixture(scope="module")
def digit() -> np.ndarray:
    """A 7 of MNIST's test images, uint8 [28, 28]."""
    return mnist(train=False).tensors[0][0].numpy()


def prepared(picture: Image.Image, path: Path, **options: Any) -> np.ndarray:
    picture.save(path, **options)
    return prepare_image(read_image(path), SHAPE, BOX, CENTRE)


def distance(image: np.ndarray, digit: np.ndarray) -> float:
    """Mean difference of pixels of 0 to 1; two different digits are 0.1 to 0.2 apart."""
    return float(np.abs(image - digit / 255).mean())


def test_an_image_of_mnist_is_nearly_what_it_was(digit, tmp_path):
    assert distance(prepared(Image.fromarray(digit), tmp_path / "7.png"), digit) < 0.005


EITHER = ["dark on light", "large", "margins", "grey paper", "shadow"]
ONLY_PNG = ["transparent", "16 bits"]


@pytest.mark.parametrize(("how", "suffix"), [*product(EITHER, ("png", "jpg")), *product(ONLY_PNG, ("png",))])
def test_however_it_is_drawn_it_is_the_same_digit(digit, tmp_path, how, suffix):
    picture = Image.fromarray(digit)
    large = picture.resize((280, 280), Image.Resampling.BICUBIC)
    match how:
        case "dark on light":
            picture = Image.fromarray(255 - digit)
        case "large":
            picture = large
        case "margins":
            picture = Image.new("L", (900, 700), 0)
            picture.paste(large, (500, 60))
        case "grey paper":
            noise = np.random.default_rng(0).normal(0, 6, (280, 280))
            picture = Image.fromarray((170 - np.asarray(large) * 0.5 + noise).clip(0, 255).astype(np.uint8))
        case "shadow":
            shadow = np.linspace(0, 70, 280)
            picture = Image.fromarray((230 - shadow - np.asarray(large) * 0.5).clip(0, 255).astype(np.uint8))
        case "transparent":
            picture = Image.merge("LA", [Image.new("L", large.size, 0), large])  # black ink on nothing
        case "16 bits":
            picture = Image.fromarray(np.asarray(large).astype(np.uint16) * 257)
    assert distance(prepared(picture, tmp_path / f"7.{suffix}"), digit) < 0.03


@pytest.mark.parametrize("shadow", [0, 40])
def test_faint_ink_at_the_edge_is_no_paper(tmp_path, shadow):
    """The digits of scikit-learn fill their images, so that much of the edge is ink."""
    images = digits(train=False).tensors[0].numpy().reshape(-1, 8, 8)
    box, centre = longest_side(images), centre_of_mass(images)
    apart = []
    for image in images[:100]:
        faint = (230 - 60 * image - np.linspace(0, shadow, 8)).astype(np.uint8)
        Image.fromarray(faint).save(tmp_path / "faint.png")
        with contextlib.suppress(PictureError):
            apart.append(
                np.abs(prepare_image(read_image(tmp_path / "faint.png"), (1, 8, 8), box, centre) - image).mean()
            )
    assert len(apart) >= 98
    assert np.median(apart) < 0.03  # some are a pixel beside their place


def test_the_cameras_rotation_is_undone(digit, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side, to be turned clockwise
    lying = Image.fromarray(digit).resize((280, 280), Image.Resampling.BICUBIC).transpose(Image.Transpose.ROTATE_90)
    assert distance(prepared(lying, tmp_path / "7.jpg", exif=exif), digit) < 0.03


def test_the_box_is_that_of_the_dataset():
    assert longest_side(mnist(train=False).tensors[0].numpy() / 255) == 20  # as its authors say
    assert longest_side(digits(train=False).tensors[0].numpy()) == 8


def test_the_centre_is_that_of_the_dataset():
    assert centre_of_mass(mnist(train=False).tensors[0].numpy() / 255) == pytest.approx((14, 14), abs=0.05)
    row, column = centre_of_mass(digits(train=False).tensors[0].numpy())
    assert 3.2 < row < 3.8
    assert 3.2 < column < 3.8


def test_a_wide_stroke_keeps_its_shape_and_stays_inside(tmp_path):
    wide = np.full((40, 200), 255, np.uint8)
    wide[18:22, 10:190] = 0
    image = prepared(Image.fromarray(wide), tmp_path / "minus.png")
    rows, columns = np.nonzero(image > 0.1)
    assert np.ptp(columns) + 1 == 20
    assert np.ptp(rows) + 1 <= 2


def bomb(side: int) -> bytes:
    """A PNG of some bytes that claims to be `side` pixels wide and high."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def encoded(picture: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form)
    return buffer.getvalue()


NOISY = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200), np.uint8))
BAD = {
    "text": (b"I am no picture", "must be a PNG or JPEG picture, it is neither"),
    "empty file": (b"", "must be a PNG or JPEG picture, it is neither"),
    "gif": (encoded(NOISY, "GIF"), "must be a PNG or JPEG picture, it is neither"),
    "truncated jpeg": (encoded(NOISY, "JPEG")[:5000], "is damaged"),
    "truncated png": (encoded(NOISY, "PNG")[:5000], "is damaged"),
    "broken png": (encoded(NOISY, "PNG")[:60] + b"x" * 500, "is damaged"),
    "large": (bomb(8_000), "must have at most 50,000,000 pixels, it has 8000 x 8000"),
    "bomb": (bomb(50_000), "must have at most 50,000,000 pixels"),
    "white": (encoded(Image.new("L", (50, 50), 255), "PNG"), "must show a digit, it is of one shade"),
    "rough paper": (encoded(Image.fromarray(200 + np.asarray(NOISY) // 32), "PNG"), "must show a digit"),
    "one pixel": (encoded(Image.new("L", (1, 1), 9), "PNG"), "must show a digit, it is of one shade"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_picture_of_a_digit_is_told(tmp_path, what):
    content, line = BAD[what]
    path = tmp_path / "picture"
    path.write_bytes(content)
    with warnings.catch_warnings(action="error"), pytest.raises(PictureError, match=line) as error:
        prepare_image(read_image(path), SHAPE, BOX, CENTRE)
    assert len(str(error.value).splitlines()) == 1


def test_what_cannot_be_read_is_told(tmp_path):
    with pytest.raises(PictureError, match=r"cannot be read \(No such file or directory\)"):
        read_image(tmp_path / "none.png")
    with pytest.raises(PictureError, match=r"cannot be read \(Is a directory\)"):
        read_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")  # which nobody ever writes to
    for path in (tmp_path / "pipe.png", Path("/dev/null")):
        with pytest.raises(InputError, match="must be a file, it is a pipe, a socket or a device"):
            read_image(path)
