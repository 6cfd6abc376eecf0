"""A trained model in use: weights and config -> probabilities of images. What `mlflow.pyfunc.load_model` loads."""

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

from sweepstack.config.schema import DatasetConfig, TrialConfig
from sweepstack.errors import DataError, UserError, one_line
from sweepstack.inference.handwriting import centre_of_mass, longest_side, prepare_image, read_image
from sweepstack.training import models
from sweepstack.training.data import datasets
from sweepstack.training.trainer import autocast_of
from sweepstack.trial import WEIGHTS

METADATA_FILE = "classifier.json"
CHUNK = 2000
"""Images at once."""
CPU = torch.device("cpu")
ANSWER_TOLERANCE = 1e-4
"""How far two answers for one image may be apart, in probability: rounding."""


class Classifier:
    """A trained model, on the CPU.

    Args:
        config: what it was trained with.
        weights: its `state_dict`, as `torch.save` wrote it; nothing but tensors is read from it.
        high: what the brightest pixels of its dataset are, before the dataset's scaling.
        dtype: of the dataset's images, "uint8" or "float32".
        box: the longest side of what is drawn in most images of the dataset, in pixels.
        centre: row and column of its centre of mass in most images of the dataset.

    Raises:
        UserError: the weights are not of this model, or its class cannot be had.
    """

    def __init__(
        self, config: TrialConfig, weights: bytes, high: float, dtype: str, box: int, centre: Sequence[float]
    ) -> None:
        self.config, self.high, self.dtype, self.box = config, high, np.dtype(dtype), box
        self.centre = (centre[0], centre[1])
        target = config.model.target
        try:
            with torch.random.fork_rng(devices=[]):  # fresh weights draw from the global state
                self._model = models.build_model(config.model).eval()
            self._model.load_state_dict(torch.load(io.BytesIO(weights), map_location=CPU, weights_only=True))
        except UserError:
            raise
        except Exception as error:  # a damaged file, and a user's class, can fail in any way
            reason = _why_not_loaded(error)
            rule = f"the weights must be those of {target}, they are not ({reason})"
            raise UserError(rule, remedy="train the trial again with rerun=true") from error

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image."""
        return self.config.dataset.shape

    @torch.inference_mode()
    def predict(self, images: NDArray[Any], params: dict[str, Any] | None = None) -> NDArray[np.float32]:
        """Images [n, *shape] as the dataset has them, of its dtype, to probabilities [n, classes].

        They are scaled and standardised as in training. `params` is MLflow's, and changes nothing.
        """
        found = []
        for part in torch.split(torch.from_numpy(np.ascontiguousarray(images)), CHUNK):
            ready = part.float().div_(255) if part.dtype == torch.uint8 else part.float()
            ready = (ready - self.config.dataset.mean) / self.config.dataset.std
            with autocast_of(self.config, CPU):
                logits = self._model(ready.view(len(part), *self.shape)).float()
            found.append(torch.softmax(logits, 1))
        return torch.cat(found).numpy() if found else np.empty((0, self.config.dataset.classes), np.float32)

    def check_twice(self, images: NDArray[Any]) -> None:
        """That the model gives the same answer twice for images [n, *shape].

        Raises:
            UserError: it does not, as with dropout that is not switched off.
        """
        one, other = self.predict(images), self.predict(images)
        if not np.allclose(one, other, atol=ANSWER_TOLERANCE, equal_nan=True):
            raise UserError(
                f"a model must give the same answer twice, {self.config.model.target} does not: "
                f"{_difference(one, other)}",
                remedy="let its forward draw no random numbers, and change nothing, when it is not training",
            )

    def of_pictures(self, paths: Sequence[Path]) -> NDArray[np.float32]:
        """Probabilities [n, classes] of PNG or JPEG files of handwritten digits, prepared as in `handwriting`.

        Raises:
            PictureError: a file is no picture of something.
            UserError: the model takes no grey images, or does not give the same answer twice.
        """
        if len(self.shape) < 2 or math.prod(self.shape[:-2]) != 1:
            rule = "a model must take grey images to classify pictures"
            raise UserError(rule, list(self.shape), "choose another with --model")
        prepared = np.stack([prepare_image(read_image(path), self.shape, self.box, self.centre) for path in paths])
        scaled = prepared * self.high
        images = scaled.round().astype(np.uint8) if self.dtype == np.uint8 else scaled.astype(self.dtype)
        images = images.reshape(len(paths), *self.shape)
        self.check_twice(images)
        return self.predict(images)

    def get_raw_model(self) -> Classifier:
        """What MLflow's wrapper calls to give it back."""
        return self

    def save(self, folder: Path, weights: bytes) -> None:
        """Writes what `load` reads."""
        config = self.config.model_dump(mode="json", by_alias=True)
        about = {"config": config, "high": self.high, "dtype": self.dtype.name, "box": self.box, "centre": self.centre}
        (folder / METADATA_FILE).write_text(json.dumps(about, indent=2, sort_keys=True), encoding="utf-8")
        (folder / WEIGHTS).write_bytes(weights)

    @classmethod
    def load(cls, folder: Path) -> Classifier:
        """What `save` wrote."""
        about = json.loads((folder / METADATA_FILE).read_text(encoding="utf-8"))
        config = TrialConfig.model_validate(about.pop("config"))
        return cls(config, (folder / WEIGHTS).read_bytes(), **about)


def classifier(config: TrialConfig, weights: bytes) -> Classifier:
    """The model of a trial; its dataset must be at hand.

    Raises:
        UserError: see `Classifier`.
        DataError: the dataset cannot be had.
    """
    images = datasets.load_data(config.dataset, 0.0, CPU).test_images
    high = 255.0 if images.dtype == torch.uint8 else float(images.max())
    dtype = str(images.dtype).removeprefix("torch.")
    pixels = images.numpy() / high
    if pixels.ndim < 3:  # a row of numbers, no picture
        return Classifier(config, weights, high, dtype, 1, (0.0, 0.0))
    return Classifier(config, weights, high, dtype, longest_side(pixels), centre_of_mass(pixels))


def example(config: TrialConfig) -> NDArray[Any]:
    """The first two test images, as the dataset has them."""
    return datasets.load_data(config.dataset, 0.0, CPU).test_images[:2].numpy()


def predicted_of_test(trained: Classifier) -> tuple[str, NDArray[np.int64]]:
    """The checksum of a model's dataset, and the classes that the model predicts for its test images, [n]."""
    loaded = datasets.load_data(trained.config.dataset, 0.0, CPU)
    return loaded.facts.digest, trained.predict(loaded.test_images.numpy()).argmax(1)


def labels_of_test(config: DatasetConfig) -> tuple[str, NDArray[np.int64]]:
    """The checksum of a dataset, and the labels of its test images, [n].

    Raises:
        DataError: it cannot be had.
    """
    return _labels_of_test(config.model_dump_json(by_alias=True))


@functools.lru_cache(maxsize=8)
def _labels_of_test(config_json: str) -> tuple[str, NDArray[np.int64]]:
    try:
        loaded = datasets.load_data(DatasetConfig.model_validate_json(config_json), 0.0, CPU)
    except UserError as error:  # ConfigErrors of a user's target among them
        raise DataError(error.rule, error.value, error.remedy, where=error.where) from error
    return loaded.facts.digest, loaded.test_labels.numpy()


class Distance(NamedTuple):
    """How far the weights of two files are apart; infinite where they are of different models, or only one of them is a
    number."""

    most: float
    """The largest difference of two weights."""
    relative: float
    """The Euclidean norm of the differences, relative to that of the weights."""


def distance(one: IO[bytes], other: IO[bytes]) -> Distance:
    """How far the weights of two files are apart.

    Raises:
        UserError: a file does not hold weights.
    """
    try:
        was, now = (torch.load(file, map_location=CPU, weights_only=True) for file in (one, other))
    except Exception as error:  # a damaged file can fail in any way
        rule = f"both files must hold the weights of a model, one does not ({_why_not_loaded(error)})"
        raise UserError(rule, remedy="train the trial again with rerun=true") from error
    if {name: value.shape for name, value in was.items()} != {name: value.shape for name, value in now.items()}:
        return Distance(math.inf, math.inf)
    apart, size = torch.zeros(1).double(), 0.0
    for name, value in was.items():
        if value.is_floating_point():  # else a counter, which would hide how small the weights are
            size = math.hypot(size, float(value.double().norm()))
        if value.numel() and not torch.equal(value, now[name]):
            apart = torch.cat([apart, (value.double() - now[name].double()).flatten()])
    most, norm = float(apart.abs().max()), float(apart.norm())
    if not math.isfinite(most):
        return Distance(math.inf, math.inf)
    return Distance(most, norm / size if size else math.inf if norm else 0.0)


def has_kinks(config: TrialConfig) -> bool:
    """Whether a model has a function such as ReLU or max pooling, where the smallest difference of what goes in decides
    which way it goes on; False where the model cannot be had here."""
    try:
        with torch.random.fork_rng(devices=[]):
            logits = models.answer_to_any(models.build_model(config.model).eval(), config.dataset.shape)
    except Exception:  # a user's class can fail in any way
        return False
    unread = [] if logits is None else [logits.grad_fn]
    seen = set()
    while unread:
        if (node := unread.pop()) is not None and node not in seen:
            seen.add(node)
            unread += [before for before, _ in node.next_functions]
    return any(re.match("(Leaky|P|R)?Relu|MaxPool|Hardtanh|Clamp", type(node).__name__) for node in seen)


def _why_not_loaded(error: Exception) -> str:
    """Why weights cannot be loaded. PyTorch's own text would advise to load them without its protection."""
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return "the file holds something else than tensors: it is damaged, or was replaced"
    return f"{type(error).__name__}: {one_line(error)}"


def _difference(one: NDArray[np.float32], other: NDArray[np.float32]) -> str:
    return f"a probability is {float(np.abs(one - other).max()):.2g} apart"


def _load_pyfunc(path: str) -> Classifier:
    """What MLflow calls to load a model of ours."""
    return Classifier.load(Path(path))
