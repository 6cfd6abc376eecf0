"""A table from a CSV or Parquet file."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from torch.utils.data import TensorDataset


class Rows(TensorDataset):
    """One part of a table: float32 rows [n, width] and targets [n], int64 class indices or float64 numbers."""

    classes: Sequence[str] | None
    """The names of the classes in the order of their indices; None if numbers are predicted."""
    groups: Sequence[str] | None
    """The group of each row; None if the table has no groups."""
    identity: str
    """What the numbers stand for, in addition to them: the names and codes of the columns, and the classes."""


def table(
    train: bool,
    file: str,
    predict: str,
    targets: str = "classes",
    columns: Sequence[str] | None = None,
    test: float | str | None = 0.2,
    group: str | None = None,
) -> Rows:
    """A table; see `Coded` for what becomes of its columns.

    Args:
        train: return the training part; else the test part.
        file: its file, CSV or Parquet; the first line of CSV has the names of the columns.
        predict: the column that is predicted.
        targets: what that column holds: "classes" or "numbers".
        columns: the columns to learn from; None for all that something can be learned from.
        test: the part of the rows that is for tests, drawn once, or another file with them; None for no rows.
        group: a column that says which rows must be in one part; it is not learned from.

    Raises:
        DataError: a file is missing or is no table, or a column is missing or holds what cannot be learned.
    """
    from sweepstack.data_files.table import choose

    found = choose(file, predict, targets, columns, test, group).load()
    part = found.train if train else found.test
    rows = Rows(torch.from_numpy(part.rows), torch.from_numpy(part.targets))
    rows.classes, rows.groups = found.classes, None if part.groups is None else part.groups.tolist()
    rows.identity = json.dumps([found.encoder.as_plain(), found.classes])
    return rows
