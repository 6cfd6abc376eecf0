"""What the selected model gets wrong: its confusion matrix, and the test images that it is surest of and wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from sweepstack.config import parse
from sweepstack.errors import UserError, one_line
from sweepstack.results.drawing import INK, figure, styled
from sweepstack.tracking.origin import Origin, artifact
from sweepstack.tracking.store import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sweepstack.training.answers import Answers

SHOWN = 12
"""Images."""
LETTERS = 20
"""Classes, at most, whose counts are written into the matrix."""


def answers_of(store: Store, run_id: str, origin: Origin) -> Answers | str:
    """What a run's model answers to the test images, or a sentence on why that cannot be had here."""
    if not origin.config:
        return "The config of the selected trial is not in the store, so its mistakes cannot be shown."
    with artifact(store, run_id, "weights.pt") as weights:
        if weights is None:
            return "The weights of the selected trial are not in the store, so its mistakes cannot be shown."
        try:
            from sweepstack.training.answers import answers

            found = answers(parse(DictConfig(OmegaConf.create(origin.config))), weights)
        except UserError as error:
            return f"The mistakes of the selected trial cannot be shown here: {one_line(error)}."
        except Exception as error:  # weights that are none, or a model of the user's that is not at hand
            return (
                f"The mistakes of the selected trial cannot be shown here: {type(error).__name__}: {one_line(error)}."
            )
    if origin.digest and found.digest != origin.digest:
        return (
            f"The mistakes of the selected trial cannot be shown here: the dataset's checksum was {origin.digest} when "
            f"it was trained, and is {found.digest} now."
        )
    return found


def confusion(answers: Answers) -> np.ndarray[Any, Any]:
    """Test images by what they are (down) and what the model says (across); int64 [classes, classes]."""
    classes = answers.probabilities.shape[1]
    said = answers.probabilities.argmax(1)
    return np.bincount(answers.labels * classes + said, minlength=classes**2).reshape(classes, classes)


def surest_mistakes(answers: Answers) -> np.ndarray[Any, Any]:
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
    places = surest_mistakes(answers)[:SHOWN]
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


def _picture(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """One image [*shape] as matplotlib draws it: [height, width], or with three colours from 0 to 1 behind."""
    picture = np.atleast_2d(image)
    if picture.ndim > 2 and len(picture) < 3:
        picture = picture[0]
    elif picture.ndim > 2:
        picture = np.moveaxis(picture[:3], 0, -1).astype(float)
        picture = (picture - picture.min()) / ((picture.max() - picture.min()) or 1.0)
    return picture
