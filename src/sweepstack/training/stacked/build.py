"""The batched model of a stack, in the faster way that its module admits, tried before it is trusted."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor

from sweepstack.config.schema import TrialConfig
from sweepstack.errors import one_line
from sweepstack.training.instantiate import import_target
from sweepstack.training.stacked.dense_model import DenseModel
from sweepstack.training.stacked.equivalence import Probe
from sweepstack.training.stacked.model import StackedModel, Unstackable
from sweepstack.training.stacked.vmap_model import MappedModel


def build_stacked_model(
    configs: Sequence[TrialConfig], shape: Sequence[int], device: torch.device, images: Tensor | None = None
) -> StackedModel:
    """The members of a stack, in the faster way that their module admits.

    Before, a small stack of the same modules evaluates and learns with the same random numbers as the modules
    themselves: what a module keeps outside its parameters and buffers, or does only when it is not mapped, shows there.

    Args:
        shape: of one image.
        images: some of the data to try the modules with, float [n, *shape]; random ones where they are not given.

    Raises:
        Unstackable: it admits none; says why.
    """
    probe = Probe(configs, shape, device, images)
    model = configs[0].model
    about = probe.configs[0].dataset, configs[0].precision, tuple(probe.seeds), tuple(shape), device
    key = (
        import_target("model", model.target),
        model.model_dump_json(),
        about,
        torch.get_default_dtype(),
        images is None,
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
_chosen: dict[object, type[StackedModel] | str] = {}
"""Which way models admit, or why none: a sweep asks many times for the same."""


def _way(probe: Probe, device: torch.device) -> type[StackedModel] | str:
    try:
        expected = probe.alone()
        with contextlib.suppress(Unstackable):
            probe.compare(DenseModel(probe.configs, device), expected)
            return DenseModel
        probe.compare(MappedModel(probe.configs, device), expected)
    except Unstackable as why:
        return str(why)
    except Exception as error:  # whatever somebody's module does under vmap
        return f"torch.func.vmap cannot map it: {one_line(error)}"
    return MappedModel
