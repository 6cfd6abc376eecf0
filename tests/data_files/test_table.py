"""A table becomes numbers as its training rows say, in the open, or is refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sweepstack.data_files.draw import draw_test_part
from sweepstack.data_files.encoder import Encoder
from sweepstack.data_files.frame import read_frame
from sweepstack.data_files.table import Table, choose
from sweepstack.errors import DataError

ROWS = 200


def people() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "name": [f"person {number}" for number in range(ROWS)],
            "age": generator.integers(18, 90, ROWS).astype(float),
            "income": generator.lognormal(10, 1, ROWS),
            "city": generator.choice(["Oslo", "Bergen", "Tromsø"], ROWS),
            "member": generator.choice([True, False], ROWS),
            "since": pd.Timestamp("2024-01-31") + pd.to_timedelta(generator.integers(0, 900, ROWS), "D"),
            "country": "Norway",
            "number": np.arange(1, ROWS + 1),
            "household": np.arange(ROWS) // 4,
            "buys": generator.choice(["yes", "no"], ROWS),
        }
    )
    frame.loc[frame.index % 7 == 3, "age"] = np.nan
    frame.loc[frame.index % 11 == 5, "city"] = None
    return frame


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "people.csv"
    people().to_csv(path, index=False)
    return path


def load(file: Path | None, predict: str = "buys", **keywords: Any) -> Table:
    return choose(file and str(file), predict, **keywords).load()


def refusal(file: Path | None, predict: str = "buys", **keywords: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(file, predict, **keywords)
    line = str(caught.value)
    assert "\n" not in line
    return line


# What becomes of the columns


def test_what_becomes_of_the_columns_is_described(file: Path) -> None:
    assert load(file).description == (
        "people.csv: 5 columns -> 10 numbers: 3 numbers (1 with gaps), 2 categories (city: 4 values, member: 2 values)"
        "; left out: name (200 texts in 200 rows), since (dates), country (one value), number (a number for each row); "
        "predicted: buys (2 classes); 160 rows to train with, 40 to test with"
    )


def test_numbers_are_standardized_by_the_training_rows_and_gaps_become_the_mean_and_are_marked(file: Path) -> None:
    table = load(file, columns=["age", "income"])
    age, gap, income = table.train.rows.T
    np.testing.assert_allclose(
        [age[gap == 0].mean(), age[gap == 0].std(), income.mean(), income.std()], [0, 1, 0, 1], atol=1e-5
    )
    assert set(age[gap == 1]) == {0}
    assert 0 < gap.sum() < len(gap)
    assert set(np.unique(table.test.rows[:, 1])) == {0, 1}
    assert abs(float(table.test.rows[:, 2].mean())) > 1e-3  # by the mean of other rows


def test_categories_become_a_number_for_each_value_of_the_training_rows(file: Path) -> None:
    table = load(file, columns=["city", "member"])
    assert [(column.name, column.values, column.gaps) for column in table.encoder.columns] == [
        ("city", ["Bergen", "Oslo", "Tromsø"], True),
        ("member", ["False", "True"], False),
    ]
    for part in (table.train, table.test):
        assert set(np.unique(part.rows)) == {0, 1}
        assert (part.rows[:, :4].sum(1) == 1).all()
        assert (part.rows[:, 4:].sum(1) == 1).all()


def test_what_only_other_rows_have_is_zeros_or_the_mean(file: Path) -> None:
    encoder = load(file, columns=["income", "member", "city"]).encoder
    other = pd.DataFrame(
        {"city": ["Paris", None], "member": [None, "True"], "income": [np.nan, encoder.columns[0].mean]}
    )
    assert encoder.encode(other, file).tolist() == [[0, 0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 1]]


@pytest.mark.parametrize("values", [["true", "FALSE"], ["TRUE", "false"], ["1", "0"], [True, False]])
def test_true_and_false_may_be_written_in_several_ways(file: Path, tmp_path: Path, values: list[Any]) -> None:
    encoder = load(file, columns=["member"]).encoder
    (tmp_path / "other.csv").write_text("".join(f"{value},\n" for value in ["member", *values]))
    assert encoder.encode_file(tmp_path / "other.csv") == (pytest.approx(np.array([[0, 1], [1, 0]])), "")


def test_texts_that_no_training_row_has_are_said(file: Path, tmp_path: Path) -> None:
    other = people().head(30).assign(city="7")
    other.to_csv(tmp_path / "other.csv", index=False)
    said = "column city: 30 of 30 rows have a value that no training row has, such as '7'"
    assert f"; other.csv: {said}; predicted: " in load(file, test=str(tmp_path / "other.csv")).description
    assert load(file, columns=["age", "city"]).encoder.encode_file(tmp_path / "other.csv")[1] == said


@pytest.mark.parametrize("value", [np.nan, 7.0])
def test_a_column_that_has_one_value_in_the_training_rows_is_left_out(file: Path, value: float) -> None:
    frame = people()
    tested = draw_test_part(ROWS, 0.2, frame["buys"])
    frame["late"] = np.where(tested, frame["income"], value)
    frame.to_csv(file, index=False)
    assert "late (one value in the rows to train with)" in load(file).description
    assert "'late' is none (one value in the rows to train with)" in refusal(file, columns=["late"])


def test_an_encoder_is_read_back(file: Path) -> None:
    encoder = load(file).encoder
    again = Encoder.from_plain(encoder.as_plain())
    frame = read_frame(file)
    assert np.array_equal(encoder.encode(frame, file), again.encode(frame, file))


def test_parquet_gives_the_same_as_csv(file: Path, tmp_path: Path) -> None:
    people().to_parquet(tmp_path / "people.parquet")
    one, other = load(file), load(tmp_path / "people.parquet")
    assert np.array_equal(one.train.targets, other.train.targets)
    np.testing.assert_allclose(one.train.rows, other.train.rows, atol=1e-6)
    np.testing.assert_allclose(one.test.rows, other.test.rows, atol=1e-6)


# What is predicted


def test_classes_are_in_sorted_order(file: Path) -> None:
    table = load(file)
    assert table.classes == ("no", "yes")
    found = [table.classes[index] for index in np.concatenate([table.train.targets, table.test.targets])]
    assert sorted(found) == sorted(people()["buys"])


def test_whole_numbers_can_be_classes_in_the_order_of_numbers(tmp_path: Path) -> None:
    path = tmp_path / "stars.csv"
    path.write_text("x,stars\n" + "".join(f"{index * 0.5},{(2, 10, 1)[index % 3]}\n" for index in range(30)))
    assert load(path, "stars").classes == ("1", "2", "10")


def test_numbers_are_predicted_as_they_are(file: Path) -> None:
    table = load(file, "income", targets="numbers")
    assert table.classes is None
    assert sorted([*table.train.targets, *table.test.targets]) == pytest.approx(sorted(people()["income"]))


def test_test_rows_can_come_from_another_file(file: Path, tmp_path: Path) -> None:
    other = people().head(30).assign(city="7")  # looks like a number, and is none in the training rows
    other.to_csv(tmp_path / "other.csv", index=False)
    table = load(file, test=str(tmp_path / "other.csv"), columns=["city", "age"])
    assert (len(table.train.rows), len(table.test.rows)) == (ROWS, 30)
    assert table.test.rows[:, :4].sum() == 0


def test_all_rows_can_be_for_training(file: Path) -> None:
    table = load(file, test=None)
    assert (len(table.train.rows), len(table.test.rows)) == (ROWS, 0)


def test_groups_stay_together_and_are_not_learned_from(file: Path) -> None:
    table = load(file, group="household")
    assert table.train.groups is not None
    assert table.test.groups is not None
    assert not {*table.train.groups} & {*table.test.groups}
    assert (len(table.train.groups), len(table.test.groups)) == (160, 40)
    assert "household" not in [column.name for column in table.encoder.columns]


# What is refused


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"predict": "bys"}, "dataset.predict must name a column of the table, 'bys' is none; did you mean 'buys'?"),
        ({"columns": ["age", "citty"]}, "must name a column of the table, 'citty' is none; did you mean"),
        ({"columns": ["since"]}, "must name columns to learn from, 'since' is none (dates); leave it out"),
        ({"columns": ["buys"]}, "'buys' is none (it is dataset.predict)"),
        ({"file": None}, "dataset.file must name a CSV or Parquet file, got None; for example dataset.file=my.csv"),
        ({"columns": "age"}, "dataset.columns must be a list of names, got 'age'; set dataset.columns=[age]"),
        ({"columns": ["age", "city", "age"]}, "dataset.columns must name each column once, got 'age'"),
        ({"group": "buys"}, "dataset.group must be another column than dataset.predict, got 'buys'"),
        ({"columns": []}, "must have a column to learn from, it has none"),
        ({"group": "house"}, "must name a column of the table, 'house' is none; did you mean 'household'?"),
        ({"predict": "age"}, "must have a value in every row, 'age' has a gap (NaN) in row 4 (from 1, "),
        ({"predict": "income"}, "must name texts or few whole numbers for classes, 'income' has 200 different numbers "
         "in 200 rows; to predict numbers use task=regression"),
        ({"predict": "name"}, "must name a column of classes, 'name' has 200 different texts"),
        ({"predict": "country"}, "must name a column of classes, 'country' has 1 different texts"),
        ({"targets": "numbers"}, "must name a column of numbers for a regression, 'buys' has texts, got "),
        ({"targets": "both"}, "dataset.targets must be classes or numbers, got 'both'"),
        ({"test": 2}, "dataset.test must be a part of the items, between 0 and 1, got 2"),
        ({"test": "nowhere.csv"}, "must exist, there is no such file"),
        ({"group": "country"}, "must leave groups to train on and groups to test on"),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_is_refused(file: Path, keywords: dict[str, Any], message: str) -> None:
    assert message in refusal(**{"file": file, **keywords})


@pytest.mark.parametrize("value", ["inf", "-1e300"])
def test_a_number_that_is_not_finite_is_named_with_its_row(file: Path, value: str) -> None:
    lines = file.read_text().splitlines()
    cells = lines[8].split(",")
    cells[2] = value
    lines[8] = ",".join(cells)
    file.write_text("\n".join(lines))
    assert (
        "column 'income' must hold numbers that are finite as float32, row 8 (from 1, below the header) does not"
        in (refusal(file))
    )


def test_a_text_among_the_numbers_of_another_file_is_named_with_its_row(file: Path, tmp_path: Path) -> None:
    other = people().head(30).astype({"income": object})
    other.loc[6, "income"] = "much"
    other.to_csv(tmp_path / "other.csv", index=False)
    line = refusal(file, test=str(tmp_path / "other.csv"))
    assert line.startswith(f"{tmp_path}/other.csv: column 'income' must hold numbers")
    assert line.endswith("row 7 (from 1, below the header) does not, got 'much'; correct it")


def test_texts_that_are_numbers_are_numbers_where_the_training_rows_have_numbers(file: Path, tmp_path: Path) -> None:
    other = people().head(30)
    other.to_parquet(tmp_path / "numbers.parquet")
    other.assign(income=other["income"].astype(str)).to_parquet(tmp_path / "texts.parquet")
    one, another = (load(file, test=str(tmp_path / f"{name}.parquet")).test for name in ("numbers", "texts"))
    assert np.array_equal(one.rows, another.rows)


def test_a_column_of_lists_is_left_out(tmp_path: Path) -> None:
    people().assign(tags=pd.Series([["a", "b"]] * ROWS, dtype=object)).to_parquet(tmp_path / "people.parquet")
    assert "tags (neither numbers nor texts)" in load(tmp_path / "people.parquet").description


def test_a_column_that_another_file_lacks_is_named(file: Path, tmp_path: Path) -> None:
    people().head(30).drop(columns="city").to_csv(tmp_path / "other.csv", index=False)
    assert "other.csv: must have a column 'city'; " in refusal(file, test=str(tmp_path / "other.csv"))


def test_a_group_in_both_files_is_named(file: Path, tmp_path: Path) -> None:
    people().head(6).to_csv(tmp_path / "other.csv", index=False)
    line = refusal(file, test=str(tmp_path / "other.csv"), group="household")
    assert "a group must be in one part, 2 groups are in the training and in the test part" in line


def test_a_group_is_the_same_one_as_a_whole_number_of_any_type(file: Path, tmp_path: Path) -> None:
    people().head(6).to_parquet(tmp_path / "other.parquet")  # whole numbers; those of CSV are float64
    line = refusal(file, test=str(tmp_path / "other.parquet"), group="household")
    assert "2 groups are in the training and in the test part, got '0'" in line


@pytest.mark.parametrize("name", ["people.csv", "../{}/people.csv", "link.csv"])
def test_the_same_file_is_not_trained_on_and_tested_on(file: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "link.csv").symlink_to(file)
    line = refusal(file, test=str(tmp_path / name.format(tmp_path.name)))
    assert line.startswith("dataset.test must be another file than dataset.file")


def test_a_share_of_tests_that_groups_do_not_allow_is_said(file: Path) -> None:
    assert "groups stay together" not in load(file, group="household").description
    people().assign(household=np.arange(ROWS) // 100).to_csv(file, index=False)
    said = "groups stay together, so 50% of the rows are to test with, not 20%"
    assert said in load(file, group="household").description
