"""Turns the columns of a table into numbers that a model can learn from, as the training rows determine it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweepstack.data_files.frame import BELOW_HEADER, check_columns, is_dates, numbers_of, read_frame, texts_of
from sweepstack.errors import DataError

MOST_TEXTS = 1000
"""The most different texts of a column that is learned from: each becomes a number of a row."""
FEW_TEXTS = 20
"""So many different texts are never too many, unless every row has another one."""
LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
"""The largest number that is finite as float32."""


@dataclass(frozen=True)
class Coded:
    """How one column becomes numbers.

    A number is standardized, and 0, the mean, in a gap. A text becomes one number for each of the `values`: 1 for its
    own, 0 for all others, so that a text that no training row has is all zeros.
    """

    name: str
    gaps: bool
    """Whether there were gaps in the training rows: then one more number says where."""
    values: Sequence[str] | None = None
    """The texts of the training rows, sorted; None for a column of numbers."""
    mean: float = 0.0
    std: float = 1.0

    @property
    def width(self) -> int:
        """How many numbers it becomes."""
        return (1 if self.values is None else len(self.values)) + self.gaps

    def codes(self, column: pd.Series) -> NDArray[np.intp]:
        """Returns the index of the text of each row in `values`, which are not None; -1 where it is none of them.

        If the values are true and false, they may be written in any case, or as 1 and 0.
        """
        texts, values = texts_of(column), list(self.values or ())
        if {value.lower() for value in values} <= {"true", "false"}:
            known = {value.lower(): value for value in values}
            known |= {number: known[name] for number, name in (("1", "true"), ("0", "false")) if name in known}
            texts = np.array([text and known.get(text.lower(), text) for text in texts], object)
        return pd.Index(values).get_indexer(pd.Index(texts, dtype=object))

    def unknown(self, column: pd.Series) -> str:
        """Says how many texts of a column no training row has; empty if there are none."""
        if self.values is None:
            return ""
        wrong = np.flatnonzero((self.codes(column) < 0) & column.notna())
        if not len(wrong):
            return ""
        rows, example = f"{len(wrong):,} of {len(column):,} rows", str(column.iloc[wrong[0]])
        return f"column {self.name}: {rows} have a value that no training row has, such as {example!r}"

    def encode(self, column: pd.Series, out: NDArray[np.float32], path: Path) -> None:
        """Writes the numbers of a column.

        Args:
            column: the column.
            out: zeros [n, width]; receives the numbers.
            path: the file of its table, for errors.

        Raises:
            DataError: it must hold finite numbers, and does not.
        """
        if self.values is not None:
            codes = self.codes(column)
            known = np.flatnonzero(codes >= 0)
            out[known, codes[known]] = 1
        else:
            numbers = finite_numbers(column, path)
            out[:, 0] = np.nan_to_num((numbers - self.mean) / self.std)
        if self.gaps:
            out[:, -1] = column.isna()


@dataclass(frozen=True)
class Encoder:
    """How the rows of a table become rows of numbers. `fit` makes one from training rows."""

    columns: Sequence[Coded]

    @property
    def width(self) -> int:
        """How many numbers a row becomes."""
        return sum(column.width for column in self.columns)

    @property
    def texts(self) -> list[str]:
        """The names of the columns that are texts."""
        return [column.name for column in self.columns if column.values is not None]

    def encode(self, frame: pd.DataFrame, path: Path) -> NDArray[np.float32]:
        """Returns the rows of a table as numbers [n, width].

        Args:
            frame: the table; other columns than those of the encoder are ignored.
            path: its file, for errors.

        Raises:
            DataError: a column is missing, or should hold numbers and does not.
        """
        check_columns(frame, (column.name for column in self.columns), path)
        rows, begin = np.zeros((len(frame), self.width), np.float32), 0
        for column in self.columns:
            column.encode(frame[column.name], rows[:, begin : begin + column.width], path)
            begin += column.width
        return rows

    def encode_file(self, path: Path) -> tuple[NDArray[np.float32], str]:
        """Returns the rows of a file as numbers [n, width] and what is `unknown`; see `encode` and `read_frame`."""
        frame = read_frame(path, self.texts)
        return self.encode(frame, path), self.unknown(frame)

    def unknown(self, frame: pd.DataFrame) -> str:
        """Says which columns of a table have texts that no training row has; empty if none has."""
        lines = (column.unknown(frame[column.name]) for column in self.columns)
        return "; ".join(line for line in lines if line)

    def describe(self) -> str:
        """Says what becomes of the columns, such as "2 columns -> 4 numbers: 1 number, 1 category (city: 3 values)"."""
        numbers = [column for column in self.columns if column.values is None]
        texts = [column for column in self.columns if column.values is not None]
        parts = []
        if numbers:
            gaps = sum(column.gaps for column in numbers)
            parts.append(_count(len(numbers), "number") + (f" ({gaps} with gaps)" if gaps else ""))
        if texts:
            each = ", ".join(f"{column.name}: {column.width} values" for column in texts)
            parts.append(f"{_count(len(texts), 'category', 'categories')} ({each})")
        return f"{_count(len(self.columns), 'column')} -> {_count(self.width, 'number')}: {', '.join(parts)}"

    def as_plain(self) -> list[dict[str, Any]]:
        """Returns plain values, which `from_plain` reads."""
        return [asdict(column) for column in self.columns]

    @classmethod
    def from_plain(cls, plain: Iterable[Mapping[str, Any]]) -> Encoder:
        """Returns the encoder of plain values."""
        return cls([Coded(**column) for column in plain])

    @classmethod
    def fit(cls, frame: pd.DataFrame, names: Iterable[str], path: Path) -> Encoder:
        """Returns the encoder of training rows.

        Args:
            frame: the training rows.
            names: the columns to learn from.
            path: the file of the table, for errors.

        Raises:
            DataError: a number is not finite.
        """
        return cls([_fitted(frame[name], path) for name in names])


def unusable(column: pd.Series) -> str:
    """Says why nothing can be learned from a column of a table; empty if something can."""
    try:
        if column.nunique(dropna=False) == 1:
            return "one value"
    except TypeError:  # Parquet has columns of lists
        return "neither numbers nor texts"
    if is_dates(column):
        return "dates"
    numbers, count, distinct = numbers_of(column), column.count(), column.nunique()
    if numbers is not None:
        numbered = len(numbers) > 2 and bool((np.diff(np.sort(numbers)) == 1).all()) and distinct == len(numbers)
        return "a number for each row" if numbered else ""
    if distinct == count or distinct > min(MOST_TEXTS, max(FEW_TEXTS, count // 2)):
        return f"{distinct:,} texts in {len(column):,} rows"
    return ""


def finite_numbers(column: pd.Series, path: Path) -> NDArray[np.float64]:
    """Returns a column of numbers, or of texts that all are numbers, NaN in its gaps.

    Raises:
        DataError: it holds other texts or infinite numbers; the row of the first one is named.
    """
    numbers = numbers_of(column)
    if numbers is None:
        numbers = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    wrong = np.flatnonzero((np.isnan(numbers) & column.notna()) | (np.abs(numbers) > LARGEST_FLOAT32))
    if not len(wrong):
        return numbers
    row = column.index.to_numpy()[wrong[0]] + 1
    rule = f"column {column.name!r} must hold numbers that are finite as float32, row {row:,} {BELOW_HEADER} does not"
    raise DataError(rule, str(column.iloc[wrong[0]]), "correct it", where=str(path))


def _fitted(column: pd.Series, path: Path) -> Coded:
    gaps = bool(column.isna().any())
    if numbers_of(column) is None:
        return Coded(str(column.name), gaps, sorted({text for text in texts_of(column) if text is not None}))
    numbers = finite_numbers(column, path)
    std = float(np.nanstd(numbers))
    return Coded(str(column.name), gaps, None, float(np.nanmean(numbers)), std if std > 0 else 1.0)


def _count(number: int, one: str, several: str = "") -> str:
    return f"{number:,} {one if number == 1 else several or one + 's'}"
