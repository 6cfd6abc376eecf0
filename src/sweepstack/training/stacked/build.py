"""Builds the batched model of a stack in the fastest form that is possible, and tests that form before its use."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch

from sweepstack.config.schema import TrialConfig
from sweepstack.errors import one_line
from sweepstack.planning.compatibility import obstacle
from sweepstack.training.data.source import Batch
from sweepstack.training.instantiate import import_target
from sweepstack.training.stacked.dense_model import DenseModel
from sweepstack.training.stacked.equivalence import Probe
from sweepstack.training.stacked.model import StackedModel, Unstackable
from sweepstack.training.stacked.vmap_model import MappedModel


def build_stacked_model(
    configs: Sequence[TrialConfig],
    shape: Sequence[int],
    device: torch.device,
    batch: Batch | None = None,
) -> StackedModel:
    """Builds the batched model of a stack: a `DenseModel` if possible, else a `MappedModel`.

    First a small stack of the same modules evaluates and learns with the same random numbers as the single modules. The
    comparison shows state outside of parameters and buffers, and modules that behave differently under vmap.

    Args:
        configs: one for each member, of one `stack_key`.
        shape: the shape of one image.
        device: the device to train on.
        batch: items to test the modules with; artificial ones by default.

    Raises:
        Unstackable: the module or the recipe has no batched form; the message says why.
    """
    if why := obstacle(configs[0]):
        raise Unstackable(why)
    probe = Probe(configs, shape, device, batch)
    model = configs[0].model
    first = configs[0]
    recipe = first.task.model_dump_json(), first.step and first.step.model_dump_json(), first.clip_norm, first.precision
    about = first.dataset, recipe, tuple(probe.seeds), tuple(shape), device
    key = (
        import_target("model", model.target),
        *(import_target("target", one.target) for one in (first.task, first.task.loss, first.step) if one is not None),
        model.model_dump_json(),
        about,
        torch.get_default_dtype(),
        batch is None,
    )
    if key not in _chosen:
        if len(_chosen) >= REMEMBERED:
            _chosen.clear()
        _chosen[key] = _way(probe, device)
    found = _chosen[key]
    if isinstance(found, str):
        raise Unstackable(found)
    return found(configs, device)


REMEMBERED = 100
"""The most models that `_chosen` holds."""
_chosen: dict[object, type[StackedModel] | str] = {}
"""The form of each model, or the reason why it has none. A sweep asks many times for the same model."""


def _way(probe: Probe, device: torch.device) -> type[StackedModel] | str:
    try:
        expected = probe.alone()
        with contextlib.suppress(Unstackable):
            probe.compare(DenseModel(probe.configs, device), expected)
            return DenseModel
        probe.compare(MappedModel(probe.configs, device), expected)
    except Unstackable as why:
        return str(why)
    except Exception as error:  # a user's module can fail in any way under vmap
        return f"torch.func.vmap cannot map it: {one_line(error)}"
    return MappedModel
