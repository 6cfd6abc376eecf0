"""The file of an assignment: a stack and its trials as plain values, for a worker that may see other paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweepstack.execution.assignment import Assignment, Groups
from sweepstack.journal.codec import UnreadableError, stored_trial, trial_as_json
from sweepstack.planning.plan import Stack, Trajectory
from sweepstack.search.rungs import KnownRungs
from sweepstack.trial import StackSettings, Trial


def assignment_as_json(assignment: Assignment) -> dict[str, Any]:
    """Returns an assignment as plain values, without the folder of its checkpoints."""
    stack = assignment.stack
    return {
        "trajectories": [[trial_as_json(trial) for trial in one.trials] for one in stack.trajectories],
        "choice": vars(stack.choice),
        "id": stack.id,
        "keep_stack": stack.keep,
        "note": stack.note,
        "device": stack.device,
        "wanted": sorted(assignment.wanted),
        "keep": assignment.keep,
        "rungs": None if assignment.rungs is None else assignment.rungs.as_json(),
        "groups": None if assignment.groups is None else vars(assignment.groups),
        "pauses": assignment.pauses,
    }


def assignment_from_json(content: Mapping[str, Any], checkpoints: Path) -> Assignment:
    """Reads what `assignment_as_json` has written.

    Args:
        content: the plain values.
        checkpoints: the folder for the checkpoints of the stack.

    Raises:
        UnreadableError: this version refuses the config of a trial.
    """
    stack = Stack(
        tuple(
            Trajectory(tuple(_trial(trial, content["device"]) for trial in trials))
            for trials in content["trajectories"]
        ),
        StackSettings(**content["choice"]),
        content["id"],
        content["keep_stack"],
        content["note"],
        content["device"],
    )
    rungs = KnownRungs.from_json(content["rungs"]) if content.get("rungs") else None
    groups = None
    if (of := content["groups"]) is not None:
        groups = Groups(tuple(of["sizes"]), tuple(of["counts"]), of["threads"], of["parts"])
    return Assignment(
        stack, frozenset(content["wanted"]), checkpoints, content["keep"], rungs, groups, content["pauses"]
    )


def _trial(content: Mapping[str, Any], device: str) -> Trial:
    """Returns a trial, which trains on the kind of device that was planned: `auto` may mean another one here."""
    trial, refused = stored_trial(content)
    if refused:
        raise UnreadableError(f"the config of {trial.name} is refused: {refused}")
    if trial.run.device == "auto" and device:
        return replace(trial, run=trial.run.model_copy(update={"device": device}))
    return trial
