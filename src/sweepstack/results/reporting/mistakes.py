"""What the selected model gets wrong: its confusion matrix, and the test images that it is surest of and wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sweepstack.errors import UserError, one_line
from sweepstack.results.reporting.plots.style import INK, figure, styled
from sweepstack.results.selection.predictions import predicted_otherwise
from sweepstack.tracking.artifacts import artifact, config_of
from sweepstack.tracking.store import Store
from sweepstack.trial import WEIGHTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_IMAGES = 12
"""Images."""
LETTERS = 20
"""Classes, at most, whose counts are written into the matrix."""


@dataclass(frozen=True)
class Answers:
    """What a model answers to the test images, in their order."""

    images: NDArray[Any]
    """As the dataset has them, [n, *shape]."""
    labels: NDArray[np.int64]
    """[n]"""
    probabilities: NDArray[np.float32]
    """[n, classes]"""


def answers_of(store: Store, run_id: str, digest: str) -> Answers | str:
    """What a run's model answers to the test images, or a sentence on why that cannot be had here.

    Args:
        digest: checksum of the data that it was trained and tested on; empty where that is not known.
    """
    try:
        config, weights = config_of(store, run_id), artifact(store, run_id, WEIGHTS)
        if weights is None:
            return "The weights of the trial to use are not in the store, so its mistakes cannot be shown."
        from sweepstack.inference import classifier
        from sweepstack.training.data import datasets

        loaded = datasets.load_data(config.dataset, 0.0, classifier.CPU)
        if digest and loaded.facts.digest != digest:
            return (
                "The mistakes of the trial to use cannot be shown here: the checksum of its dataset was "
                f"{digest}, and is {loaded.facts.digest} now."
            )
        images = loaded.test_images.numpy()
        probabilities = classifier.classifier(config, weights).predict(images)
        if otherwise := predicted_otherwise(store, run_id, probabilities.argmax(1)):
            return (
                "The mistakes of the trial to use cannot be shown here: with the code of now it predicts "
                f"{otherwise} of {len(images)} test images otherwise than when it was trained."
            )
    except UserError as error:
        return f"The mistakes of the trial to use cannot be shown here: {one_line(error)}."
    return Answers(images, loaded.test_labels.numpy(), probabilities)


def confusion(answers: Answers) -> NDArray[Any]:
    """Test images by what they are (down) and what the model says (across); int64 [classes, classes]."""
    classes = answers.probabilities.shape[1]
    said = answers.probabilities.argmax(1)
    return np.bincount(answers.labels * classes + said, minlength=classes**2).reshape(classes, classes)


def surest_mistakes(answers: Answers) -> NDArray[Any]:
    """Places of the wrongly classified test images, the one whose wrong class is the most probable first; int64 [n]."""
    said = answers.probabilities.argmax(1)
    wrong = np.flatnonzero(said != answers.labels)
    return wrong[np.argsort(-answers.probabilities[wrong, said[wrong]], kind="stable")]


def confusion_matrix(answers: Answers) -> Figure:
    """The mistakes as a matrix: dark where many of a class are taken for one other. The right answers stay white."""
    counts = confusion(answers)
    classes = len(counts)
    rates = np.where(np.eye(classes, dtype=bool), 0.0, counts) / np.maximum(counts.sum(1, keepdims=True), 1)
    top = rates.max() or 1.0
    with styled():
        side = min(9.0, 2.2 + 0.48 * classes)
        drawn = figure(side, side * 0.92)
        axes = drawn.subplots()
        axes.imshow(rates, cmap="Blues", vmin=0, vmax=top * 1.15, interpolation="nearest")
        if classes <= LETTERS:
            for true, said in np.argwhere(counts):
                ink = "white" if rates[true, said] > 0.6 * top else "#777777" if true == said else INK
                axes.text(said, true, f"{counts[true, said]}", ha="center", va="center", color=ink, fontsize=9)
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
    """The test images that the model is surest of and wrong."""
    places = surest_mistakes(answers)[:MAX_IMAGES]
    columns = 6
    rows = -(-len(places) // columns)
    with styled():
        drawn = figure(8.0, 0.6 + 1.5 * rows)
        panels = drawn.subplots(rows, columns, squeeze=False).flatten()
        for axes in panels:
            axes.set_axis_off()
        for axes, place in zip(panels, places, strict=False):
            said = answers.probabilities[place].argmax()
            axes.imshow(_picture(answers.images[place]), cmap="gray_r", interpolation="nearest")
            sure = answers.probabilities[place, said]
            axes.set_title(
                f"{answers.labels[place]}, taken for {said}\n({min(sure, 0.9999):.2%} sure)", fontsize=9, loc="center"
            )
        drawn.suptitle("The mistakes that the model is surest of", x=0.01, ha="left")
    return drawn


def _picture(image: NDArray[Any]) -> NDArray[Any]:
    """One image [*shape] as matplotlib draws it: [height, width], or with three colours from 0 to 1 behind."""
    picture = np.atleast_2d(image)
    if picture.ndim > 2 and len(picture) < 3:
        picture = picture[0]
    elif picture.ndim > 2:
        picture = np.moveaxis(picture[:3], 0, -1).astype(float)
        picture = (picture - picture.min()) / ((picture.max() - picture.min()) or 1.0)
    return picture
