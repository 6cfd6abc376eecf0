"""A trained model in use: inputs -> what its task answers. `mlflow.pyfunc.load_model` loads it."""

from __future__ import annotations

import enum
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sweepstack.config.schema import TrialConfig
from sweepstack.data_files.encoder import Encoder
from sweepstack.data_files.facts import IMAGES
from sweepstack.errors import UserError, one_line
from sweepstack.inference.handwriting import prepare_image, read_image
from sweepstack.inference.inputs import (
    ROWS,
    TENSORS,
    InputError,
    check_is_file,
    has_items,
    read_inputs,
    read_table,
)
from sweepstack.inference.weights import describe_load_error
from sweepstack.training import models
from sweepstack.training.tasks import Classification, Multilabel, Regression
from sweepstack.training.tasks.built import build_task
from sweepstack.training.trainer import autocast_of
from sweepstack.trial import WEIGHTS

METADATA_FILE = "predictor.json"
"""The file beside the weights that describes the model."""
METADATA_FILE_OF_0_1 = "classifier.json"
"""Its name in models that version 0.1 has registered."""
CHUNK = 2000
"""The number of items that are predicted at once."""
CPU = torch.device("cpu")
"""The device of every predictor."""
ANSWER_TOLERANCE = 1e-4
"""The largest difference between two answers that rounding can cause."""


class Answer(enum.Enum):
    """What a model in use answers for an item."""

    CLASS = enum.auto()
    """The probability of each class; they add up to 1."""
    LABELS = enum.auto()
    """The probability of each label."""
    NUMBERS = enum.auto()
    """What a regression predicts."""
    OWN = enum.auto()
    """What a task of the user's own predicts; by default the outputs."""


class Predictor:
    """A trained model, on the CPU.

    Args:
        config: the config that it was trained with.
        weights: its `state_dict`, as `torch.save` wrote it; only tensors are read from it.
        high: the value of the brightest pixels of its dataset, before they are scaled.
        dtype: the type of the dataset's items, "uint8" or "float32".
        box: the longest side of the drawing in a typical image of the dataset, in pixels.
        centre: row and column of the drawing's centre of mass in a typical image of the dataset.
        columns: of a table, how its columns become numbers, as `Encoder.as_plain` returns it.
        classes: the names of the classes, if they have names.

    Raises:
        UserError: the weights do not belong to this model, or the class of the model or the task cannot be imported.
    """

    def __init__(
        self,
        config: TrialConfig,
        weights: bytes,
        high: float,
        dtype: str,
        box: int,
        centre: Sequence[float],
        columns: Iterable[Mapping[str, Any]] | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.config, self.high, self.dtype, self.box = config, high, np.dtype(dtype), box
        self.centre = (centre[0], centre[1])
        self.encoder = Encoder.from_plain(columns) if columns is not None else None
        self.classes = classes
        self.task = build_task(config.task)
        target = config.model.target
        try:
            with torch.random.fork_rng(devices=[]):  # initial weights are drawn from the global random state
                self._model = models.build_model(config.model).eval()
            self._model.load_state_dict(torch.load(io.BytesIO(weights), map_location=CPU, weights_only=True))
        except UserError:
            raise
        except Exception as error:  # a damaged file, and a user's class, can fail in any way
            reason = describe_load_error(error)
            rule = f"the weights must be those of {target}, they are not ({reason})"
            raise UserError(rule, remedy="train the trial again with rerun=true") from error

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one item.

        Raises:
            UserError: its items have no shape in common.
        """
        if self.config.dataset.shape is None:
            rule = "a model must have items of one shape to be used here, dataset.shape says none"
            raise UserError(rule, remedy=f"load its {WEIGHTS} in a program of your own")
        return self.config.dataset.shape

    @property
    def answer(self) -> Answer:
        """What `predict` returns for an item."""
        kinds = ((Classification, Answer.CLASS), (Multilabel, Answer.LABELS), (Regression, Answer.NUMBERS))
        return next((answer for kind, answer in kinds if isinstance(self.task, kind)), Answer.OWN)

    @property
    def takes_pictures(self) -> bool:
        """True if an item is an image of a folder, or any grey image."""
        return self.config.dataset.target == IMAGES or is_grey_image(self.shape)

    @property
    def file(self) -> str:
        """The name of a file that it could predict, as an example."""
        return "IMAGE.png" if self.takes_pictures else f"ROWS{ROWS}" if len(self.shape) == 1 else f"ITEMS{TENSORS}"

    @torch.inference_mode()
    def predict(self, inputs: NDArray[Any], params: dict[str, Any] | None = None) -> NDArray[Any]:
        """Computes what the task answers for items [n, *shape], which have the dataset's values and dtype.

        The items are scaled and standardised as in training. The answer is float32 [n, classes] of probabilities, of a
        regression float32 [n, outputs], of a task of the user's own what it predicts, [n, ...].

        Args:
            inputs: the items.
            params: MLflow passes it; it is ignored.
        """
        outputs = self.outputs(inputs)
        match self.answer:
            case Answer.CLASS:
                return torch.softmax(outputs, 1).numpy()
            case Answer.LABELS:
                return torch.sigmoid(outputs).numpy()
            case Answer.NUMBERS:
                return outputs.reshape(len(outputs), self.config.dataset.outputs or 1).numpy()
            case Answer.OWN:
                return self.task.predictions(outputs).numpy()

    @torch.inference_mode()
    def outputs(self, inputs: NDArray[Any]) -> Tensor:
        """Computes the outputs of the model, float32 [n, ...]; see `predict`."""
        chunks = []
        for part in torch.split(torch.from_numpy(np.ascontiguousarray(inputs)), CHUNK):
            ready = part if part.dtype == torch.int64 else self._standardised(part)
            with autocast_of(self.config, CPU):
                chunks.append(self._model(ready.view(len(part), *self.shape)).float())
        return torch.cat(chunks)

    def _standardised(self, part: Tensor) -> Tensor:
        ready = part.float().div_(255) if part.dtype == torch.uint8 else part.float()
        of_channels = (-1, *[1] * (ready.ndim - 2))
        mean, std = (torch.tensor(value) for value in (self.config.dataset.mean, self.config.dataset.std))
        if mean.ndim:
            mean = mean.view(of_channels)
        return (ready - mean) / (std.view(of_channels) if std.ndim else std)

    def check_deterministic(self, inputs: NDArray[Any]) -> None:
        """Checks that the model gives the same answer twice for items [n, *shape].

        Raises:
            UserError: it does not, for example because its dropout is not switched off.
        """
        one, other = self.predict(inputs), self.predict(inputs)
        if not np.allclose(one, other, atol=ANSWER_TOLERANCE, equal_nan=True):
            what = "a probability" if self.answer in (Answer.CLASS, Answer.LABELS) else "a number"
            raise UserError(
                f"a model must give the same answer twice, {self.config.model.target} does not: "
                f"{what} differs by {float(np.abs(one.astype(float) - other).max()):.2g}",
                remedy="let its forward draw no random numbers, and change nothing, when it is not training",
            )

    def predict_file(self, path: Path) -> NDArray[Any]:
        """Computes what the task answers for the items of a file, [n, ...].

        Rows of numbers are read from .csv, tensors from .npy, see `inputs`. If the dataset is a table, a .csv file has
        columns of the same names instead, with values as they are in the table. Any other file is a picture: one
        as the folder of images has them that the model was trained on, or a handwritten digit, see `handwriting`.

        Raises:
            InputError: the file does not hold items for this model, or tokens that it does not know.
            UserError: it is a picture and the model takes no grey images, or the model does not give the same answer
                twice.
        """
        if self.encoder is not None and path.suffix.lower() == ROWS:
            inputs: NDArray[Any] = read_table(path, self.encoder)
        else:
            inputs = read_inputs(path, self.shape, self.dtype) if has_items(path) else self._read_picture(path)
        try:
            self.check_deterministic(inputs[:CHUNK])
            return self.predict(inputs)
        except (IndexError, RuntimeError) as error:
            if inputs.dtype != np.int64:
                raise
            had = f"tokens from {inputs.min()} to {inputs.max()}"
            rule = f"must hold tokens that the model knows ({type(error).__name__}: {one_line(error)})"
            raise InputError(rule, had, "give tokens as its dataset has them") from error

    def _read_picture(self, path: Path) -> NDArray[Any]:
        if not self.takes_pictures:
            rule = "a model must take grey images to read pictures"
            remedy = "give rows of numbers (.csv) or tensors (.npy), or choose another with --model"
            raise UserError(rule, list(self.shape), remedy)
        if self.config.dataset.target == IMAGES:
            return _read_as_in_folder(path, self.config.dataset.keywords)[None]
        scaled = prepare_image(read_image(path), self.shape, self.box, self.centre) * self.high
        image = scaled.round().astype(np.uint8) if self.dtype == np.uint8 else scaled.astype(self.dtype)
        return image.reshape(1, *self.shape)

    def get_raw_model(self) -> Predictor:
        """Returns itself; MLflow's wrapper calls this."""
        return self

    def save(self, folder: Path, weights: bytes) -> None:
        """Writes the model to a folder, as `load` reads it.

        Args:
            folder: the folder.
            weights: its `state_dict`, as `torch.save` wrote it.
        """
        config = self.config.model_dump(mode="json", by_alias=True)
        about = {"config": config, "high": self.high, "dtype": self.dtype.name, "box": self.box, "centre": self.centre}
        if self.encoder is not None:
            about["columns"] = self.encoder.as_plain()
        if self.classes is not None:
            about["classes"] = list(self.classes)
        (folder / METADATA_FILE).write_text(json.dumps(about, indent=2, sort_keys=True), encoding="utf-8")
        (folder / WEIGHTS).write_bytes(weights)

    @classmethod
    def load(cls, folder: Path) -> Predictor:
        """Reads a model that `save` has written."""
        known = folder / METADATA_FILE_OF_0_1
        about = json.loads((known if known.exists() else folder / METADATA_FILE).read_text(encoding="utf-8"))
        config = TrialConfig.model_validate(about.pop("config"))
        return cls(config, (folder / WEIGHTS).read_bytes(), **about)


def _read_as_in_folder(path: Path, keywords: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Reads an image as the dataset with these keywords does, uint8 [channels, height, width]."""
    from sweepstack.training.data.named.image_folder import read_picture

    try:
        check_is_file(path)
        return read_picture(path, **{name: value for name, value in keywords.items() if name in ("size", "grey")})
    except InputError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        raise InputError(f"must be an image that can be read ({one_line(error)})", remedy="correct it") from error


def is_grey_image(shape: Sequence[int]) -> bool:
    """True if an item of a shape is a grey image."""
    return len(shape) >= 2 and math.prod(shape[:-2]) == 1


def _load_pyfunc(path: str) -> Predictor:
    """Loads a registered model; MLflow calls this."""
    return Predictor.load(Path(path))
