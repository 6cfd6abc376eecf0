"""Pictures of a dataset's images, read back from the file."""

import numpy as np
import pytest
import torch
from PIL import Image

from sweepstack.training.data import digits
from sweepstack.training.data.first_images import COLUMNS, LABEL, SIDE, save_first


def saved(images, labels, path) -> np.ndarray:
    """Pixels [height, width, 3] of the saved sheet, 0 to 255."""
    save_first(images, labels, path / "sheet.png")
    with Image.open(path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        return np.array(sheet.convert("RGB")).astype(int)


def picture(sheet: np.ndarray, place: int) -> np.ndarray:
    """The picture at a place, without the margin left and right of it."""
    left, top = place % COLUMNS * SIDE, place // COLUMNS * (SIDE + LABEL) + LABEL
    return sheet[top : top + SIDE - 4, left + 2 : left + SIDE - 2]


def label(sheet: np.ndarray, place: int) -> np.ndarray:
    left, top = place % COLUMNS * SIDE, place // COLUMNS * (SIDE + LABEL)
    return sheet[top : top + LABEL, left : left + SIDE]


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (7, 7, 1), (10, 10, 1), (11, 10, 2), (30, 10, 3)])
def test_ten_images_make_a_row(tmp_path, count, columns, rows):
    sheet = saved(torch.rand(count, 1, 8, 8), torch.arange(count), tmp_path)
    assert sheet.shape == (rows * (SIDE + LABEL), columns * SIDE, 3)


def test_the_images_can_be_read_off_the_sheet(tmp_path):
    images, labels = digits(train=True).tensors
    sheet = saved(images[:12].unsqueeze(1), labels[:12], tmp_path)
    for place in range(12):
        blocks = picture(sheet, place).reshape(8, 10, 8, 10, 3)  # 8 pixels of 10 by 10 each way
        assert (blocks == blocks[:, :1, :, :1]).all()
        stretched = (images[place] - images[place].min()) / (images[place].max() - images[place].min())
        np.testing.assert_allclose(blocks[:, 0, :, 0, 0], stretched.numpy() * 255, atol=1)


def test_above_each_image_stands_its_label(tmp_path):
    sheet = saved(torch.zeros(4, 1, 8, 8), torch.tensor([3, 5, 3, 8]), tmp_path)
    inked = [label(sheet, place) for place in range(4)]
    assert all((ink < 128).any() for ink in inked)
    assert (inked[0] == inked[2]).all()
    assert (inked[0] != inked[1]).any()
    assert (inked[0] != inked[3]).any()


def test_colours_stay(tmp_path):
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    image[0, 1, :, :4] = 255  # left half green
    image[0, 2, :, 4:] = 255  # right half blue
    shown = picture(saved(image, torch.tensor([0]), tmp_path), 0)
    assert shown[0, 0].tolist() == [0, 255, 0]
    assert shown[0, -1].tolist() == [0, 0, 255]


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (2, 8, 8), (4, 8, 8), (64,)])
def test_images_of_any_shape_are_shown(tmp_path, shape):
    shown = picture(saved(torch.rand(3, *shape), torch.arange(3), tmp_path), 2)
    assert shown.std() > 10


def test_an_even_image_is_no_division_by_zero(tmp_path):
    shown = picture(saved(torch.full((1, 1, 8, 8), 0.7), torch.tensor([1]), tmp_path), 0)
    assert (shown == 0).all()
