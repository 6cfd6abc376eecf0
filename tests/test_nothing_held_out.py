"""A sweep with validation_split=0: the test data selected, and whatever selects or shows what was selected says so."""

import csv
import io
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sweepstack.results.reporting import report as reporting
from sweepstack.tracking.store import Store
from sweepstack.tracking.summary import summary_run

from . import here
from .terminal import new_store

SAID = "nothing was held out, so test data selected: the test value is too good"
MARK = "selected on the test data"
SWEEP = ("dataset=digits", "epochs=1", "device=cpu", "threads=1", "validation_split=0", "seed=0,1")
SHAPES = {
    "trials": [],
    "settings": ["--by-seed"],
    "groups": ["--group-by", "lr"],
    "cells": ["--pivot", "lr", "batch_size"],
}


@pytest.fixture(scope="module")
def end_of_sweep(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[tuple[Store, str]]:
    """The store of a sweep in whose folder commands are typed, and what was printed at its end."""
    folder = tmp_path_factory.mktemp("tempted")
    made = new_store(folder, empty_database)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", made.uri)
        words = ["optimizer.lr=0.01,0.1", "batch_size=50,100", "tracking.sweep=tempted"]
        done = here.train("-m", *SWEEP, *words)
        assert done.code == 0, done.err
        yield made, done.out


class Texts(HTMLParser):
    """What a reader of a page sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self._hidden = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden = tag if tag in ("script", "style") else ""
        self.found += [value for key, value in attrs if key in ("alt", "aria-label", "title") and value]

    def handle_endtag(self, tag: str) -> None:
        self._hidden = ""

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.found.append(data)


def test_the_table_at_the_end_of_the_sweep_marks_each_trial(end_of_sweep):
    _, printed = end_of_sweep
    table = printed[printed.index("\n\n") :]
    assert table.count(MARK) == 8


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", ["text", "csv", "markdown", "latex", "html", "json", "parquet"])
def test_every_table_in_every_format_marks_each_row(end_of_sweep, shape, form, tmp_path):
    file = tmp_path / "table"
    done = here.sweepstack("table", *SHAPES[shape], "--format", form, "-o", str(file))
    assert done.code == 0
    assert f"note: {SAID}" in done.err
    rows = {"trials": 8, "settings": 4, "groups": 2, "cells": 2}[shape]
    if form == "parquet":
        import pandas as pd

        assert pd.read_parquet(file)["note"].tolist() == [MARK] * rows
        return
    text = file.read_text()
    assert text.count(MARK) == rows
    if form == "csv":
        assert [row["note"] for row in csv.DictReader(io.StringIO(text))] == [MARK] * rows
    if form == "json":
        assert [row["note"] for row in json.loads(text)] == [MARK] * rows


def test_a_table_of_some_columns_says_it_beside_them(end_of_sweep):
    done = here.sweepstack("table", "--columns", "lr,test/accuracy", "--top", "1", "--format", "csv")
    assert f"note: {SAID}" in done.err
    by_loss = here.sweepstack("table", "--metric", "test/loss")
    assert f"note: {SAID}" in by_loss.err


@pytest.mark.parametrize("metric", [None, "test/loss"])
def test_no_part_of_the_report_calls_it_a_test(end_of_sweep, metric):
    store, _ = end_of_sweep
    made = reporting.report("tempted", store=store, metric=metric)
    texts = " ".join(Texts(made.html).found)
    assert f"Careful: {SAID}." in texts
    assert "on the test data that selected" in texts
    assert not re.findall(r"test (?:accuracy|loss)|unbiased|Wilson's on", texts)
    assert "This is no test: the model was selected by the same items" in texts
    assert "NaN" not in texts
    assert made.caution == SAID
    rows = list(csv.DictReader(io.StringIO(made.files["table.csv"].decode())))
    assert [row["note"] for row in rows] == [MARK] * 8


def test_the_summary_run_in_mlflow_says_it(end_of_sweep):
    store, _ = end_of_sweep
    for words, expected in ((["--metric", "train/loss"], False), ([], True)):  # the newest report is described
        assert here.sweepstack("report", *words).code == 0
        run_id = summary_run(store, "tempted")
        assert run_id is not None
        about = store.client.get_run(run_id).data.tags["mlflow.note.content"]
        assert (SAID in about) == expected


def test_a_registered_model_says_it(end_of_sweep):
    store, _ = end_of_sweep
    done = here.sweepstack("register")
    assert done.code == 0, done.err
    assert f"Careful: {SAID}" in done.out
    assert f"({MARK})" in done.out
    version = store.client.get_model_version_by_alias("digits", "best")
    assert version.description == version.tags["note"] == SAID
    assert store.client.get_logged_model(version.source.removeprefix("models:/")).tags["note"] == SAID
    here.sweepstack("register", version.run_id, "--alias", "again")
    one = store.client.get_model_version_by_alias("digits", "again")
    assert one.description == one.tags["note"] == MARK


def test_a_run_shows_it_here_and_in_mlflow(end_of_sweep):
    store, _ = end_of_sweep
    assert [run.data.tags["note"] for run in store.runs("tags.sweep = 'tempted'")] == [MARK] * 8
    shown = here.sweepstack("show", store.rows()[0].run_id)
    assert re.search(rf"note +{MARK}", shown.out)


def test_a_comparison_says_it(end_of_sweep):
    assert f"note: {SAID}" in here.sweepstack("compare", "tempted").err
    assert SAID in json.loads(here.sweepstack("compare", "tempted", "--json").out)["notes"]
