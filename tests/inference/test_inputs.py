"""Rows of CSV and tensors of .npy become inputs as the dataset gives them; what is wrong with a file is one line."""

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sweepstack.inference.inputs import InputError, read_inputs

FLOAT, PIXELS, TOKENS = np.dtype("float32"), np.dtype("uint8"), np.dtype("int64")


def refusal(path: Path, shape=(3,), dtype=FLOAT) -> str:
    with pytest.raises(InputError) as caught:
        read_inputs(path, shape, dtype)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(tmp_path: Path, content: str | bytes, name="rows.csv") -> Path:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return tmp_path / name


def saved(tmp_path: Path, array) -> Path:
    np.save(tmp_path / "items.npy", np.asarray(array))
    return tmp_path / "items.npy"


@pytest.mark.parametrize(
    "text",
    [
        "1,2,3\n4,5,6\n",
        "a,b,c\n1,2,3\n4,5,6",
        "\ufeffa,b,c\r\n1,2,3\r\n4,5,6\r\n\r\n",
        '"1"," 2 ",3e0\n4.0,+5,6\n,,\n',
    ],
)
def test_rows_are_read_with_and_without_a_header(tmp_path, text):
    found = read_inputs(written(tmp_path, text), (3,), FLOAT)
    assert found.dtype == np.float32
    assert found.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_a_row_has_the_shape_of_an_item_in_the_order_of_the_flattened_shape(tmp_path):
    found = read_inputs(written(tmp_path, "1,2,3,4,5,6\n"), (1, 2, 3), PIXELS)
    assert found.dtype == np.uint8
    assert found.tolist() == [[[[1, 2, 3], [4, 5, 6]]]]


@given(arrays(np.float32, (2, 3), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_numbers_come_back_to_the_bit(tmp_path_factory, numbers):
    folder = tmp_path_factory.mktemp("bits")
    text = "\n".join(",".join(map(repr, row)) for row in numbers.tolist())
    assert read_inputs(written(folder, text), (3,), FLOAT).tobytes() == numbers.tobytes()
    assert read_inputs(saved(folder, numbers), (3,), FLOAT).tobytes() == numbers.tobytes()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "must hold rows of numbers, it holds none; give one or more"),
        ("a,b,c\n", "must hold rows of numbers, it holds none; give one or more"),
        ("1,2,3\n1,2\n", "must have 3 numbers in each row, as dataset.shape says; line 2 has 2; give the columns"),
        ("1,2,3\n\n1,2,3\n", "must have 3 numbers in each row, as dataset.shape says; line 2 has 0; give the columns"),
        ("a,b\n1,2\n", "must have 3 columns, as dataset.shape says; line 1 names 2, got 'a, b'; give the columns"),
        ("1;2;3\n4;5;6\n", "must have 3 columns, as dataset.shape says; line 1 names 1, got '1;2;3'; give the columns"),
        ("a,b,c\n1,,3\n", "must hold numbers, line 2, column 2 holds none, got ''; give the number"),
        ("1,2,3\n1,2,x\n", "must hold numbers, line 2, column 3 holds none, got 'x'; give the number"),
        ("1,2,3\n1,2,1_0\n", "must hold numbers, line 2, column 3 holds none, got '1_0'; give the number"),
        ("1,2,3\n1,nan,3\n", "must hold finite numbers; line 2, column 2 is not, got nan; correct it"),
        ("1,2,-inf\n", "must hold finite numbers; line 1, column 3 is not, got -inf; correct it"),
        ("1,2,1e39\n", "must hold finite numbers; line 1, column 3 is not, got 1e+39; correct it"),
        (b"1,2,\xff\n", "must be a CSV file in UTF-8 ("),
    ],
)
def test_a_row_that_is_none_is_named_by_its_line(tmp_path, text, line):
    assert refusal(written(tmp_path, text)).startswith(line)


@pytest.mark.parametrize("value", ["-1", "256", "0.5", "nan"])
def test_pixels_are_whole_numbers_to_255(tmp_path, value):
    line = refusal(written(tmp_path, f"0,255,{value}\n"), dtype=PIXELS)
    assert line.startswith("must hold pixels, whole numbers from 0 to 255; line 1, column 3 is not, got ")


@pytest.mark.parametrize("value", ["1.7", "nan", "inf", str(2**53)])
def test_tokens_are_whole_numbers(tmp_path, value):
    rule = "must hold tokens, whole numbers of at most 9,007,199,254,740,991; "
    assert refusal(written(tmp_path, f"0,3,{value}\n"), dtype=TOKENS).startswith(f"{rule}line 1, column 3 is not, got ")
    assert refusal(saved(tmp_path, [0, 3, float(value)]), dtype=TOKENS).startswith(f"{rule}item 0 (from 0), number 3 ")


@pytest.mark.parametrize("kind", ["uint8", "bool", "int16", "uint64", "float64"])
def test_tokens_are_read_from_numbers_of_any_type(tmp_path, kind):
    found = read_inputs(saved(tmp_path, np.array([0, 1, 1], kind)), (3,), TOKENS)
    assert (found.dtype, found.tolist()) == (TOKENS, [[0, 1, 1]])
    assert read_inputs(written(tmp_path, f"0,-7,{2**53 - 1}\n"), (3,), TOKENS).tolist() == [[0, -7, 2**53 - 1]]


@pytest.mark.parametrize("shape", [(1, 2, 3), (5, 1, 2, 3), (2, 3), (5, 2, 3)])
def test_tensors_are_one_item_or_several(tmp_path, shape):
    given_ = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    found = read_inputs(saved(tmp_path, given_), (1, 2, 3), FLOAT)
    assert found.dtype == np.float32
    assert found.shape == (5 if 5 in shape else 1, 1, 2, 3)
    assert (found.flatten() == given_.flatten()).all()


@pytest.mark.parametrize(
    ("array", "dtype", "line"),
    [
        (
            np.zeros((2, 4)),
            FLOAT,
            "must be of shape [3] for one item or [n, 3] for several, got [2, 4]; give the shape",
        ),
        (np.zeros((0, 3)), FLOAT, "must hold one item or more, it holds none, got [0, 3]; give one or more"),
        (np.array(1.0), FLOAT, "must be of shape [3] for one item or [n, 3] for several, got []; give the shape"),
        ([[0, 0, 0], [0, np.nan, 0]], FLOAT, "must hold finite numbers; item 1 (from 0), number 2 is not, got nan;"),
        (np.array(["a"]), FLOAT, "must hold an array of numbers, it holds <U1; give float32"),
        (np.zeros(3, complex), FLOAT, "must hold an array of numbers, it holds complex128; give float32"),
        ([1, 2, 2**24 + 1], FLOAT, "must hold whole numbers of at most 16,777,216, or float32 would round them; item"),
        (
            np.zeros(3, np.uint8),
            FLOAT,
            "must hold the numbers that the dataset gives, which are float32 and not pixels",
        ),
        (
            [0, 1, 256],
            PIXELS,
            "must hold pixels, whole numbers from 0 to 255; item 0 (from 0), number 3 is not, got 256",
        ),
    ],
)
def test_tensors_that_are_no_items_are_refused(tmp_path, array, dtype, line):
    assert refusal(saved(tmp_path, array), dtype=dtype).startswith(line)


def test_files_that_are_none_are_refused(tmp_path):
    archive = io.BytesIO()
    np.savez(archive, np.zeros(3))
    assert refusal(written(tmp_path, archive.getvalue(), "a.npy")).startswith(
        "must hold an array of numbers, it holds an"
    )
    for content in (b"", b"no array", pickle.dumps([1]), b"\x93NUMPY" + b"x" * 200):
        assert refusal(written(tmp_path, content, "a.npy")).startswith("must be an array that numpy.save wrote (")
    for name in ("none.csv", "none.npy"):
        assert refusal(tmp_path / name) == "cannot be read (No such file or directory); correct the path"
        (tmp_path / f"folder{name}").mkdir()
        assert refusal(tmp_path / f"folder{name}") == "cannot be read (Is a directory); correct the path"
    os.mkfifo(tmp_path / "pipe.csv")
    assert refusal(tmp_path / "pipe.csv").startswith("must be a file, it is a pipe")
