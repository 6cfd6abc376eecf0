"""The test data of a trial, and what its model predicts for them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sweepstack.blame import contained
from sweepstack.config.schema import HeldOut, TrialConfig
from sweepstack.config.trial_sections import DatasetConfig, TaskConfig
from sweepstack.data_files.facts import IMAGES, TABLE
from sweepstack.data_files.images import class_folders
from sweepstack.data_files.table import choose
from sweepstack.errors import DataError, UserError, one_line
from sweepstack.inference.handwriting import centre_of_mass, longest_side
from sweepstack.inference.predictor import CPU, Predictor, is_grey_image
from sweepstack.training.data.load import load_data
from sweepstack.training.data.source import EVALUATED, Data
from sweepstack.training.data.streamed import ItemError
from sweepstack.training.tasks.task import check_rows
from sweepstack.trial import WEIGHTS


def load_test_data(config: TrialConfig) -> Data:
    """Loads the data of a trial; of its parts only those for tests are of use.

    Raises:
        UserError: the data cannot be obtained, or are not those of the task.
    """
    return load_data(config.dataset, HeldOut(grouped=config.split.grouped), CPU, config.task)


def inputs_to_test(data: Data, most: int | None = None) -> NDArray[Any]:
    """Returns the inputs of the test items as the dataset gives them, or of the first `most`.

    Without a test part they are those of the first training items.

    Raises:
        UserError: an item has several inputs.
    """
    parts: list[Tensor] = []
    chunk = EVALUATED if most is None else most
    for inputs, _ in data.test_items(chunk) if data.test_count else [data.first(chunk)]:
        if not isinstance(inputs, Tensor):
            rule = "a model must have one input to be used here, an item of its dataset is a"
            raise UserError(rule, type(inputs).__name__, f"load its {WEIGHTS} in a program of your own")
        parts.append(inputs)
        if most is not None:
            break
    return torch.cat(parts).numpy()


def build_predictor(config: TrialConfig, weights: bytes) -> Predictor:
    """Builds the predictor of a trial. Its dataset must be available.

    Args:
        config: the config of the trial.
        weights: its `state_dict`, as `torch.save` wrote it.

    Raises:
        UserError: see `Predictor`.
        DataError: the dataset cannot be obtained.
    """
    images = inputs_to_test(load_test_data(config))
    high = 255.0 if images.dtype == np.uint8 else float(images.max())
    dtype = images.dtype.name
    box, centre = 1, (0.0, 0.0)
    if is_grey_image(images.shape[1:]) and high > 0:  # else an item is no picture, or has no ink
        pixels = images / high
        box, centre = longest_side(pixels), centre_of_mass(pixels)
    found = Predictor(config, weights, high, dtype, box, centre, **_known_of(config.dataset))
    if config.trainer is not None:
        _check_outputs(found, images[:2])
    return found


def _known_of(config: DatasetConfig) -> dict[str, Any]:
    """Returns what `Predictor` gets from the files of a dataset: how columns become numbers, the names of classes."""
    if config.target == TABLE:
        table = choose(**config.keywords).load()
        return {"columns": table.encoder.as_plain(), "classes": table.classes}
    if config.target == IMAGES:
        return {"classes": class_folders(config.keywords["folder"])[2]}
    return {}


def _check_outputs(trained: Predictor, items: NDArray[Any]) -> None:
    """Checks that what a loop of the user's own has trained gives outputs of the task; it may be anything."""
    target = trained.config.model.target
    try:
        with contained():
            outputs = check_rows(trained.outputs(items), len(items), trained.config)
        loaded = load_test_data(trained.config)
        targets = loaded.test_targets if loaded.test_count else loaded.first(2)[1]
        trained.task.check_outputs(outputs, targets[:2], trained.config)
    except Exception as error:  # a user's class can fail in any way
        rule = f"a model must give the outputs of its task to be used here, {target} does not ({one_line(error)})"
        raise UserError(rule, remedy=f"load its {WEIGHTS} in a program of your own") from error


def example(config: TrialConfig) -> NDArray[Any]:
    """Returns the first two items that `inputs_to_test` gives."""
    return inputs_to_test(load_test_data(config), 2)


def predict_test_data(trained: Predictor) -> tuple[str, NDArray[Any]]:
    """Returns the checksum of a model's dataset, and what the model predicts for its test items, as it is stored.

    Without a test part nothing is predicted.
    """
    loaded, task = load_test_data(trained.config), trained.task
    if not loaded.test_count:
        return loaded.facts.digest, loaded.test_targets.numpy()
    outputs = task.aligned(trained.outputs(inputs_to_test(loaded)), loaded.test_targets)
    return loaded.facts.digest, task.stored(task.predictions(outputs), outputs).numpy()


def load_targets(config: TrialConfig, part: str) -> tuple[str, NDArray[Any]]:
    """Returns the checksum of the dataset of a config, and the targets of a part of it, in order: of classes int64 [n].

    Args:
        config: the config of the trial.
        part: "val" for the items that were held out, "test" for the test items.

    Raises:
        DataError: the dataset cannot be obtained.
    """
    dataset, task = (section.model_dump_json(by_alias=True) for section in (config.dataset, config.task))
    held = config.held_out if part == "val" else HeldOut(grouped=config.split.grouped)
    return _load_targets(dataset, task, held, part)


@functools.lru_cache(maxsize=8)
def _load_targets(dataset_json: str, task_json: str, held: HeldOut, part: str) -> tuple[str, NDArray[Any]]:
    dataset, task = DatasetConfig.model_validate_json(dataset_json), TaskConfig.model_validate_json(task_json)
    try:
        loaded = load_data(dataset, held, CPU, task)
        try:
            targets = loaded.held_out_targets if part == "val" else loaded.test_targets
        finally:
            loaded.close()
    except UserError as error:  # also a ConfigError about a user's target
        raise DataError(error.rule, error.value, error.remedy, where=error.where) from error
    except (ItemError, OSError) as error:
        rule = f"the items of {dataset.target} must be readable, they are not ({one_line(error)})"
        raise DataError(rule, remedy="restore them") from error
    return loaded.facts.digest, targets.numpy()
