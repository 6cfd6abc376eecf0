"""Sweeps of other tasks than the default one, from the command line to the report."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from sweepstack.cli.main import main
from sweepstack.results.reporting.report import report
from sweepstack.results.selection.items import PerItem
from sweepstack.results.selection.predictions import compare_with_targets
from sweepstack.results.tables.frame import table
from sweepstack.results.tables.rendering import short

from ..terminal import Terminal, new_store
from .test_report import Page


def sweepstack(terminal: Terminal, *words: str) -> Result:
    return CliRunner().invoke(main, words, env={"MLFLOW_TRACKING_URI": terminal.uri})


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Terminal:
    terminal = Terminal(tmp_path_factory.mktemp("tasks"))
    new_store(terminal.folder, empty_database)
    return terminal


DIFFERENT = (
    "one metric must select, and these trials have the objectives val/accuracy, val/loss; "
    "choose one with --metric, for example --metric val/accuracy"
)


def test_a_sweep_with_different_objectives_ends_with_its_table_and_is_ranked_on_request(terminal: Terminal) -> None:
    words = ("dataset=digits", "epochs=1", "optimizer.lr=0.01,0.1", "task.objective=null,{name:val/loss,mode:min}")
    done = terminal.type("train.py", "-m", *words, "tracking.sweep=mixed")
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"The trials are not ranked: {DIFFERENT}\n"
    assert done.stdout.count("FINISHED") == 4
    for command in ("table", "report", "register"):
        refused = sweepstack(terminal, command, "--sweep", "mixed")
        assert (refused.exit_code, refused.stderr) == (2, f"error: {DIFFERENT}\n")
    ranked = sweepstack(
        terminal, "table", "--sweep", "mixed", "--metric", "val/loss", "--columns", "val/loss", "--format", "csv"
    )
    losses = [float(line) for line in ranked.stdout.splitlines()[1:]]
    assert losses == sorted(losses)
    registered = sweepstack(terminal, "register", "--sweep", "mixed", "--metric", "val/loss")
    assert registered.exit_code == 0, registered.stderr
    assert registered.stdout.startswith("lr=0.1")
    both = sweepstack(terminal, "register", "lr=0.1", "--metric", "val/loss")
    assert both.stderr == "error: --metric selects a run of a sweep, and a run is given, got 'lr=0.1'; leave one out\n"


OWN_DATA = """
import torch
from sklearn.datasets import load_diabetes, load_digits
from torch.utils.data import TensorDataset


def part(inputs, targets, train):
    inputs, targets = torch.as_tensor(inputs).float(), torch.as_tensor(targets)
    chosen = (torch.arange(len(inputs)) % 4 != 0) == train
    return TensorDataset(inputs[chosen], targets[chosen])


def sugar(train):
    inputs, targets = load_diabetes(return_X_y=True, scaled=False)
    return part((inputs - inputs.mean(0)) / inputs.std(0), targets / 100, train)


def several(train):
    digits = load_digits()
    labels = torch.as_tensor(digits.target)
    return part(digits.data / 16, torch.stack([labels % 2 == 0, labels > 4, labels == 0], 1).float(), train)


def uneven(train):
    digits = load_digits(n_class=3)
    kept = (digits.target != 1) | (torch.arange(len(digits.target)) % 5 == 0).numpy()
    return part(digits.data[kept] / 16, digits.target[kept], train)
"""
CONFIGS = {
    "sugar": "_target_: data_of_tasks.sugar\nshape: [10]\noutputs: 1\n",
    "several": "_target_: data_of_tasks.several\nshape: [64]\nclasses: 3\n",
    "uneven": "_target_: data_of_tasks.uneven\nshape: [64]\nclasses: 3\n",
}
SWEEPS = {
    "sugar": ("task=regression", "optimizer.lr=0.0001,0.01", "task.metrics=[r2,mae]"),
    "several": ("task=multilabel", "optimizer.lr=0.001,0.5"),
    "uneven": ("optimizer.lr=0.001,0.1", "task.objective={name:val/f1_macro,mode:max}"),
}


@pytest.fixture(scope="module")
def swept(terminal: Terminal) -> Terminal:
    """A sweep of each task; the larger learning rate is the better one by far."""
    (terminal.folder / "data_of_tasks.py").write_text(OWN_DATA)
    folder = terminal.folder / "my_conf" / "dataset"
    folder.mkdir(parents=True)
    for name, text in CONFIGS.items():
        (folder / f"{name}.yaml").write_text(text)
    for name, words in SWEEPS.items():
        own = ("--config-dir", "my_conf", f"dataset={name}", "epochs=20", "batch_size=20", f"tracking.sweep={name}")
        done = terminal.type("train.py", "-m", *own, *words)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    return terminal


@pytest.fixture(autouse=True)
def path_as_it_was(monkeypatch: pytest.MonkeyPatch, terminal: Terminal) -> None:
    """Commands in this process find the user's modules."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(terminal.folder)])


def said_in(page: Page) -> str:
    return next(text for text in page.texts["p"] if " has the " in text)


def test_a_regression_is_selected_and_reported_by_its_error(swept: Terminal) -> None:
    frame = table("sugar", store=swept.store)
    assert frame["lr"].tolist() == [0.01, 0.0001]
    assert frame["val/rmse"].is_monotonic_increasing
    assert short(frame).columns.tolist()[:4] == ["lr", "val/rmse", "val/rmse_best", "test/rmse"]
    made = report("sugar", store=swept.store)
    page = Page(made.html)
    assert page.texts["h1"] == ["Which of 2 settings of learning rate has the lowest validation RMSE?"]
    best, other = (row for _, row in frame.iterrows())
    assert said_in(page).startswith(f"lr=0.01 has the lowest validation RMSE, {best['val/rmse']:.4f}; on test data its")
    assert f"its RMSE is {best['test/rmse']:.4f}; " in said_in(page)
    assert {"plots/predicted.svg", "plots/residuals.svg"} <= made.files.keys()
    assert not {"plots/confusion.svg", "plots/recall.svg"} & made.files.keys()
    facts = dict(zip(page.texts["dt"], page.texts["dd"], strict=True))
    (kept,) = swept.store.client.get_run(facts["run"]).inputs.dataset_inputs
    assert json.loads(kept.dataset.schema) == {"shape": [10], "outputs": 1}
    assert facts["dataset"] == "sugar: 298 train, 33 held out, 111 test items"
    settings = page.rows("settings")
    assert [row["how that was found"] for row in settings] == [
        "best single trial",
        "paired t-test over 33 held-out items",
    ]
    assert [row["mark"] for row in settings] == ["best", "worse"]
    compared = compare_with_targets(swept.store)
    for row in (best, other):
        for part in ("val", "test"):
            found = compared(row["run_id"], part)
            assert isinstance(found, PerItem)
            assert np.sqrt((found.values**2).mean()) == pytest.approx(row[f"{part}/rmse"], rel=1e-6)
            assert np.abs(found.values).mean() == pytest.approx(row[f"{part}/mae"], rel=1e-6)
    assert any(text.startswith("“Paired t-test over … items” compares the errors") for text in page.texts["li"])
    by_r2 = Page(report("sugar", store=swept.store, metric="val/r2").html)
    assert by_r2.texts["h1"] == ["Which of 2 settings of learning rate has the highest validation R²?"]


def test_several_labels_have_a_recall_each_and_no_interval_of_images(swept: Terminal) -> None:
    made = report("several", store=swept.store)
    page = Page(made.html)
    assert said_in(page).startswith("lr=0.5 has the highest validation F1 (macro), ")
    assert "plots/recall.svg" in made.files
    assert "plots/confusion.svg" not in made.files
    assert not any("Wilson's on" in text or "interval of the test" in text for text in page.texts["li"])
    by_accuracy = report("several", store=swept.store, metric="test/loss")
    assert "Wilson" not in "".join(Page(by_accuracy.html).texts["li"])


def test_uneven_classes_have_a_recall_each(swept: Terminal) -> None:
    made = report("uneven", store=swept.store)
    page = Page(made.html)
    assert said_in(page).startswith("lr=0.1 has the highest validation F1 (macro), ")
    assert {"plots/recall.svg", "plots/confusion.svg"} <= made.files.keys()
    counts = re.search(r"Classes have from (\d+) to (\d+) test items", made.html)
    assert counts is not None
    assert int(counts[2]) > 3 * int(counts[1])


def test_a_run_of_another_task_is_shown_with_its_curves(swept: Terminal) -> None:
    run_id = table("sugar", store=swept.store)["run_id"][0]
    shown = sweepstack(swept, "show", run_id).stdout
    rmse, r2 = (
        next(line for line in shown.splitlines() if f"  val/{name} " in line and "best" in line)
        for name in ("rmse", "r2")
    )
    for line, choose in ((rmse, min), (r2, max)):
        begin, end, best = (float(number) for number in re.findall(r"-?\d+\.\d{4}", line))
        assert best == choose(begin, end, best)
