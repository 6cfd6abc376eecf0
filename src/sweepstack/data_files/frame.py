"""Reads a table from a CSV or Parquet file. A column has numbers, dates or texts; a gap is NaN or None."""

from __future__ import annotations

import csv
import functools
import re
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweepstack.errors import DataError, did_you_mean, one_line

PARQUET = (".parquet", ".pq")
"""The ends of the names of Parquet files. Any other file is CSV."""
SEPARATORS = ",;\t|"
"""What may separate the columns of a CSV file: the one of these that is most frequent in the first line."""
GAPS = ("NA", "NaN", "nan")
"""Texts that are gaps in a CSV column of numbers. In any column an empty cell is one, and nothing else."""
DATE = re.compile(r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4})([T ]\d{1,2}:.*)?")
"""Matches a date in a CSV file."""

BELOW_HEADER = "(from 1, below the header)"
"""How rows are counted."""


def read_frame(path: Path, texts: Iterable[str] = ()) -> pd.DataFrame:
    """Reads a table. A CSV column whose values all are numbers is float64, any other one has texts.

    Args:
        path: the file; its first line has the names of the columns.
        texts: names of columns that are read as texts, whatever they look like.

    Raises:
        DataError: the file is missing, is no table, or has no rows.
    """
    try:
        stat = path.stat()
        return _read(path, stat.st_mtime_ns, stat.st_size, frozenset(texts))
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError("must exist, there is no such file", remedy="correct the path", where=str(path)) from error
    except OSError as error:
        reason = f"cannot be read ({error.strerror or one_line(error)})"
        raise DataError(reason, remedy="correct the path", where=str(path)) from error
    except Exception as error:  # a damaged file can fail in any way
        rule = f"must be a table as CSV in UTF-8, or Parquet ({one_line(error)})"
        raise DataError(rule, remedy="save it as one", where=str(path)) from error


@functools.lru_cache(maxsize=4)
def _read(path: Path, changed: int, size: int, texts: frozenset[str]) -> pd.DataFrame:
    is_csv = path.suffix.lower() not in PARQUET
    frame = _read_csv(path) if is_csv else _read_parquet(path)
    frame.columns = frame.columns.map(lambda name: str(name).strip())
    if frame.empty:
        raise DataError("must hold one row or more, it holds none", remedy="give rows", where=str(path))
    if not frame.columns.is_unique:
        name = frame.columns[frame.columns.duplicated()][0]
        raise DataError("must have columns of different names", name, "rename one", where=str(path))
    for name in frame.columns if is_csv else ():
        numbers, gaps = pd.to_numeric(frame[name], errors="coerce"), frame[name].isna() | frame[name].isin(GAPS)
        if name not in texts and bool((numbers.isna() == gaps).all()):
            frame[name] = numbers.astype(np.float64)
    return frame


def _read_csv(path: Path) -> pd.DataFrame:
    with path.open(encoding="utf-8-sig") as file:
        separator = max(SEPARATORS, key=file.readline().count)
    with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):  # rows longer than the header
        frame = pd.read_csv(
            path,
            sep=separator,
            dtype=str,
            encoding="utf-8-sig",
            skipinitialspace=True,
            index_col=False,
            keep_default_na=False,
            na_values=[""],
        )
    if frame.iloc[:, -1:].isna().any(axis=None):
        _check_widths(path, separator)
    return frame


def _check_widths(path: Path, separator: str) -> None:
    """Checks that no row of a CSV file is shorter than its header: what it lacks would be gaps."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        read = csv.reader(file, delimiter=separator, skipinitialspace=True)
        rows = (row for row in read if len(row) > 1 or "".join(row).strip())
        width = len(next(rows))
        for number, row in enumerate(rows, 1):
            if len(row) < width:
                rule = f"must have {width:,} cells in every row, row {number:,} {BELOW_HEADER} has {len(row):,}"
                raise DataError(rule, remedy="correct it", where=str(path))


def _read_parquet(path: Path) -> pd.DataFrame:
    frame = pd.read_parquet(path)
    named = [name for name in frame.index.names if name is not None]  # columns that pandas took as the index
    return frame.reset_index(named).reset_index(drop=True)


def check_columns(frame: pd.DataFrame, names: Iterable[str], path: Path, key: str = "") -> None:
    """Checks that a table has columns.

    Args:
        frame: the table.
        names: the columns.
        path: its file.
        key: the key of the config that names them.

    Raises:
        DataError: it lacks one.
    """
    for name in names:
        if name not in frame.columns:
            rule = f"{key} must name a column of the table, {name!r} is none" if key else f"must have a column {name!r}"
            raise DataError(rule, remedy=did_you_mean(name, frame.columns), where=str(path))


def numbers_of(column: pd.Series) -> NDArray[np.float64] | None:
    """Returns a column of numbers, NaN in its gaps; None if it has anything else."""
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return None
    return column.to_numpy(np.float64, na_value=np.nan)


def texts_of(column: pd.Series) -> NDArray[np.object_]:
    """Returns a column as texts, None in its gaps; a whole number is the same text, whatever its type."""
    values = zip(column, column.isna(), strict=True)
    return np.array([None if gap else _text(value) for value, gap in values], object)


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def is_dates(column: pd.Series) -> bool:
    """True if a column has dates or times, and nothing else."""
    if pd.api.types.is_datetime64_any_dtype(column) or pd.api.types.is_timedelta64_dtype(column):
        return True
    return numbers_of(column) is None and all(DATE.fullmatch(str(value)) for value in column.dropna())


def check_complete(column: pd.Series, path: Path, what: str) -> None:
    """Checks that a column has no gap.

    Args:
        column: the column.
        path: the file of its table.
        what: what the column is for, for the error.

    Raises:
        DataError: it has one.
    """
    gaps = column.index.to_numpy()[column.isna()]
    if len(gaps):
        rule = f"{what} must have a value in every row, {column.name!r} has a gap (NaN) in row {gaps[0] + 1:,}"
        remedy = f"fill or leave out {len(gaps):,} of {len(column):,} rows"
        raise DataError(f"{rule} {BELOW_HEADER}", remedy=remedy, where=str(path))
