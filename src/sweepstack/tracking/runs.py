"""Finds a run of the store by what a user types, and reads its record."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweepstack.errors import StoreError, UserError, did_you_mean
from sweepstack.tracking.histories import histories
from sweepstack.tracking.params import ALIASES, as_text, from_text
from sweepstack.tracking.runs_as_rows import VERSION_TAG, Row, row_of
from sweepstack.tracking.store import Store
from sweepstack.tracking.summary import SUMMARY_TAG, summary_run

if TYPE_CHECKING:
    from sweepstack.tracking.private.run_tables import StoredRun

MAX_CANDIDATES = 5
"""The largest number of runs that an error about an ambiguous word lists."""


@dataclass(frozen=True)
class Record:
    """A run: its row, and what the row does not contain."""

    row: Row
    ended: int | None
    """Milliseconds since the epoch."""
    tags: Mapping[str, str]


def find_run(store: Store, word: str) -> Record:
    """Finds the run that a word means: an id, the beginning of an id, or a name.

    It looks for the name in the newest sweep first, there also for params that only one run has, and then for the name
    among all runs.

    Raises:
        StoreError: the store is empty.
        UserError: no run or several ones match, or the run is the summary of a sweep, which is not a trial.
    """
    by_id = f"attributes.run_id LIKE '{word}%'" if re.fullmatch(r"[0-9a-f]{1,32}", word) else ""
    of_id = store.runs(by_id) if by_id else []
    found = [run for run in of_id if VERSION_TAG in run.data.tags]
    summaries = [run for run in of_id if SUMMARY_TAG in run.data.tags]
    if summaries and not found:
        raise _is_summary(word, summaries[0].data.tags[SUMMARY_TAG])
    if not found:
        newest = _newest_sweep(store)
        ids = _runs_named(newest, word) or _only_run_with(newest, word)
        if not ids:
            everything = store.rows("all")
            ids = _runs_named(everything, word)
            if not ids:
                sweep = word.removeprefix("summary of ")
                if sweep != word and summary_run(store, sweep) is not None:
                    raise _is_summary(word, sweep)
                raise UserError(
                    f"there is no run {word!r} in {store.uri}",
                    remedy=_run_remedy(word, newest or everything),
                )
        some = ", ".join(f"'{run_id}'" for run_id in ids[: MAX_CANDIDATES + 1])
        found = store.runs(f"attributes.run_id IN ({some})")
    if len(found) > 1:
        some = ", ".join(f"{run.info.run_id} ({run.info.run_name})" for run in found[:MAX_CANDIDATES])
        more = ", ..." if len(found) > MAX_CANDIDATES else ""
        raise UserError(
            f"{word!r} must mean one run, it can mean {some}{more}",
            remedy="give more of the id",
        )
    return _record(found[0])


def record(store: Store, run_id: str) -> Record:
    """Returns the record of an existing run."""
    return _record(store.client.get_run(run_id))


def history(store: Store, run_id: str, key: str) -> list[tuple[int, float]]:
    """Returns the values of a metric with their steps, in order.

    A step is an epoch, or an iteration if the run was measured by iterations. A step with several values has the
    earliest of them: with `keep_best`, a later one repeats the best measurement.

    Args:
        store: the store that has the run.
        run_id: the id of the run.
        key: the key of the metric.
    """
    return [(point.step, point.value) for point in histories(store, [run_id], key)]


def _record(run: StoredRun) -> Record:
    return Record(row_of(run), run.info.end_time, run.data.tags)


def _is_summary(word: str, sweep: str) -> UserError:
    return UserError(
        f"a run must be a trial, {word!r} is the summary of sweep {sweep!r}, which holds its report",
        remedy=f"choose a trial of sweepstack table --sweep {shlex.quote(sweep)}",
    )


def _runs_named(rows: Sequence[Row], word: str) -> list[str]:
    """Returns the ids of the runs with a name; if there are none, of those with an equivalent name.

    Equivalent are `nesterov=true` and `nesterov=True`, or `lr=1e-2` and `lr=0.01`.
    """
    wanted = _as_values(word)
    exact = [row.run_id for row in rows if row.name == word]
    return exact or [row.run_id for row in rows if wanted and _as_values(row.name) == wanted]


def _only_run_with(rows: Sequence[Row], word: str) -> list[str]:
    """Returns the id of the run whose params are those in a word such as `lr=0.1 bs=50`; none if several have them.

    A run that an earlier command has trained has the name that it had there.
    """
    wanted = {ALIASES.get(key, key): from_text(text) for key, text in _as_values(word).items()}

    def has(row: Row, key: str, value: object) -> bool:
        found = [from_text(text) for name, text in row.params.items() if name == key or name.endswith(f".{key}")]
        return any(one == value and isinstance(one, bool) == isinstance(value, bool) for one in found)

    ids = [row.run_id for row in rows if wanted and all(has(row, *pair) for pair in wanted.items())]
    return ids if len(ids) == 1 else []


def _as_values(name: str) -> dict[str, str]:
    """Splits a name such as `lr=0.01 nesterov=true` into keys and values; returns an empty dict for other names."""
    pairs = [part.partition("=") for part in re.split(r" (?=[\w.@/+~-]+=)", name)]
    return {key: as_text(from_text(value)) for key, _, value in pairs} if all(sign for _, sign, _ in pairs) else {}


def _newest_sweep(store: Store) -> list[Row]:
    try:
        return store.rows("latest")
    except StoreError:  # there are only single runs, or nothing
        return []


def _run_remedy(word: str, rows: Sequence[Row]) -> str:
    near = did_you_mean(word, [row.name for row in rows])
    if near.startswith("did"):  # if not, `near` lists all names
        return near
    return f"give an id, the beginning of one, or a name in the newest sweep, such as {rows[-1].name!r}"
