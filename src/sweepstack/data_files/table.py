"""A table as a dataset: which column is predicted from which, and which rows are for tests."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweepstack.data_files.draw import draw_test_part
from sweepstack.data_files.encoder import Encoder, finite_numbers, unusable
from sweepstack.data_files.frame import check_columns, check_complete, numbers_of, read_frame, texts_of
from sweepstack.errors import DataError
from sweepstack.metrics import CLASSIFICATION, REGRESSION
from sweepstack.paths import typed_path

CLASSES, NUMBERS = "classes", "numbers"
"""What a column that is predicted can hold: the values of `dataset.targets`."""
MOST_CLASSES = 100
"""The most different whole numbers that are taken as classes."""


@dataclass(frozen=True)
class Part:
    """The training or the test rows of a table."""

    rows: NDArray[np.float32]
    """[n, width]"""
    targets: NDArray[Any]
    """[n]: class indices int64, or float64."""
    groups: NDArray[Any] | None
    """The group of each row, as text; None without `dataset.group`."""


@dataclass(frozen=True)
class Table:
    """A table that was read."""

    train: Part
    test: Part
    encoder: Encoder
    classes: tuple[str, ...] | None
    """The names of the classes in the order of their indices; None if numbers are predicted."""
    description: str
    """What became of the columns, in one line."""


@dataclass(frozen=True)
class Choice:
    """The keys of a config that say how a table is read; see `conf/dataset/table.yaml`."""

    file: str
    predict: str
    targets: str
    columns: tuple[str, ...] | None
    test: float | str | None
    group: str | None

    def load(self) -> Table:
        """Reads the table. It keeps the last two, unless their files have changed.

        Raises:
            DataError: a file is missing or no table, a column is missing, or it holds what cannot be learned.
        """
        files = [_path(self.file), *([_path(self.test)] if isinstance(self.test, str) else [])]
        return _load(self, tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files))


def choose(
    file: Any,
    predict: Any,
    targets: str = CLASSES,
    columns: Sequence[Any] | None = None,
    test: Any = 0.2,
    group: Any = None,
) -> Choice:
    """Returns the choice of a config.

    Args:
        file: the file of the table, CSV or Parquet.
        predict: the column that is predicted.
        targets: what it holds, "classes" or "numbers".
        columns: the columns to learn from; None for all that something can be learned from.
        test: the part of the rows that is for tests, or another file with them; None for no rows.
        group: a column whose rows of one value are in one part; it is not learned from.

    Raises:
        DataError: there is no file, `targets` is neither, or the columns do not suit each other.
    """
    if targets not in (CLASSES, NUMBERS):
        raise DataError("dataset.targets must be classes or numbers", targets, f"for example dataset.targets={CLASSES}")
    if file is None:
        raise DataError("dataset.file must name a CSV or Parquet file", file, "for example dataset.file=my.csv")
    if isinstance(columns, str):
        raise DataError("dataset.columns must be a list of names", columns, f"set dataset.columns=[{columns}]")
    names = None if columns is None else tuple(str(name) for name in columns)
    if names is not None and len({*names}) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError("dataset.columns must name each column once", twice, "leave the second one out")
    if group is not None and str(group) == str(predict):
        rule = "dataset.group must be another column than dataset.predict"
        raise DataError(rule, group, "name another one, or leave it out")
    return Choice(str(file), str(predict), targets, names, test, None if group is None else str(group))


def targets_of(task: str, file: str, predict: str) -> str:
    """Returns what is predicted, classes or numbers: that of the task; for any other task it depends on the column.

    Args:
        task: the `_target_` of the task.
        file: the file of the table.
        predict: the column that is predicted.

    Raises:
        DataError: the column is not there.
    """
    if task in (CLASSIFICATION, REGRESSION):
        return CLASSES if task == CLASSIFICATION else NUMBERS
    path = _path(choose(file, predict).file)
    frame = read_frame(path)
    check_columns(frame, [predict], path, "dataset.predict")
    return CLASSES if numbers_of(frame[predict]) is None else NUMBERS


def facts(table: Table) -> Mapping[str, Any]:
    """Returns what a config says of a dataset: shape, classes, outputs."""
    classes = len(table.classes) if table.classes is not None else None
    return {"shape": [table.encoder.width], "classes": classes, "outputs": None if classes else 1}


@functools.lru_cache(maxsize=2)
def _load(choice: Choice, changed: tuple[int, ...]) -> Table:
    path = _path(choice.file)
    whole = read_frame(path)
    check_columns(whole, [choice.predict], path, "dataset.predict")
    _check_roles(choice, whole, path)
    files = [(whole, path)]
    if isinstance(choice.test, str):
        test_path = _path(choice.test)
        if test_path.exists() and test_path.samefile(path):
            rule = "dataset.test must be another file than dataset.file, its rows would be trained on and tested on"
            raise DataError(rule, choice.test, "for example dataset.test=0.2")
        other = read_frame(test_path, [name for name in whole.columns if numbers_of(whole[name]) is None])
        check_columns(other, [choice.predict], test_path)
        _check_roles(choice, other, test_path)
        files.append((other, test_path))
    named, targets = _targets(choice, files)
    if len(files) == 1:
        groups = texts_of(whole[choice.group]) if choice.group is not None else None
        tested = draw_test_part(len(whole), choice.test, targets if named else None, groups)
        files = [(whole[~tested], path), (whole[tested], path)]
    else:
        tested = np.arange(len(targets)) >= len(whole)
    names, left_out = _inputs(choice, whole, files[0][0], path)
    encoder = Encoder.fit(files[0][0], names, path)
    train, test = (
        Part(encoder.encode(frame, file), own, texts_of(frame[choice.group]) if choice.group is not None else None)
        for (frame, file), own in zip(files, (targets[~tested], targets[tested]), strict=True)
    )
    _check_groups(train, test, files[1][1])
    words = [f"{path.name}: {encoder.describe()}"]
    if left_out:
        words.append(f"left out: {', '.join(f'{name} ({why})' for name, why in left_out.items())}")
    if isinstance(choice.test, str) and (unknown := encoder.unknown(files[1][0])):
        words.append(f"{files[1][1].name}: {unknown}")
    if choice.group is not None and isinstance(choice.test, float):
        share = len(test.rows) / len(whole)
        if abs(share - choice.test) > choice.test / 3:
            words.append(f"groups stay together, so {share:.0%} of the rows are to test with, not {choice.test:.0%}")
    what = "numbers" if named is None else f"{len(named)} classes"
    words.append(
        f"predicted: {choice.predict} ({what}); {len(train.rows):,} rows to train with, {len(test.rows):,} to test with"
    )
    return Table(train, test, encoder, named, "; ".join(words))


def _inputs(choice: Choice, frame: pd.DataFrame, train: pd.DataFrame, path: Path) -> tuple[list[str], dict[str, str]]:
    """Returns the names of the columns to learn from, and those that are left out with the reason.

    Args:
        choice: the choice of a config.
        frame: the whole table.
        train: its training rows; from a column that has one value there nothing can be learned.
        path: its file, for errors.
    """

    def reason_of(name: str) -> str:
        same = "one value in the rows to train with"
        return unusable(frame[name]) or (same if train[name].nunique(dropna=False) == 1 else "")

    taken = {choice.predict: "dataset.predict", choice.group: "dataset.group"}
    if choice.columns is None:
        reasons = {name: reason_of(name) for name in frame.columns if name not in taken}
        left_out = {name: reason for name, reason in reasons.items() if reason}
        names = [name for name, reason in reasons.items() if not reason]
    else:
        check_columns(frame, choice.columns, path, "dataset.columns")
        for name in choice.columns:
            reason = f"it is {taken[name]}" if name in taken else reason_of(name)
            if reason:
                rule = f"dataset.columns must name columns to learn from, {name!r} is none ({reason})"
                raise DataError(rule, remedy="leave it out", where=str(path))
        names, left_out = list(choice.columns), {}
    if not names:
        remedy = "name others with dataset.columns, or give another file"
        raise DataError("must have a column to learn from, it has none", remedy=remedy, where=str(path))
    return names, left_out


def _check_roles(choice: Choice, frame: pd.DataFrame, path: Path) -> None:
    """Checks the columns of the targets and of the groups."""
    check_complete(frame[choice.predict], path, "dataset.predict")
    if choice.group is not None:
        check_columns(frame, [choice.group], path, "dataset.group")
        check_complete(frame[choice.group], path, "dataset.group")


def _targets(choice: Choice, parts: Sequence[tuple[pd.DataFrame, Path]]) -> tuple[tuple[str, ...] | None, NDArray[Any]]:
    """Returns the names of the classes, None if numbers are predicted, and the targets of both parts together."""
    columns = [(frame[choice.predict], path) for frame, path in parts]
    first, path = columns[0]
    is_text = numbers_of(first) is None
    if choice.targets == NUMBERS:
        if is_text:
            rule = f"dataset.predict must name a column of numbers for a regression, {choice.predict!r} has texts"
            raise DataError(rule, str(first.iloc[0]), "for classes use task=classification", where=str(path))
        return None, np.concatenate([finite_numbers(column, file) for column, file in columns])
    values = np.concatenate([texts_of(column) if is_text else finite_numbers(column, file) for column, file in columns])
    found, labels = np.unique(values, return_inverse=True)
    several = f"{len(found):,} different {'texts' if is_text else 'numbers'} in {len(values):,} rows"
    if len(found) < 2 or (is_text and unusable(pd.Series(values, dtype=object))):
        rule = f"dataset.predict must name a column of classes, {choice.predict!r} has {several}"
        raise DataError(rule, remedy="name another one", where=str(path))
    if not is_text and (len(found) > MOST_CLASSES or bool((found != np.floor(found)).any())):
        rule = f"dataset.predict must name texts or few whole numbers for classes, {choice.predict!r} has {several}"
        raise DataError(rule, remedy="to predict numbers use task=regression", where=str(path))
    return tuple(str(name) if is_text else f"{name:.0f}" for name in found.tolist()), labels


def _check_groups(train: Part, test: Part, path: Path) -> None:
    if train.groups is None or test.groups is None:
        return
    common = sorted(set(train.groups) & set(test.groups))
    if common:
        rule = f"a group must be in one part, {len(common):,} groups are in the training and in the test part"
        raise DataError(rule, common[0], "move each to one of the files", where=str(path))


def _path(file: str) -> Path:
    return typed_path(file)
