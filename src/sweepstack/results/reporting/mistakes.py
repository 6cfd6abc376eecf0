"""What a classifier gets wrong: its confusion matrix, and its most confident mistakes on test images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sweepstack.errors import UserError
from sweepstack.results.reporting.plots.palette import AXES, CELL, CELLS, ON_DARK, OPAQUE
from sweepstack.results.reporting.plots.style import figure, styled
from sweepstack.results.reporting.predicted import load_test_data
from sweepstack.results.selection.predictions import count_changed_predictions
from sweepstack.tracking.artifacts import artifact
from sweepstack.tracking.store import Store
from sweepstack.trial import WEIGHTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sweepstack.config.schema import TrialConfig

MAX_IMAGES = 12
"""The most wrong images that are shown."""
COLUMNS = 6
"""The number of such images in a row."""
CELL_HEIGHT = 1.5
"""Inches for such an image and the text above it."""
IMAGE_SIDE = 1.05
"""Inches for the longer side of an image."""
TITLE_HEIGHT = 0.35
"""Inches for the title above them."""
MAX_LABELLED_CLASSES = 20
"""The most classes for which the matrix shows counts as numbers."""


@dataclass(frozen=True)
class Answers:
    """What a model predicts for the test images, in their order."""

    images: NDArray[Any]
    """The images as the dataset has them, [n, *shape]."""
    labels: NDArray[np.int64]
    """The true class of each image, [n]."""
    probabilities: NDArray[np.float32]
    """The predicted probabilities, [n, classes]."""


def answers_of(store: Store, run_id: str, config: TrialConfig, digest: str) -> Answers:
    """Returns what a run's model predicts for the test images.

    Args:
        store: the store with the run.
        run_id: the id of the run.
        config: its config.
        digest: checksum of the data that it was trained and tested on; empty if that is not known.

    Raises:
        UserError: its weights are missing, its data cannot be obtained or are others now, or it predicts something else
            than when it was trained.
    """
    from sweepstack.inference.trial_data import build_predictor, inputs_to_test

    weights = artifact(store, run_id, WEIGHTS)
    if weights is None:
        raise UserError("its weights are not in the store", remedy="train it again with rerun=true")
    loaded = load_test_data(config, digest)
    images = inputs_to_test(loaded)
    probabilities = build_predictor(config, weights).predict(images)
    if changed := count_changed_predictions(store, run_id, probabilities.argmax(1)):
        rule = f"with the present code it predicts {changed} of {len(images)} test images differently than when it was"
        raise UserError(f"{rule} trained", remedy="train it again with rerun=true")
    return Answers(images, loaded.test_targets.numpy(), probabilities)


def confusion(answers: Answers) -> NDArray[Any]:
    """Counts test images by their true class (rows) and their predicted class (columns); int64 [classes, classes]."""
    classes = answers.probabilities.shape[1]
    predicted = answers.probabilities.argmax(1)
    return np.bincount(answers.labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def surest_mistakes(answers: Answers) -> NDArray[Any]:
    """Returns the indices of the wrongly classified test images, the most confident mistake first; int64 [n]."""
    predicted = answers.probabilities.argmax(1)
    wrong = np.flatnonzero(predicted != answers.labels)
    return wrong[np.argsort(-answers.probabilities[wrong, predicted[wrong]], kind="stable")]


def confusion_matrix(answers: Answers) -> Figure:
    """Draws the mistakes as a matrix: a cell has more colour the more images of its row go to its column's class.

    Correct answers have no colour.
    """
    from matplotlib.colors import LinearSegmentedColormap

    counts = confusion(answers)
    classes = len(counts)
    rates = np.where(np.eye(classes, dtype=bool), 0.0, counts) / np.maximum(counts.sum(1, keepdims=True), 1)
    top = rates.max() or 1.0
    colours = LinearSegmentedColormap.from_list(CELLS, [(CELL, 0.0), (CELL, 1.0)])
    with styled():
        side = min(9.0, 2.2 + 0.48 * classes)
        drawn = figure(side, side * 0.92)
        axes = drawn.subplots()
        axes.imshow(rates / top, cmap=colours, vmin=0, vmax=1, interpolation="nearest", gid=CELLS)
        if classes <= MAX_LABELLED_CLASSES:
            for true, predicted in np.argwhere(counts):
                clear = AXES["faint" if true == predicted else "on-clear"].light
                ink = ON_DARK if rates[true, predicted] > OPAQUE * top else clear
                axes.text(
                    predicted, true, f"{counts[true, predicted]}", ha="center", va="center", color=ink, fontsize=9
                )
            axes.set_xticks(range(classes))
            axes.set_yticks(range(classes))
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set(xlabel="what the model says", ylabel="what it is")
        wrong = int(counts.sum() - np.trace(counts))
        drawn.suptitle(f"{wrong:,} of {counts.sum():,} test images are classified wrongly", x=0.01, ha="left")
    return drawn


def wrong_images(answers: Answers) -> Figure:
    """Draws the test images with the model's most confident mistakes."""
    indices = surest_mistakes(answers)[:MAX_IMAGES]
    rows = -(-len(indices) // COLUMNS)
    width, height = 8.0, CELL_HEIGHT * rows
    with styled():
        drawn = figure(width, TITLE_HEIGHT + height)
        drawn.set_layout_engine("none")
        axes = drawn.add_axes((0, 0, 1, height / (TITLE_HEIGHT + height)))  # one for all: the units are inches
        axes.set_axis_off()
        for number, index in enumerate(indices):
            row, column = divmod(number, COLUMNS)
            middle, top = (column + 0.5) * width / COLUMNS, height - row * CELL_HEIGHT - 0.4
            picture = _picture(answers.images[index])
            high, wide = (IMAGE_SIDE * side / max(picture.shape[:2]) / 2 for side in picture.shape[:2])
            extent = (middle - wide, middle + wide, top - 2 * high, top)
            axes.imshow(picture, cmap="gray_r", interpolation="nearest", extent=extent)
            predicted = answers.probabilities[index].argmax()
            sure = answers.probabilities[index, predicted]
            text = f"{answers.labels[index]}, taken for {predicted}\n({min(sure, 0.9999):.2%} sure)"
            axes.text(middle, top + 0.05, text, ha="center", va="bottom", fontsize=9)
        axes.set(xlim=(0, width), ylim=(0, height), aspect="auto")
        drawn.suptitle("The most confident mistakes of the model", x=0.01, ha="left")
    return drawn


def _picture(image: NDArray[Any]) -> NDArray[Any]:
    """Converts an image [*shape] for matplotlib: [height, width], or [height, width, 3] with colours from 0 to 1."""
    picture = np.atleast_2d(image)
    if picture.ndim > 2 and len(picture) < 3:
        picture = picture[0]
    elif picture.ndim > 2:
        picture = np.moveaxis(picture[:3], 0, -1).astype(float)
        picture = (picture - picture.min()) / ((picture.max() - picture.min()) or 1.0)
    return picture
