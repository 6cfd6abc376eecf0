"""Reads inputs for a model from files: rows of numbers from CSV, tensors from NumPy's .npy, rows of a table from CSV.

The numbers are those that the dataset gives, before `dataset.mean` and `dataset.std` are applied.
"""

from __future__ import annotations

import csv
import math
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweepstack.data_files.encoder import Encoder
from sweepstack.errors import DataError, UserError, one_line, printable

ROWS, TENSORS = ".csv", ".npy"
"""The ends of the names of files that hold rows, and tensors."""
LARGEST_PIXEL = 255
"""The value of the brightest pixel."""
LARGEST_EXACT_FLOAT32 = 2**24
"""The largest whole number up to which float32 holds every whole number."""
LARGEST_TOKEN = 2**53 - 1
"""The largest token that is read from a file: a number of CSV is a float64 until it is converted."""


class InputError(UserError):
    """A file does not hold inputs for the model."""


def has_items(path: Path) -> bool:
    """True if the name of a file says that it holds items, and no picture."""
    return path.suffix.lower() in (ROWS, TENSORS)


def check_is_file(path: Path) -> None:
    """Checks that a path is a file, or a folder, which cannot be read: reading a pipe would wait for ever.

    Raises:
        InputError: it is a pipe, a socket or a device.
        OSError: it does not exist.
    """
    if not (stat.S_ISREG(mode := path.stat().st_mode) or stat.S_ISDIR(mode)):
        raise InputError("must be a file, it is a pipe, a socket or a device", remedy="save it as a file")


def read_table(path: Path, encoder: Encoder) -> NDArray[np.float32]:
    """Reads rows of a table as the numbers [n, width] that a model was trained with. A line on standard error names
    texts that no training row has.

    Args:
        path: a CSV file whose first line has the names of the columns.
        encoder: the one that the model was trained with.

    Raises:
        InputError: the file cannot be read, a column is missing, or one should hold numbers and does not.
    """
    try:
        check_is_file(path)
        rows, unknown = encoder.encode_file(path)
    except DataError as error:
        raise InputError(error.rule, error.value, error.remedy) from error
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or one_line(error)})", remedy="correct the path") from error
    if unknown:
        print(printable(f"{path}: {unknown}"), file=sys.stderr)
    return rows


def read_inputs(path: Path, shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Reads the items of a .csv or .npy file.

    A line of a CSV file has the numbers of one item, in the order of the flattened `shape`, separated by commas. A
    first line without any number is taken as a header and ignored. A .npy file has one item [*shape] or several
    [n, *shape]; axes of size 1 may be missing.

    Args:
        path: the file.
        shape: the shape of one item.
        dtype: the type of the dataset's items: uint8 of pixels, int64 of tokens, or float32.

    Returns:
        The items [n, *shape], n from 1, of `dtype`.

    Raises:
        InputError: the file cannot be read, or does not hold such items.
    """
    try:
        check_is_file(path)
        read = _read_rows if path.suffix.lower() == ROWS else _read_tensors
        return read(path, shape, dtype)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or one_line(error)})", remedy="correct the path") from error


def _read_rows(path: Path, shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    width = math.prod(shape)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, cells) for cells in reader]
    except (ValueError, csv.Error) as error:  # a ValueError for bytes that are not UTF-8
        raise InputError(f"must be a CSV file in UTF-8 ({one_line(error)})", remedy="save it as one") from error
    while lines and not any(cell.strip() for cell in lines[-1][1]):
        lines.pop()
    if lines and not any(_number(cell) is not None for cell in lines[0][1]):
        lines = _after_header(lines, width)
    if not lines:
        raise InputError("must hold rows of numbers, it holds none", remedy="give one or more")
    rows = np.empty((len(lines), width))
    for index, (line, cells) in enumerate(lines):
        if len(cells) != width:
            had = f"line {line} has {len(cells)}"
            remedy = "give the columns that the dataset has, separated by commas"
            raise InputError(f"must have {width} numbers in each row, as dataset.shape says; {had}", remedy=remedy)
        for column, cell in enumerate(cells):
            number = _number(cell)
            if number is None:
                rule = f"must hold numbers, line {line}, column {column + 1} holds none"
                raise InputError(rule, cell.strip(), "give the number that the dataset has there")
            rows[index, column] = number
    where = [f"line {line}, column {{}}" for line, _ in lines]
    return _converted(rows, where, dtype).reshape(len(rows), *shape)


def _number(cell: str) -> float | None:
    try:
        return None if "_" in cell else float(cell)  # Python takes 1_000 as a number
    except ValueError:
        return None


def _after_header(lines: list[tuple[int, list[str]]], width: int) -> list[tuple[int, list[str]]]:
    """Returns the lines after the first one, which has the names of the columns."""
    line, cells = lines[0]
    if len(cells) != width and len(lines) > 1:
        names = ", ".join(cell.strip() for cell in cells)
        rule = f"must have {width} columns, as dataset.shape says; line {line} names {len(cells)}"
        raise InputError(rule, names, "give the columns that the dataset has, separated by commas")
    return lines[1:]


def _read_tensors(path: Path, shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        with path.open("rb") as file:  # which np.load leaves open if it is an archive
            array = np.load(file, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        raise InputError(
            f"must be an array that numpy.save wrote ({one_line(error)})", remedy="save it again"
        ) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "buif":
        kind = array.dtype if isinstance(array, np.ndarray) else "an archive"
        raise InputError(f"must hold an array of numbers, it holds {kind}", remedy=f"give {dtype}")
    for item in (tuple(shape), tuple(size for size in shape if size != 1)):
        if array.shape == item:
            array = array[None]
        if array.shape[1:] == item and array.ndim:
            break
    else:
        rule = f"must be of shape {list(shape)} for one item or {['n', *shape]} for several".replace("'", "")
        raise InputError(rule, list(array.shape), "give the shape that dataset.shape says")
    if not len(array):
        raise InputError("must hold one item or more, it holds none", list(array.shape), "give one or more")
    if dtype == np.float32 and array.dtype == np.uint8:
        rule = f"must hold the numbers that the dataset gives, which are {dtype} and not pixels from 0 to 255"
        raise InputError(rule, array.dtype, "convert them as the dataset does")
    flat = array.reshape(len(array), -1)
    return _converted(flat, [f"item {index} (from 0), number {{}}" for index in range(len(flat))], dtype).reshape(
        len(array), *shape
    )


def _converted(rows: NDArray[Any], where: Sequence[str], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Returns rows [n, numbers] in the type of the dataset, or raises the error for the first number that is not valid.

    Args:
        rows: the numbers.
        where: what to call a number of each row, with {} for its column, from 1.
        dtype: uint8, int64 or float32.
    """
    if dtype == np.uint8:
        valid = (rows >= 0) & (rows <= LARGEST_PIXEL) & (rows == np.floor(rows))
        rule = f"must hold pixels, whole numbers from 0 to {LARGEST_PIXEL}"
    elif dtype == np.int64:
        valid = (rows >= -LARGEST_TOKEN) & (rows <= LARGEST_TOKEN) & (rows == np.floor(rows))
        rule = f"must hold tokens, whole numbers of at most {LARGEST_TOKEN:,}"
    elif rows.dtype.kind in "iu":
        valid = (rows <= LARGEST_EXACT_FLOAT32) & (rows >= -LARGEST_EXACT_FLOAT32)
        rule = f"must hold whole numbers of at most {LARGEST_EXACT_FLOAT32:,}, or float32 would round them"
    else:
        with np.errstate(over="ignore"):
            valid = np.isfinite(rows.astype(np.float32))
        rule = "must hold finite numbers"
    wrong = np.argwhere(~valid)
    if len(wrong):
        row, column = wrong[0].tolist()
        raise InputError(f"{rule}; {where[row].format(column + 1)} is not", rows[row, column].item(), "correct it")
    return rows.astype(dtype)
