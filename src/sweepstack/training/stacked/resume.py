"""The state of a stack: what a checkpoint has of it, and how a stack goes on from there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sweepstack.training.checkpoint import CheckpointError, fitting
from sweepstack.training.stacked.members import Clock, Member, TrialReader
from sweepstack.training.stacked.model import StackedModel
from sweepstack.training.stacked.single_model import SingleModel


def state_of(
    trajectories: Sequence[Sequence[TrialReader]], members: Sequence[Member], model: StackedModel | SingleModel
) -> dict[str, Any]:
    """Returns who is in the stack and how far, and the model; the tensors are not copied.

    Args:
        trajectories: the readers of each, also those that have ended.
        members: those that still train.
        model: the model of the members.
    """
    return {
        "trajectories": [[reader.key for reader in readers] for readers in trajectories],
        "members": [
            {
                "trajectory": member.trajectory,
                "readers": [_state_of_reader(reader) for reader in member.readers],
            }
            for member in members
        ],
        "model": model.state(),
    }


def _state_of_reader(reader: TrialReader) -> dict[str, Any]:
    best = {} if reader.kept is None else {"kept": reader.kept}
    return {"key": reader.key, "figures": reader.metrics, "share": reader.share, **reader.tracker.state(), **best}


def resume_stack(
    state: Mapping[str, Any],
    passed: Sequence[Member],
    model: StackedModel | SingleModel,
    steps: int,
    device: torch.device,
) -> tuple[list[Member], int, int, list[Tensor], Clock]:
    """Brings everything to where it was when the state was kept.

    Readers are known by their keys. One that had ended is passed over, one that is not passed is dropped; a member of
    which no reader is passed, ended or not, is left out, which changes the width and so the last bits of the others.

    Args:
        state: what was kept.
        passed: the members that the stack began with.
        model: that of these members; it gets narrower and its tensors are restored.
        steps: optimizer steps in an epoch.
        device: the device that losses are kept on.

    Returns:
        The members that are left, the steps that were done, the seed of the random numbers that members share, the
        losses of the epoch, and the clock.

    Raises:
        CheckpointError: the state does not fit.
    """
    with fitting():
        members, numbers, kept = _match(state, passed)
        step = int(state["step"])
        ends = [steps * reader.config.epochs for member in members for reader in member.readers]
        if state["steps"] != steps or not 0 < step < min(ends, default=math.inf):
            raise CheckpointError(
                f"it is at step {step} with {state['steps']} an epoch, "
                f"the trainings take {sorted({*ends})} with {steps} an epoch"
            )
        if members:
            model.keep([member.trajectory for member in members], [member.config.seed for member in members])
            model.restore(state["model"], numbers)
        losses = state["losses"][:, numbers].to(device)
        if len(losses) != step % steps or "cpu" not in state["random"]:
            raise CheckpointError(f"it has {len(losses)} losses at step {step} with {steps} an epoch")
        clock = Clock(float(state["seconds"]))
        for reader, saved in kept:  # at last, for the readers are as they were when something does not fit
            reader.metrics.update(saved["figures"])
            reader.tracker.restore(saved)
            reader.share, reader.kept = saved["share"], saved.get("kept")
        return members, step, int(state["seed"]), [*losses.unbind()], clock


def _match(
    state: Mapping[str, Any], passed: Sequence[Member]
) -> tuple[list[Member], list[int], list[tuple[TrialReader, Mapping[str, Any]]]]:
    """The members to go on with, their places in the state, and what the state has about each of their readers."""
    indices = {reader.key: index for index, member in enumerate(passed) for reader in member.readers}
    readers = {reader.key: reader for member in passed for reader in member.readers}
    if len(readers) < sum(len(member.readers) for member in passed):
        raise CheckpointError("the keys of readers must be unique")
    unknown = readers.keys() - {key for keys in state["trajectories"] for key in keys}
    if unknown:  # which must not be taken for ended
        raise CheckpointError(f"it knows nothing of {', '.join(sorted(unknown))}")
    members: list[Member] = []
    numbers: list[int] = []
    kept: list[tuple[TrialReader, Mapping[str, Any]]] = []
    for number, saved in enumerate(state["members"]):
        found = {indices[key] for key in state["trajectories"][saved["trajectory"]] if key in indices}
        if len(found) > 1 or found & {member.trajectory for member in members}:
            raise CheckpointError("its trajectories are others")
        for index in found:
            going_on = [(readers[about["key"]], about) for about in saved["readers"] if about["key"] in readers]
            members.append(Member(passed[index].config, [reader for reader, _ in going_on], index))
            numbers.append(number)
            kept += going_on
    return members, numbers, kept
