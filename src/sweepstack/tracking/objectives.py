"""What selects a run, and which values of its metrics are the best: the tags that say so.

A run of the default task has no such tag. It is selected by `OBJECTIVES`, as every run of version 0.1.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from sweepstack.metrics import Direction, Mode, bare_name

if TYPE_CHECKING:
    from sweepstack.config.schema import TrialConfig

OBJECTIVE_TAG = "sweepstack.objective"
"""The metric that selects the run, and its mode, as JSON: {"name": "val/rmse", "mode": "min"}."""
METRICS_TAG = "sweepstack.metrics"
"""The user's own metrics, as JSON: {"gain": {"mode": "max", "proportion": true}}."""
SELECTED_ON_TEST = "selected on the test data"
"""The note of a run whose test data selected it: none of its metrics is a test result."""
NOTE_TAG = "note"
"""The tag with what a reader must know of a run, or a user of a model, such as that test data selected it."""
OBJECTIVES = ("val/accuracy", "test/accuracy")
"""Metrics that select runs of the default task, best first: test data selects only if nothing was held out."""


class Declared(NamedTuple):
    """What a run says of its metrics."""

    objective: str | None = None
    """The metric that selects it; None for the default task."""
    directions: Mapping[str, Direction] = {}
    """The directions of the objective and of the user's own metrics, by their bare names."""


def tags_of_task(config: TrialConfig) -> dict[str, str]:
    """Returns the tags that say what selects a run; none for the default task if data are held out."""
    from sweepstack.config.trial_sections import MetricConfig, TaskConfig

    note = {NOTE_TAG: SELECTED_ON_TEST} if config.selecting_part == "test" else {}
    if config.task == TaskConfig():
        return note
    tags = note | {OBJECTIVE_TAG: json.dumps({"name": config.objective, "mode": config.mode})}
    own = [metric for metric in config.task.metrics if isinstance(metric, MetricConfig)]
    if own:
        tags[METRICS_TAG] = json.dumps({one.title: {"mode": one.mode, "proportion": one.proportion} for one in own})
    return tags


def declared_in(tags: Mapping[str, str]) -> Declared:
    """Reads what the tags of a run say. Tags that a user has damaged say nothing."""
    selects, own = _read(tags, OBJECTIVE_TAG), _read(tags, METRICS_TAG)
    name = selects.get("name")
    directions = {}
    if isinstance(name, str) and (mode := _mode_in(selects)):
        directions[bare_name(name)] = Direction(mode)
    for title, about in own.items():
        if isinstance(about, dict) and (mode := _mode_in(about)):
            directions[title] = Direction(mode, about.get("proportion") is True)
    return Declared(name if isinstance(name, str) else None, directions)


def objectives_of(runs: Iterable[tuple[Declared, Iterable[str]]]) -> list[str]:
    """Returns the metrics that select some runs, those on held-out data first.

    Args:
        runs: of each run what it says of its metrics, and the names of those that it has.
    """
    found: set[str] = set()
    for declared, measured in runs:
        if declared.objective is not None:
            found.add(declared.objective)
        elif not {*OBJECTIVES}.isdisjoint(measured):
            found |= {*OBJECTIVES}
    return sorted(found, key=lambda name: (not name.startswith("val/"), name))


def _read(tags: Mapping[str, str], tag: str) -> dict[str, Any]:
    try:
        found = json.loads(tags.get(tag, "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _mode_in(about: Mapping[str, Any]) -> Mode | None:
    return about["mode"] if about.get("mode") in get_args(Mode) else None
