"""The origin of a run: its overrides, the versions and the data that trained it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweepstack.errors import UserError
from sweepstack.masking import has_masks
from sweepstack.tracking.artifacts import overrides_of
from sweepstack.tracking.private.run_tables import StoredDataset, datasets_of, find_runs
from sweepstack.tracking.runs_as_rows import RECOMPOSED_TAG, TRAINED_TAG, VERSION_TAG, as_program
from sweepstack.tracking.store import Store


@dataclass(frozen=True)
class Origin:
    """What is necessary to train a run again, and to know what trained it."""

    program: tuple[str, ...]
    """How its program is begun; see `Trial.program`."""
    overrides: tuple[str, ...] | None
    """The overrides as the user typed them, without those that contain a secret; None if they are missing."""
    versions: dict[str, str]
    """The versions of Python and of the packages that the metrics depend on, by name."""
    commit: str
    """The git commit; empty if there was none."""
    uncommitted: bool
    trained: str
    """Alone or in a stack, in words; empty if that is not known."""
    recomposed: str
    """Why its metrics may differ in the last digits; see `Ended`."""
    dataset: str
    digest: str
    """Checksum of images and labels."""
    counts: dict[str, int]
    """Numbers of images: train, held_out, test."""


def origin(store: Store, run_id: str) -> Origin:
    """Reads the origin of a run. What an older version did not write, or a user has deleted, is empty."""
    tags, datasets = _tags_and_datasets(store, run_id)
    known = {key.removeprefix("versions."): value for key, value in tags.items() if key.startswith("versions.")}
    dataset = datasets[0] if datasets else None
    own = {"sweepstack": tags[VERSION_TAG]} if VERSION_TAG in tags else {}
    return Origin(
        program=as_program(tags),
        overrides=_overrides(store, run_id),
        versions={**own, **dict(sorted(known.items()))},
        commit=tags.get("mlflow.source.git.commit", ""),
        uncommitted=tags.get("git.uncommitted_changes") == "true",
        trained=tags.get(TRAINED_TAG, ""),
        recomposed=tags.get(RECOMPOSED_TAG, ""),
        dataset=dataset.name if dataset is not None else "",
        digest=dataset.digest if dataset is not None else "",
        counts=_counts(dataset.profile if dataset is not None else None),
    )


def _tags_and_datasets(store: Store, run_id: str) -> tuple[Mapping[str, str], Sequence[StoredDataset]]:
    if store.tables is not None:
        runs, datasets = (
            find_runs(store.tables, f"attributes.run_id IN ('{run_id}')"),
            datasets_of(store.tables, run_id),
        )
        if runs and datasets is not None:
            return runs[0].data.tags, datasets
    run = store.client.get_run(run_id)
    return run.data.tags, [one.dataset for one in run.inputs.dataset_inputs] if run.inputs is not None else []


def _overrides(store: Store, run_id: str) -> tuple[str, ...] | None:
    try:
        return tuple(line for line in overrides_of(store, run_id) if not has_masks(line))
    except UserError:  # they are missing
        return None


def _counts(profile: str | None) -> dict[str, int]:
    try:
        return {str(part): int(count) for part, count in json.loads(profile or "{}").items()}
    except (ValueError, TypeError, AttributeError):  # another tool wrote it
        return {}
