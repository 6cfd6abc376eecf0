"""From a CSV file to a swept table and to predictions, as docs/datasets.md has it."""

import io
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from sweepstack.training.data import user_dataset

from . import here
from .terminal import ROOT, Terminal

PAGE = (ROOT / "docs" / "datasets.md").read_text()
COMMANDS = [line for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
(DESCRIBED,) = re.findall(r"```\n(table .*)\n```", PAGE)


def people(rows: int) -> pd.DataFrame:
    """A table with categories and gaps, whose column `buys` depends on the others."""
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "name": [f"person {number}" for number in range(rows)],
            "age": generator.integers(18, 90, rows).astype(float),
            "income": generator.lognormal(10, 1, rows).round(2),
            "children": generator.integers(0, 5, rows),
            "city": generator.choice(["Bergen", "Oslo", "Tromsø"], rows),
            "member": generator.choice([True, False], rows),
            "since": pd.Timestamp("2024-01-31") + pd.to_timedelta(generator.integers(0, 900, rows), "D"),
        }
    )
    score = (frame["age"] - 54) / 20 + 2 * frame["member"] - (frame["city"] == "Oslo") + generator.normal(0, 0.5, rows)
    frame["buys"] = np.where(score > 0.7, "yes", "no")
    frame.loc[frame.index % 9 == 3, "age"] = np.nan
    frame.loc[frame.index % 11 == 5, "city"] = None
    return frame


@pytest.fixture
def typed(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.chdir(terminal.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    people(3000).to_csv("people.csv", index=False)
    return terminal


def test_a_table_is_swept_and_predicted(typed: Terminal) -> None:
    sweep, predict, *_ = (shlex.split(command) for command in COMMANDS)
    done = here.train(*sweep[2:], "epochs=3")
    assert (done.code, done.err) == (0, f"{DESCRIBED}\n"), done.err
    rows = typed.store.rows()
    assert {row.params["lr"] for row in rows} == {"0.01", "0.1"}
    assert max(row.metrics["test/accuracy"] for row in rows) > 0.8
    assert {(row.params["dataset.predict"], row.params["dataset.targets"]) for row in rows} == {("buys", "classes")}
    user_dataset._reported.clear()  # as in a process that has printed nothing yet
    registered = here.sweepstack("register")
    assert registered.code == 0
    assert "table people.csv" not in registered.err

    Path("people.csv").unlink()  # the registered model knows how the columns become numbers
    others = people(3000).tail(300)
    others.drop(columns="buys").iloc[:, ::-1].to_csv("rows.csv", index=False)
    answered = here.sweepstack(*predict[1:], "--format", "csv")
    assert answered.code == 0, answered.err
    found = pd.read_csv(io.StringIO(answered.out))
    assert len(found) == 300
    assert (found["name"] == others["buys"].to_numpy()).mean() > 0.8
    assert here.sweepstack(*predict[1:]).out.splitlines()[0].startswith(f"rows.csv[0]  {found['name'][0]}  ")

    pd.DataFrame({"age": [30], "city": ["Oslo"]}).to_csv("rows.csv", index=False)
    refused = here.sweepstack(*predict[1:])
    assert (refused.code, refused.err) == (2, "error: rows.csv must have a column 'income'; known: age, city\n")
    Path("rows.csv").write_text(f"{','.join(['0.5'] * 10)}\n" * 2)  # no names of columns
    assert "rows.csv must have a column 'age'" in here.sweepstack(*predict[1:]).err
    np.save("rows.npy", np.full((2, 10), 0.5, np.float32))  # numbers, as the dataset gives them
    assert here.sweepstack("predict", "rows.npy").code == 0


@pytest.mark.parametrize(
    ("typed_words", "message"),
    [
        (["dataset.file=peple.csv", "dataset.predict=buys"], "peple.csv: must exist, there is no such file"),
        (["dataset.file=people.csv", "dataset.predict=bys"], "'bys' is none; did you mean 'buys'?"),
        (
            ["dataset.file=people.csv", "dataset.predict=age"],
            "'age' has a gap (NaN) in row 4 (from 1, below the header)",
        ),
        (["dataset.file=people.csv"], "dataset.predict is required and missing; give it with dataset.predict=VALUE"),
        (["dataset.file=people.csv", "dataset.predict=income"], "to predict numbers use task=regression"),
        (["dataset.file=people.csv", "dataset.predict=buys", "dataset.tests=0.1"], "tests"),
    ],
)
@pytest.mark.usefixtures("typed")
def test_a_mistake_is_told_in_one_line(typed_words: list[str], message: str) -> None:
    done = here.train("dataset=table", *typed_words)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.usefixtures("typed")
def test_numbers_are_predicted_with_the_task_regression() -> None:
    words = ("dataset=table", "dataset.file=people.csv", "dataset.predict=income", "task=regression")
    done = here.train("-m", *words, "model=linear", "launch.dry_run=true")
    assert (done.code, done.out.splitlines()[0]) == (0, "1 trial -> 1 trajectory -> 1 stack"), done.err


def test_a_folder_of_images_is_trained_as_the_page_has_it(typed: Terminal) -> None:
    for name, shade in (("dark", 40), ("light", 200)):
        folder = typed.folder / "my_images" / name
        folder.mkdir(parents=True)
        for index in range(20):
            Image.new("RGB", (40 + index, 30), (shade + index, shade, shade)).save(folder / f"{index}.jpg")
    done = here.train(*shlex.split(COMMANDS[2])[2:], "epochs=10", "batch_size=4")
    assert (done.code, done.err) == (0, "")
    (row,) = typed.store.rows("all")
    assert row.metrics["test/accuracy"] == 1
    for name, shade in (("dark", 50), ("light", 210)):
        Image.new("RGB", (90, 70), (shade, shade, shade)).save("one.png")
        assert here.sweepstack("predict", "--model", row.run_id, "one.png").out.startswith(f"one.png  {name}  ")
    Path("one.png").write_bytes(b"no picture")
    refused = here.sweepstack("predict", "--model", row.run_id, "one.png")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "error: one.png must be an image that can be read (cannot identify image file" in refused.err
    config = yaml.safe_load(next(typed.folder.glob("outputs/*/.hydra/config.yaml")).read_text())["dataset"]
    assert config["size"] == [32, 32]
