"""Draws the first images of a dataset into one picture."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

SIDE = 84
"""Pixels of the square of an image."""
LABEL = 20
"""Pixels of the height of a label."""
COLUMNS = 10
"""Images in a row."""


def save_first(images: Tensor, labels: Tensor, path: Path) -> None:
    """Saves images with their labels above them as one PNG file.

    Args:
        images: [n, channels, height, width].
        labels: [n].
        path: the file to write.
    """
    rows = -(-len(images) // COLUMNS)
    sheet = Image.new("RGB", (min(len(images), COLUMNS) * SIDE, rows * (SIDE + LABEL)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        left, top = index % COLUMNS * SIDE, index // COLUMNS * (SIDE + LABEL)
        image = image.float()
        low, high = image.min(), image.max()
        pixels = ((image - low) / (high - low).clamp(min=1e-8) * 255).byte()
        pixels = pixels.reshape(-1, *(1, *pixels.shape)[-2:])[: 3 if len(pixels) >= 3 else 1]
        picture = Image.fromarray(pixels.movedim(0, -1).squeeze(-1).cpu().numpy()).convert("RGB")
        sheet.paste(picture.resize((SIDE - 4, SIDE - 4), Image.Resampling.NEAREST), (left + 2, top + LABEL))
        draw.text((left + SIDE // 2, top + LABEL // 2), str(label), fill="black", anchor="mm")
    sheet.save(path)
