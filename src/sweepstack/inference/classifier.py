"""A trained model in use: weights and config -> probabilities of images. `mlflow.pyfunc.load_model` loads it."""

from __future__ import annotations

import functools
import io
import json
import math
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sweepstack.blame import contained
from sweepstack.config.schema import DatasetConfig, TaskConfig, TrialConfig
from sweepstack.errors import DataError, UserError, one_line
from sweepstack.inference.handwriting import centre_of_mass, longest_side, prepare_image, read_image
from sweepstack.training import models
from sweepstack.training.data import datasets
from sweepstack.training.trainer import autocast_of
from sweepstack.trial import WEIGHTS

METADATA_FILE = "classifier.json"
"""The file beside the weights that describes the model."""
CHUNK = 2000
"""The number of images that are classified at once."""
CPU = torch.device("cpu")
"""The device of every classifier."""
ANSWER_TOLERANCE = 1e-4
"""The largest difference between two probabilities that rounding can cause."""


class Classifier:
    """A trained model, on the CPU.

    Args:
        config: the config that it was trained with.
        weights: its `state_dict`, as `torch.save` wrote it; only tensors are read from it.
        high: the value of the brightest pixels of its dataset, before they are scaled.
        dtype: the type of the dataset's images, "uint8" or "float32".
        box: the longest side of the drawing in a typical image of the dataset, in pixels.
        centre: row and column of the drawing's centre of mass in a typical image of the dataset.

    Raises:
        UserError: the weights do not belong to this model, or its class cannot be imported.
    """

    def __init__(
        self, config: TrialConfig, weights: bytes, high: float, dtype: str, box: int, centre: Sequence[float]
    ) -> None:
        self.config, self.high, self.dtype, self.box = config, high, np.dtype(dtype), box
        self.centre = (centre[0], centre[1])
        target = config.model.target
        try:
            with torch.random.fork_rng(devices=[]):  # initial weights are drawn from the global random state
                self._model = models.build_model(config.model).eval()
            self._model.load_state_dict(torch.load(io.BytesIO(weights), map_location=CPU, weights_only=True))
        except UserError:
            raise
        except Exception as error:  # a damaged file, and a user's class, can fail in any way
            reason = _describe_load_error(error)
            rule = f"the weights must be those of {target}, they are not ({reason})"
            raise UserError(rule, remedy="train the trial again with rerun=true") from error

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return self.config.dataset.shape

    @torch.inference_mode()
    def predict(self, images: NDArray[Any], params: dict[str, Any] | None = None) -> NDArray[np.float32]:
        """Computes the probabilities [n, classes] of images [n, *shape], which have the dataset's values and dtype.

        The images are scaled and standardised as in training.

        Args:
            params: MLflow passes it; it is ignored.
        """
        chunks = []
        for part in torch.split(torch.from_numpy(np.ascontiguousarray(images)), CHUNK):
            ready = part.float().div_(255) if part.dtype == torch.uint8 else part.float()
            ready = (ready - self.config.dataset.mean) / self.config.dataset.std
            with autocast_of(self.config, CPU):
                logits = self._model(ready.view(len(part), *self.shape)).float()
            chunks.append(torch.softmax(logits, 1))
        return torch.cat(chunks).numpy() if chunks else np.empty((0, self.config.dataset.classes or 1), np.float32)

    def check_deterministic(self, images: NDArray[Any]) -> None:
        """Checks that the model gives the same answer twice for images [n, *shape].

        Raises:
            UserError: it does not, for example because its dropout is not switched off.
        """
        one, other = self.predict(images), self.predict(images)
        if not np.allclose(one, other, atol=ANSWER_TOLERANCE, equal_nan=True):
            raise UserError(
                f"a model must give the same answer twice, {self.config.model.target} does not: "
                f"{_describe_difference(one, other)}",
                remedy="let its forward draw no random numbers, and change nothing, when it is not training",
            )

    def predict_pictures(self, paths: Sequence[Path]) -> NDArray[np.float32]:
        """Computes the probabilities [n, classes] of PNG or JPEG files of handwritten digits; see `handwriting`.

        Raises:
            PictureError: a file is not a picture, or shows nothing.
            UserError: the model takes no grey images, or does not give the same answer twice.
        """
        if len(self.shape) < 2 or math.prod(self.shape[:-2]) != 1:
            rule = "a model must take grey images to classify pictures"
            raise UserError(rule, list(self.shape), "choose another with --model")
        prepared = np.stack([prepare_image(read_image(path), self.shape, self.box, self.centre) for path in paths])
        scaled = prepared * self.high
        images = scaled.round().astype(np.uint8) if self.dtype == np.uint8 else scaled.astype(self.dtype)
        images = images.reshape(len(paths), *self.shape)
        self.check_deterministic(images)
        return self.predict(images)

    def get_raw_model(self) -> Classifier:
        """Returns itself; MLflow's wrapper calls this."""
        return self

    def save(self, folder: Path, weights: bytes) -> None:
        """Writes the model to a folder, as `load` reads it.

        Args:
            weights: its `state_dict`, as `torch.save` wrote it.
        """
        config = self.config.model_dump(mode="json", by_alias=True)
        about = {"config": config, "high": self.high, "dtype": self.dtype.name, "box": self.box, "centre": self.centre}
        (folder / METADATA_FILE).write_text(json.dumps(about, indent=2, sort_keys=True), encoding="utf-8")
        (folder / WEIGHTS).write_bytes(weights)

    @classmethod
    def load(cls, folder: Path) -> Classifier:
        """Reads a model that `save` has written."""
        about = json.loads((folder / METADATA_FILE).read_text(encoding="utf-8"))
        config = TrialConfig.model_validate(about.pop("config"))
        return cls(config, (folder / WEIGHTS).read_bytes(), **about)


def classifier(config: TrialConfig, weights: bytes) -> Classifier:
    """Builds the classifier of a trial. Its dataset must be available.

    Args:
        config: the config of the trial.
        weights: its `state_dict`, as `torch.save` wrote it.

    Raises:
        UserError: see `Classifier`; or a loop of the user's own has trained something else than a classifier.
        DataError: the dataset cannot be obtained.
    """
    images = datasets.load_data(config.dataset, 0.0, CPU).test_images
    high = 255.0 if images.dtype == torch.uint8 else float(images.max())
    dtype = str(images.dtype).removeprefix("torch.")
    pixels = images.numpy() / high
    box, centre = 1, (0.0, 0.0)
    if pixels.ndim >= 3:  # else each image is a row of numbers, not a picture
        box, centre = longest_side(pixels), centre_of_mass(pixels)
    found = Classifier(config, weights, high, dtype, box, centre)
    if config.trainer is not None:
        _check_classifies(found, images[:2].numpy())
    return found


def _check_classifies(model: Classifier, images: NDArray[Any]) -> None:
    """Checks that what a loop of the user's own has trained gives a number for each class; it may be anything."""
    target, classes = model.config.model.target, model.config.dataset.classes
    try:
        with contained():
            shape = model.predict(images).shape
    except Exception as error:  # a user's class can fail in any way
        why = one_line(error)
    else:
        why = "" if shape == (len(images), classes) else f"it gives {list(shape[1:])}"
    if why:
        rule = (
            f"a model must give one logit for each of the {classes} classes to be used here, {target} does not ({why})"
        )
        raise UserError(rule, remedy=f"load its {WEIGHTS} in a program of your own")


def example(config: TrialConfig) -> NDArray[Any]:
    """Returns the first two test images, as the dataset has them."""
    return datasets.load_data(config.dataset, 0.0, CPU).test_images[:2].numpy()


def predict_test_images(trained: Classifier) -> tuple[str, NDArray[np.int64]]:
    """Returns the checksum of a model's dataset, and the classes that the model predicts for its test images, [n]."""
    loaded = datasets.load_data(trained.config.dataset, 0.0, CPU)
    return loaded.facts.digest, trained.predict(loaded.test_images.numpy()).argmax(1)


def load_test_targets(config: TrialConfig) -> tuple[str, NDArray[Any]]:
    """Returns the checksum of the dataset of a config, and the targets of its test items: of classes int64 [n].

    Raises:
        DataError: the dataset cannot be obtained.
    """
    return _load_test_targets(config.dataset.model_dump_json(by_alias=True), config.task.model_dump_json(by_alias=True))


@functools.lru_cache(maxsize=8)
def _load_test_targets(dataset_json: str, task_json: str) -> tuple[str, NDArray[Any]]:
    dataset, task = DatasetConfig.model_validate_json(dataset_json), TaskConfig.model_validate_json(task_json)
    try:
        loaded = datasets.load_data(dataset, 0.0, CPU, task)
    except UserError as error:  # also a ConfigError about a user's target
        raise DataError(error.rule, error.value, error.remedy, where=error.where) from error
    return loaded.facts.digest, loaded.test_labels.numpy()


class Distance(NamedTuple):
    """How much the weights of two files differ; infinite if the models differ, or if only one of them is finite."""

    largest: float
    """The largest difference between two weights."""
    relative: float
    """The Euclidean norm of the differences, relative to that of the weights."""


def distance(one: IO[bytes], other: IO[bytes]) -> Distance:
    """Computes how much the weights in two files differ.

    Raises:
        UserError: a file does not hold weights.
    """
    try:
        was, now = (torch.load(file, map_location=CPU, weights_only=True) for file in (one, other))
    except Exception as error:  # a damaged file can fail in any way
        rule = f"both files must hold the weights of a model, one does not ({_describe_load_error(error)})"
        raise UserError(rule, remedy="train the trial again with rerun=true") from error
    if {name: value.shape for name, value in was.items()} != {name: value.shape for name, value in now.items()}:
        return Distance(math.inf, math.inf)
    differences, size = torch.zeros(1).double(), 0.0
    for name, value in was.items():
        if value.is_floating_point():  # not a counter, which would be larger than all weights
            size = math.hypot(size, float(value.double().norm()))
        if value.numel() and not torch.equal(value, now[name]):
            differences = torch.cat([differences, (value.double() - now[name].double()).flatten()])
    largest, norm = float(differences.abs().max()), float(differences.norm())
    if not math.isfinite(largest):
        return Distance(math.inf, math.inf)
    return Distance(largest, norm / size if size else math.inf if norm else 0.0)


def has_kinks(config: TrialConfig) -> bool:
    """True if a model has a function with kinks, such as ReLU or max pooling; False if the model cannot be built here.

    At a kink, the smallest difference of the input changes the gradient.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            logits = models.answer_to_any(models.build_model(config.model).eval(), config.dataset.shape)
    except Exception:  # a user's class can fail in any way
        return False
    unvisited = [] if logits is None else [logits.grad_fn]
    seen = set()
    while unvisited:
        if (node := unvisited.pop()) is not None and node not in seen:
            seen.add(node)
            unvisited += [before for before, _ in node.next_functions]
    return any(re.match("(Leaky|P|R)?Relu|MaxPool|Hardtanh|Clamp", type(node).__name__) for node in seen)


def _describe_load_error(error: Exception) -> str:
    """Says why weights cannot be loaded. PyTorch's own message would advise to load them without its protection."""
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return "the file holds something else than tensors: it is damaged, or was replaced"
    return f"{type(error).__name__}: {one_line(error)}"


def _describe_difference(one: NDArray[np.float32], other: NDArray[np.float32]) -> str:
    return f"a probability differs by {float(np.abs(one - other).max()):.2g}"


def _load_pyfunc(path: str) -> Classifier:
    """Loads a registered model; MLflow calls this."""
    return Classifier.load(Path(path))
