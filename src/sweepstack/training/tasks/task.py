"""The base of all tasks: the loss, the predictions, and what outputs and targets look like."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sweepstack.config.schema import TrialConfig
from sweepstack.config.trial_sections import DatasetConfig
from sweepstack.errors import ConfigError
from sweepstack.training.tasks.measures import Measure


class Task:
    """What is learned. A task of your own is a subclass that `task._target_` names; other keys are its keywords.

    It needs to define `loss` and nothing else. Outputs are what the model gives for a batch, targets are what the
    dataset gives as labels.
    """

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean loss of a batch, a tensor without axes. `task.loss` replaces it.

        Args:
            outputs: [n, ...].
            targets: what `check_targets` returned, [n, ...].
        """
        raise NotImplementedError

    def aligned(self, outputs: Tensor, targets: Tensor, stacked: bool = False) -> Tensor:
        """Returns outputs in the shape that the loss and the metrics take; by default as they are.

        Args:
            outputs: of one model [n, ...], or of a stack [K, n, ...].
            targets: [n, ...].
            stacked: True if the outputs are of a stack.
        """
        return outputs

    def predictions(self, outputs: Tensor) -> Tensor:
        """Returns what is predicted; by default the outputs.

        Args:
            outputs: of one model [n, ...], or of a stack [K, n, ...].
        """
        return outputs

    def stored(self, predictions: Tensor, outputs: Tensor) -> Tensor:
        """Returns predictions in the dtype that they are stored in; by default as they are.

        Args:
            predictions: what `predictions` returned.
            outputs: the outputs that they are of.
        """
        return predictions

    def check_targets(self, targets: Tensor, dataset: DatasetConfig, part: str) -> Tensor:
        """Returns targets in the form that the loss takes; by default as they are.

        Args:
            targets: what the dataset gave, [n, ...], on the CPU, of any dtype of real numbers.
            dataset: the dataset.
            part: "training" or "test".

        Raises:
            DataError: they are no targets of this task.
        """
        return targets

    def check_outputs(self, outputs: Tensor, targets: Tensor, config: TrialConfig) -> None:
        """Checks the outputs of a model.

        Args:
            outputs: [n, ...].
            targets: [n, ...].
            config: the config of the trial.

        Raises:
            ConfigError: they are no outputs for this task.
        """

    def measures(self) -> Mapping[str, Measure]:
        """Returns the metrics that `task.metrics` can name beside the loss. Of a metric that `metrics.KNOWN` does not
        have, the smallest value is the best unless `task.objective` says otherwise."""
        return {}

    def examples(self, count: int, dataset: DatasetConfig) -> Tensor:
        """Returns artificial targets to try a model with where no data are at hand.

        Args:
            count: the number of targets.
            dataset: the dataset.
        """
        raise NotImplementedError


def check_rows(outputs: object, count: int, config: TrialConfig) -> Tensor:
    """Checks that a model gives one tensor with a row for each item, and returns it.

    Args:
        outputs: what the model gave.
        count: the number of items that it was given.
        config: the config of the trial.

    Raises:
        ConfigError: it gave something else.
    """
    target = config.model.target
    if not isinstance(outputs, Tensor):
        rule = f"model must give one tensor when it is evaluated, {target} gives {type(outputs).__name__}"
        raise ConfigError(rule, remedy="return the tensor to measure in evaluation mode; a `step` can use the rest")
    if outputs.ndim == 0 or len(outputs) != count:
        rule = f"model must give one row for each of {count} items, {target} gives shape {list(outputs.shape)}"
        raise ConfigError(rule, remedy="keep the first axis")
    return outputs
