"""Computes means over trials: by groups, and as a table of two params."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from sweepstack.errors import UserError
from sweepstack.metrics import Metric
from sweepstack.results.tables.columns import find_column, identity, order, written
from sweepstack.results.tables.objective import NOTE, caution_of, comparable, note_columns, objective
from sweepstack.tracking.objectives import SELECTED_ON_TEST

if TYPE_CHECKING:
    from sweepstack.results.selection.comparison import Predictions
    from sweepstack.results.selection.select import Selection


def grouped(frame: pd.DataFrame, keys: Sequence[str], metric: str | None = None) -> pd.DataFrame:
    """Computes means over all trials that are equal in some columns, the best first.

    The table has these columns, then `mean` and `sd` of the metric (with n - 1), `n`, the number of trials in the mean,
    and `missing`, the number of trials that did not finish or have no finite value. Its `note` marks groups with
    trials that test data selected.

    Args:
        frame: the table, see `table`.
        keys: the columns: params, or other columns of a run.
        metric: the metric; by default the one that trials are compared by.

    Raises:
        UserError: there is no such column or metric, or a key is a metric.
    """
    chosen = _metric(frame, metric)
    columns = [_column_of(frame, key) for key in dict.fromkeys(keys)]
    number = frame[columns].apply(identity).groupby(columns, dropna=False, sort=False).ngroup().rename("group")
    means = comparable(frame, chosen).groupby(number).agg(mean="mean", sd="std", n="count", missing="size")
    means["missing"] -= means["n"]
    caution = caution_of(frame, chosen)
    if caution and note_columns(frame) and NOTE not in columns:
        by_test = (frame[NOTE] == SELECTED_ON_TEST).groupby(number).any()
        means[NOTE] = by_test.map({True: SELECTED_ON_TEST, False: ""})
    alike = frame.loc[~number.duplicated(), columns].reset_index(drop=True)  # groups are numbered as they appear
    groups = pd.concat([alike, means.sort_index().reset_index(drop=True)], axis=1)
    ascending = [not chosen.larger_is_better, *([True] * len(columns))]
    groups = groups.sort_values(["mean", *columns], ascending=ascending, na_position="last", key=order)
    groups = groups.reset_index(drop=True)
    groups.attrs |= _attrs(groups, frame, chosen)
    groups.attrs["notes"] = [caution] if caution else []
    return groups


def pivoted(frame: pd.DataFrame, row: str, column: str, metric: str | None = None) -> pd.DataFrame:
    """Computes the means of a metric by two params.

    The table has a row for each value of one param, a column for each value of the other (`lr=0.1`), then as many
    columns with the numbers of trials (`n lr=0.1`), all in the order of the values; and `note`, see `grouped`.

    Args:
        frame: the table, see `table`.
        row: the param of the rows.
        column: the param of the columns.
        metric: the metric; by default the one that trials are compared by.

    Raises:
        UserError: see `grouped`; or both params are the same.
    """
    row, column = _column_of(frame, row), _column_of(frame, column)
    if row == column:
        raise UserError(
            f"a pivot takes two different params, got {row!r} twice",
            remedy=f"for one there is --group-by {row}",
        )
    cells = grouped(frame, [row, column], metric)
    cells = cells.sort_values(column, key=order)
    label = cells[column].map(lambda value: f"{column}={written(value)}")
    labels = list(dict.fromkeys(label))
    result = cells[~identity(cells[row]).duplicated()][[row]].sort_values(row, key=order).reset_index(drop=True)
    row_of = {value: index for index, value in enumerate(identity(result[row]).map(written))}
    row_of_cell = identity(cells[row]).map(written).map(row_of)
    for name, part in {"": "mean", "n ": "n"}.items():
        for value in labels:
            of_label = cells[label == value]
            result[f"{name}{value}"] = of_label[part].set_axis(row_of_cell[of_label.index])
    counts = [f"n {value}" for value in labels]
    result[counts] = result[counts].fillna(0).astype(int)
    if NOTE in cells and NOTE not in (row, column):
        by_test = (cells[NOTE] != "").groupby(row_of_cell.to_numpy()).any()
        result[NOTE] = by_test.map({True: SELECTED_ON_TEST, False: ""})
    result.attrs = {**cells.attrs, "shape": "cells", "labels": labels}
    return result


def by_seed(frame: pd.DataFrame, metric: str | None = None, predictions: Predictions | None = None) -> pd.DataFrame:
    """Returns the settings of a table with mean, interval and mark; see `selection.select`.

    A setting is the trials that are equal in all params but the seed and the fold. `attrs["notes"]` has the answer in
    a sentence, and says why test data that selected are too good, and what to know of intervals over folds.

    Args:
        frame: the table, see `table`.
        metric: the metric that selects; by default the one that trials are compared by.
        predictions: returns how the predictions of a run compare with the targets.

    Raises:
        UserError: there is no such metric.
    """
    from sweepstack.results.selection.select import select

    return settings_frame(frame, select(frame, predictions, objective(frame, metric)))


def settings_frame(frame: pd.DataFrame, selection: Selection) -> pd.DataFrame:
    """Returns the settings of a table as `by_seed` does.

    Args:
        frame: the table, see `table`.
        selection: what was selected in it.
    """
    from sweepstack.results.selection.comparison import FOLDS_DIFFER, FOLDS_OVERLAP, SEEDS

    groups = selection.groups.assign(run_ids=selection.groups["run_ids"].map(" ".join))
    if selection.caution and NOTE not in groups:
        groups[NOTE] = SELECTED_ON_TEST
    notes = [selection.in_short, selection.of_pruned, selection.added, selection.caution]
    notes.append("" if selection.axis is SEEDS else FOLDS_OVERLAP)
    notes.append(FOLDS_DIFFER if selection.folds_differ else "")
    groups.attrs |= {**_attrs(groups, frame, selection.objective), "notes": [note for note in notes if note]}
    return groups


def _attrs(groups: pd.DataFrame, frame: pd.DataFrame, metric: Metric) -> dict[str, Any]:
    """Returns what groups of trials keep of their table; see `objective.attrs_of`."""
    metrics = [name for name in frame.attrs["metrics"] if name in groups]
    headers = {f"mean {metric}": "mean", "without a value": "failed"}  # as they are printed
    columns = {"metrics": metrics, "headers": headers, "directions": frame.attrs["directions"]}
    return {"shape": "groups", "metric": metric, **columns}


def _metric(frame: pd.DataFrame, metric: str | None) -> Metric:
    found = objective(frame, metric)
    if found is None:
        raise UserError(
            f"a group is the mean of a metric, and none of the {len(frame)} trials has one to be compared by",
            remedy="name one with --metric, or look at the trials without --group-by and --pivot",
        )
    return found


def _column_of(frame: pd.DataFrame, word: str) -> str:
    key = find_column(frame, word)
    if key in frame.attrs["metrics"]:
        raise UserError(
            f"groups are made by params, got the metric {key!r}",
            remedy="name it with --metric instead",
        )
    return key
