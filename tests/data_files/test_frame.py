"""Tables are read from CSV and Parquet alike, and what is none is refused in one line."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sweepstack.data_files.frame import is_dates, numbers_of, read_frame, texts_of
from sweepstack.errors import DataError

TEXT = """\
age,city,member,since,code
31,Oslo,True,2024-01-31,007
,Bergen,False,2023-12-01,010
 44.5, Oslo,,2022-02-02,011
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "people.csv"
    path.write_text(TEXT)
    return path


def test_a_column_has_numbers_texts_or_dates(file: Path) -> None:
    frame = read_frame(file)
    ages = numbers_of(frame["age"])
    assert ages is not None
    np.testing.assert_equal(ages, [31, np.nan, 44.5])
    assert texts_of(frame["city"]).tolist() == ["Oslo", "Bergen", "Oslo"]
    assert texts_of(frame["member"]).tolist() == ["True", "False", None]
    assert [name for name in frame if is_dates(frame[name])] == ["since"]
    assert [name for name in frame if numbers_of(frame[name]) is not None] == ["age", "code"]


def test_a_column_can_be_read_as_texts(file: Path) -> None:
    assert texts_of(read_frame(file, ["code"])["code"]).tolist() == ["007", "010", "011"]


def test_parquet_has_the_same_columns(file: Path, tmp_path: Path) -> None:
    read = pd.read_csv(file, skipinitialspace=True, parse_dates=["since"])
    read.to_parquet(tmp_path / "people.parquet")
    frame, other = read_frame(file), read_frame(tmp_path / "people.parquet")
    for name in ("city", "member"):
        assert texts_of(other[name]).tolist() == texts_of(frame[name]).tolist()
    np.testing.assert_equal(numbers_of(other["age"]), numbers_of(frame["age"]))
    assert [name for name in other if is_dates(other[name])] == ["since"]


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_columns_can_be_separated_by_semicolons_tabs_or_bars(file: Path, separator: str) -> None:
    frame = read_frame(file)
    file.with_suffix(".txt").write_text("\ufeff" + TEXT.replace(",", separator))
    pd.testing.assert_frame_equal(read_frame(file.with_suffix(".txt")), frame)


def test_a_file_that_has_changed_is_read_again(file: Path) -> None:
    assert len(read_frame(file)) == 3
    file.write_text(TEXT + "50,Oslo,True,2020-01-01,012\n")
    assert len(read_frame(file)) == 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", None, "must exist, there is no such file; correct the path"),
        ("a.csv", b"", "must be a table as CSV in UTF-8, or Parquet (No columns to parse from file)"),
        ("a.csv", b"age,city\n", "must hold one row or more, it holds none"),
        ("a.csv", b"age,city\n1,2\n1,2,3\n", "Expected 2 fields in line 3, saw 3"),
        ("a.csv", b"age,city\n1,2,3\n4,5,6\n", "Length of header or names does not match length of data"),
        ("a.csv", b"age, age \n1,2\n", "must have columns of different names, got 'age'; rename one"),
        ("a.csv", "city\ncaf\u00e9\n".encode("latin-1"), "must be a table as CSV in UTF-8"),
        ("a.parquet", b"age\n1\n", "must be a table as CSV in UTF-8, or Parquet ("),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_frame(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\); correct the path"):
        read_frame(tmp_path)


@pytest.mark.parametrize("index", [["age"], ["age", "city"]])
def test_a_named_index_of_parquet_is_a_column(file: Path, tmp_path: Path, index: list[str]) -> None:
    frame = read_frame(file)
    frame.set_index(index).to_parquet(tmp_path / "people.parquet")
    pd.testing.assert_frame_equal(read_frame(tmp_path / "people.parquet"), frame)
    frame.set_index(frame["code"].rename(None)).to_parquet(tmp_path / "other.parquet")
    pd.testing.assert_frame_equal(read_frame(tmp_path / "other.parquet"), frame)


def test_only_an_empty_cell_is_a_gap_among_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,city\n1,None\nNA,NA\nnan,null\nNaN,\n,nan\n")
    frame = read_frame(path)
    assert texts_of(frame["city"]).tolist() == ["None", "NA", "null", None, "nan"]
    np.testing.assert_equal(numbers_of(frame["x"]), [1, *[np.nan] * 4])


def test_a_row_shorter_than_the_header_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('x;city;y\n1;"a\nb";\n\n2;a;4\n3;\n')
    with pytest.raises(DataError, match=r"must have 3 cells in every row, row 3 \(from 1, below the header\) has 2"):
        read_frame(path)
    path.write_text('x;city;y\n1;"a\nb";\n\n2;a;4\n3;;\n')
    assert len(read_frame(path)) == 3
