"""Makes one state of those of several stacks, for the trials of them that go on together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sweepstack.training.checkpoint import CheckpointError


def unite(states: Sequence[Mapping[str, Any]], keys: Collection[str]) -> dict[str, Any]:
    """Returns the state of one stack, made of some members of other stacks. All these stacks must be at the same step.

    Random numbers that members share go on as in the first stack, and so does the clock of the one that took longest.

    Args:
        states: those of the stacks; see `train_stack`.
        keys: the keys of the readers that go on, as `TrialReader.key`.

    Raises:
        CheckpointError: the states are not of one step, or not of one model and optimizer.
    """
    first = states[0]
    if len({(state["step"], state["steps"], len(state["losses"])) for state in states}) > 1:
        raise CheckpointError(f"stacks at steps {[state['step'] for state in states]} cannot go on together")
    trajectories: list[list[str]] = []
    members: list[dict[str, Any]] = []
    kept: list[list[int]] = []
    for state in states:
        kept.append([])
        for row, member in enumerate(state["members"]):
            if readers := [reader for reader in member["readers"] if reader["key"] in keys]:
                members.append({"trajectory": len(trajectories), "readers": readers})
                trajectories.append([reader["key"] for reader in readers])
                kept[-1].append(row)
    return {
        **{key: value for key, value in first.items() if key != "paused"},
        "trajectories": trajectories,
        "members": members,
        "seconds": max(state["seconds"] for state in states),
        "losses": torch.cat([state["losses"][:, rows] for state, rows in zip(states, kept, strict=True)], 1),
        "model": _united([state["model"] for state in states], kept),
        "rungs": {key: found for state in states for key, found in state.get("rungs", {}).items()},
    }


def _united(models: Sequence[Mapping[str, Any]], kept: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Returns one state of those of several `StackedModel`s.

    Args:
        models: the states.
        kept: for each, the rows of the members that go on.
    """
    optimizers = [model["optimizer"] for model in models]
    began: dict[str, int] = {}
    for optimizer in optimizers:
        if optimizer["step"] != optimizers[0]["step"] or any(
            began.setdefault(name, step) != step for name, step in optimizer["began"].items()
        ):
            raise CheckpointError("their optimizers are not at the same step")
    named = {(name, key) for one in optimizers for name, parts in one["memory"].items() for key in parts}
    memory: dict[str, dict[str, Tensor]] = {}
    for name, key in sorted(named):
        # A stack without momentum has none of the tensors that one with momentum has: there they begin as zeros.
        found = [
            one["memory"].get(name, {}).get(key, torch.zeros_like(model["parameters"][name]))
            for one, model in zip(optimizers, models, strict=True)
        ]
        memory.setdefault(name, {})[key] = _rows(found, kept)
    return {
        "parameters": _rows_by_name([model["parameters"] for model in models], kept),
        "rest": _rows_by_name([model["rest"] for model in models], kept),
        "optimizer": {
            "step": optimizers[0]["step"],
            "began": began,
            "awake": _rows([one["awake"] for one in optimizers], kept),
            "memory": memory,
        },
        "evaluated": min(model["evaluated"] for model in models),
    }


def _rows_by_name(tensors: Sequence[Mapping[str, Tensor]], kept: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    return {name: _rows([one[name] for one in tensors], kept) for name in tensors[0]}


def _rows(tensors: Sequence[Tensor], kept: Sequence[Sequence[int]]) -> Tensor:
    """Returns rows [K, ...] of several tensors as one."""
    return torch.cat([tensor[rows] for tensor, rows in zip(tensors, kept, strict=True)])
