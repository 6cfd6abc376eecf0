"""Writes the files of a trial to its folder: weights, predictions, pictures. Each is written whole or not at all."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweepstack.blame import reason
from sweepstack.errors import ConfigError
from sweepstack.events import Ended
from sweepstack.files.replacing import replacing
from sweepstack.standard_streams import HoldingErrors
from sweepstack.trial import (
    HELD_OUT_PREDICTIONS,
    MOST_AXES,
    OWN_FILES,
    PICTURES,
    PREDICTIONS,
    WEIGHTS,
    Outcome,
    Trial,
    TrialState,
)

if TYPE_CHECKING:
    from sweepstack.training.data.source import Data


def ended(trial: Trial, outcome: Outcome, data: Data) -> Ended:
    """Writes the files of a trial that has ended, and returns the event.

    Args:
        trial: the trial.
        outcome: how it ended. If a file cannot be written, the event has a FAILED outcome instead.
        data: the data that it was trained on, for its pictures.
    """
    import numpy as np
    import torch

    files: list[Path] = []
    try:
        trial.folder.mkdir(parents=True, exist_ok=True)
        if trial.config.trainer is not None and outcome.state is TrialState.FINISHED:
            files += sorted(path for path in (trial.folder / OWN_FILES).glob("*") if path.is_file())
        if outcome.weights is not None:
            files.append(trial.folder / WEIGHTS)
            weights = outcome.weights
            _write_output(files[-1], _held(lambda file: torch.save(weights, file)))
        predicted = {PREDICTIONS: outcome.predictions, HELD_OUT_PREDICTIONS: outcome.held_out_predictions}
        for name, values in predicted.items():
            if values is not None:
                files.append(trial.folder / name)
                _write_output(files[-1], _held(functools.partial(np.save, arr=values, allow_pickle=False)))
        if trial.run.pictures and outcome.state is TrialState.FINISHED:
            files.append(draw(trial, data))
    except Exception as error:  # a full disk fails this trial only
        outcome, files = Outcome(TrialState.FAILED, reason=reason(error), traceback=traceback.format_exc()), []
    outcome = replace(outcome, weights=None, predictions=None, held_out_predictions=None)
    return Ended(trial, outcome, time.time(), tuple(files))


def check_pictures(count: int, data: Data) -> None:
    """Checks that a picture can be drawn of data, if a trial asks for `count` images.

    Raises:
        ConfigError: its inputs are no images.
    """
    import torch

    if not count:
        return
    inputs, _ = data.first(1)
    if not isinstance(inputs, torch.Tensor) or inputs.dtype == torch.int64:
        raise ConfigError(
            "pictures must be 0 for tokens and several inputs: they are no images", count, "set pictures=0"
        )


def draw(trial: Trial, data: Data) -> Path:
    """Draws the first training images that a trial asks for; returns the file in the trial's folder."""
    from sweepstack.training.data.first_images import save_first

    trial.folder.mkdir(parents=True, exist_ok=True)
    path, count = trial.folder / PICTURES, trial.run.pictures
    _write_output(path, lambda part: save_first(*data.first(count), part))
    return path


def predict_held_out(trial: Trial, weights: Path, data: Data) -> Path | None:
    """Predicts the items that a trial has held out; returns the file in the trial's folder; None if they have more than
    `MOST_AXES` axes.

    Args:
        trial: the trial.
        weights: the file with its weights.
        data: the data that it was trained on.
    """
    import numpy as np
    import torch

    from sweepstack.training.models import build_model
    from sweepstack.training.tasks.built import BuiltTask
    from sweepstack.training.trainer import autocast_of, evaluate

    config, device = trial.config, data.device
    model = build_model(config.model)
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    predicted: list[torch.Tensor] = []
    task = BuiltTask(config, device)
    evaluate(model.to(device), data.evaluation(), autocast_of(config, device), task, predicted)
    if predicted[0].ndim > MOST_AXES:
        return None
    trial.folder.mkdir(parents=True, exist_ok=True)
    path, values = trial.folder / HELD_OUT_PREDICTIONS, torch.cat(predicted).cpu().numpy()
    _write_output(path, _held(functools.partial(np.save, arr=values, allow_pickle=False)))
    return path


def keep_targets(trial: Trial, data: Data, folder: Path) -> None:
    """Keeps the targets of held-out and test items for reports, so that these need not load PyTorch and the dataset.

    Of streamed data it keeps none: every item would be read once more.

    Args:
        trial: a trial that was trained on the data.
        data: the data.
        folder: the folder of the journal.
    """
    import numpy as np

    from sweepstack.files.kept import is_kept, keep, key_of_targets
    from sweepstack.training.data.memory import InMemory

    for part in ("val", "test") if isinstance(data, InMemory) else ():
        key = key_of_targets(trial.config_text, part, data.facts.digest)
        if not is_kept(folder, *key):
            targets = (data.held_out_targets if part == "val" else data.test_targets).cpu().numpy()
            held_out = np.array(trial.config.held_out if part == "val" else (), dtype=str)
            if targets.ndim <= MOST_AXES:
                keep(folder, *key, values=targets, held_out=held_out)


def _held(write: Callable[[Any], None]) -> Callable[[Path], None]:
    """Wraps a library's writing function so that a full disk raises the disk's own error, not the library's."""

    def write_to(path: Path) -> None:
        with path.open("wb") as file:
            held = HoldingErrors(file, path)
            write(held)
            held.raise_error()

    return write_to


def _write_output(path: Path, write: Callable[[Path], None]) -> None:
    """Replaces a file as a whole. A hard link to the old file keeps the old content."""
    with replacing(path) as temporary:
        write(temporary)
