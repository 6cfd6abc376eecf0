"""register, predict, show and repro of a regression, of several labels, of an own task and of a loop of one's own."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from sweepstack.cli.main import main
from sweepstack.results import repetition
from sweepstack.results.selection.predictions import count_changes
from sweepstack.tracking.artifacts import predictions
from sweepstack.tracking.models import files, load_model, version
from sweepstack.tracking.runs import find_run
from sweepstack.tracking.runs_as_rows import TRAINED_TAG, Row
from sweepstack.training.data import diabetes, digits

from .terminal import Terminal, new_store
from .test_commands import changed, files_of

OWN = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

from sweepstack import Task
from sweepstack.training.data import digits


def properties(train):
    images, labels = digits(train).tensors
    return TensorDataset(images, torch.stack([labels % 2 == 0, labels > 4], 1))


class Logarithms(Task):
    def loss(self, outputs, targets):
        return nn.functional.mse_loss(outputs, targets.log())

    def predictions(self, outputs):
        return outputs.exp()


def without_weights(config, context):
    context.report({"val/accuracy": 0.5}, step=1)
"""
REGRESSION = ("dataset=diabetes", "task=regression", "model=linear", "epochs=30", "task.metrics=[r2]")
SWEEP = ("-m", *REGRESSION, "optimizer.lr=0.03,0.001", "launch.stack=force", "tracking.sweep=numbers")
LABELS = (
    *("dataset=digits", "dataset._target_=parts_of_a_task.properties", "dataset.classes=2", "task=multilabel"),
    *("model=mlp", "optimizer.lr=0.5", "epochs=5"),
)
OWN_TASK = ("dataset=diabetes", "task._target_=parts_of_a_task.Logarithms", "model=linear", "optimizer.lr=0.1")
OWN_LOOP = ("dataset=digits", "trainer={_target_: parts_of_a_task.without_weights}")


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Terminal:
    terminal = Terminal(tmp_path_factory.mktemp("tasks"))
    new_store(terminal.folder, empty_database)
    (terminal.folder / "parts_of_a_task.py").write_text(OWN)
    for words in (SWEEP, LABELS, OWN_TASK, OWN_LOOP):
        done = terminal.type("train.py", *words)
        assert done.returncode == 0, done.stderr
    return terminal


@pytest.fixture(autouse=True)
def folder_of_the_user(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command, and MLflow with a model's code, add to the path, which ends with their process."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(terminal.folder)])
    monkeypatch.chdir(terminal.folder)


def sweepstack(terminal: Terminal, *words: str) -> Result:
    """Types the command in this process."""
    return CliRunner().invoke(main, words, env={"MLFLOW_TRACKING_URI": terminal.uri, "COLUMNS": "200"})


@pytest.fixture(scope="module")
def runs(terminal: Terminal) -> dict[str, Row]:
    rows = terminal.store.rows("all")
    names = ("numbers", "worse", "labels", "own task", "own loop")
    return dict(zip(names, sorted(rows, key=lambda row: (row.started, row.name != "lr=0.03")), strict=True))


@pytest.fixture(scope="module")
def registered(terminal: Terminal) -> Result:
    return sweepstack(terminal, "register", "--sweep", "numbers")


@pytest.fixture(scope="module")
def patients(terminal: Terminal) -> Path:
    """The first patients of the test data, as a table with a header."""
    rows = diabetes(train=False).tensors[0][:5].numpy()
    names = "age,sex,bmi,bp,s1,s2,s3,s4,s5,s6"
    lines = [names, *(",".join(map(repr, row)) for row in rows.tolist())]
    (terminal.folder / "patients.csv").write_text("\n".join(lines) + "\n")
    return terminal.folder / "patients.csv"


def test_the_best_regression_is_registered_and_predicts_rows_of_a_table(
    terminal: Terminal, runs: dict[str, Row], registered: Result, patients: Path
) -> None:
    assert (registered.exit_code, registered.stderr) == (0, "")
    lines = registered.stdout.splitlines()
    assert re.match(r"lr=0\.03  test/rmse [\d.]+  val/rmse [\d.]+", lines[0])
    assert lines[1].startswith("The set that may be the best: ")
    assert lines[2] == "registered as diabetes, version 1: models:/diabetes@best"
    assert lines[3] == f"Predict:  sweepstack predict --store {terminal.uri} ROWS.csv"
    expected = predictions(terminal.store, runs["numbers"].run_id)[:5, 0]
    done = sweepstack(terminal, "predict", str(patients), "--format", "json")
    assert (done.exit_code, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert [(one["file"], one["row"]) for one in found] == [(str(patients), row) for row in range(5)]
    assert [one["predictions"][0] for one in found] == pytest.approx(expected.tolist(), rel=1e-6)
    table = csv.DictReader(io.StringIO(sweepstack(terminal, "predict", str(patients), "--format", "csv").stdout))
    rows = [*table]
    assert [*rows[0]] == ["file", "row", "y0"]
    assert [float(row["y0"]) for row in rows] == pytest.approx(expected.tolist(), rel=1e-6)
    text = sweepstack(terminal, "predict", str(patients)).stdout.splitlines()
    assert text[2] == f"{patients}[2]  {expected[2]:.6g}"


def test_tensors_are_predicted_as_rows_are_and_bad_files_are_told_after_the_good_ones(
    terminal: Terminal, registered: Result, patients: Path, tmp_path: Path
) -> None:
    rows = diabetes(train=False).tensors[0][:5].numpy()
    np.save(tmp_path / "five.npy", rows)
    np.save(tmp_path / "one.npy", rows[3])
    (tmp_path / "bad.csv").write_text("1,2,3\n")
    done = sweepstack(terminal, "predict", *(str(tmp_path / name) for name in ("five.npy", "bad.csv", "one.npy")))
    assert done.exit_code == 2
    assert done.stderr == (
        f"error: {tmp_path}/bad.csv must have 10 numbers in each row, as dataset.shape says; line 1 has 3; give the "
        "columns that the dataset has, separated by commas\n"
    )
    of_rows = [line.split()[1] for line in sweepstack(terminal, "predict", str(patients)).stdout.splitlines()]
    assert [line.split()[1] for line in done.stdout.splitlines()] == [*of_rows, of_rows[3]]
    done = sweepstack(terminal, "predict", "picture.png")
    assert done.exit_code == 2
    assert done.stderr == (
        "error: a model must take grey images to read pictures, got [10]; give rows of numbers (.csv) or tensors "
        "(.npy), or choose another with --model\n"
    )


def test_plain_mlflow_predicts_the_same_in_another_process(
    terminal: Terminal, runs: dict[str, Row], registered: Result
) -> None:
    code = """
import mlflow
from sweepstack.training.data import diabetes
model = mlflow.pyfunc.load_model("models:/diabetes@best")
print(model.metadata.signature.to_dict())
print(model.predict(diabetes(train=False).tensors[0].numpy()).tolist())
"""
    words = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(words, cwd="/", env=terminal.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    signature, predicted = done.stdout.splitlines()
    expected = predictions(terminal.store, runs["numbers"].run_id)
    assert np.allclose(json.loads(predicted), expected, rtol=1e-6)
    assert re.search(r"'outputs': '\[.*float32.*\[-1, 1\]", signature), signature
    source = terminal.store.client.get_model_version_by_alias("diabetes", "best").source
    assert terminal.store.client.get_logged_model(source.removeprefix("models:/")).model_type == "regressor"


def test_a_regression_that_predicts_something_else_is_not_registered(terminal: Terminal, runs: dict[str, Row]) -> None:
    file = files_of(terminal, runs["worse"]) / "test_predictions.npy"
    before = file.read_bytes()
    for factor, code in ((1.0001, 0), (1.5, 2)):  # other rounding; another model
        np.save(file, np.load(io.BytesIO(before)) * np.float32(factor))
        done = sweepstack(terminal, "register", runs["worse"].run_id, "--alias", "worse")
        assert done.exit_code == code
    file.write_bytes(before)
    assert re.search(rf"\({runs['worse'].run_id}\) predicts 8\d of 88 test items differently; restore", done.stderr)


def test_a_model_of_several_labels_answers_with_their_probabilities(
    terminal: Terminal, runs: dict[str, Row], tmp_path: Path
) -> None:
    done = sweepstack(terminal, "register", runs["labels"].run_id, "--name", "labels", "--alias", "two")
    assert (done.exit_code, done.stderr) == (0, "")
    images = digits(train=False).tensors[0].numpy()
    np.save(tmp_path / "digits.npy", images)
    words = ("predict", str(tmp_path / "digits.npy"), "--model", "labels@two")
    found = json.loads(sweepstack(terminal, *words, "--format", "json").stdout)
    kept = predictions(terminal.store, runs["labels"].run_id)
    assert [one["labels"] for one in found] == [np.flatnonzero(row).tolist() for row in kept]
    for line, one in zip(sweepstack(terminal, *words).stdout.splitlines(), found, strict=True):
        there = ", ".join(f"{label} {one['probabilities'][label]:.1%}" for label in one["labels"])
        assert f"]  {there or 'no label'}" in line
    table = sweepstack(terminal, *words, "--format", "csv").stdout.splitlines()
    assert table[0] == "file,row,labels,p0,p1"
    assert table[1].split(",")[2] == " ".join(map(str, found[0]["labels"]))


def test_a_model_of_an_own_task_goes_along_with_its_code(
    terminal: Terminal, runs: dict[str, Row], patients: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = sweepstack(terminal, "register", runs["own task"].run_id, "--name", "own", "--alias", "own")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "with its code: parts_of_a_task.py" in done.stdout
    sys.path.remove(str(terminal.folder))
    sys.modules.pop("parts_of_a_task", None)
    monkeypatch.chdir(tmp_path)
    with files(terminal.store, version(terminal.store, "own", "own")) as folder:
        found = load_model(folder).predict_file(patients)
    assert np.allclose(found, predictions(terminal.store, runs["own task"].run_id)[:5], rtol=1e-6)
    assert (found > 0).all()  # which the outputs are not


def test_a_loop_that_returned_no_weights_has_no_model(terminal: Terminal, runs: dict[str, Row]) -> None:
    run_id = runs["own loop"].run_id
    for words in (("register", run_id), ("predict", "x.csv", "--model", run_id)):
        done = sweepstack(terminal, *words)
        assert (done.exit_code, done.stdout) == (2, "")
        assert re.fullmatch(
            r"error: a model must have weights, the loop of run .* \(\w+\), parts_of_a_task.without_weights, returned "
            r"none; let it return its model\n",
            done.stderr,
        )


def test_show_tells_the_metrics_of_the_task(terminal: Terminal, runs: dict[str, Row]) -> None:
    shown = sweepstack(terminal, "show", runs["numbers"].run_id)
    assert (shown.exit_code, shown.stderr) == (0, "")
    (curve,) = [line for line in shown.stdout.splitlines() if re.match(r"  val/rmse +[▁-█]{30}  ", line)]
    assert f"best {runs['numbers'].metrics['val/rmse_best']:.4f}" in curve
    assert re.search(r"  test/r2 +0\.\d{4}\n", shown.stdout)
    assert sweepstack(terminal, "show", runs["own loop"].run_id).exit_code == 0


def test_repro_trains_a_regression_again_and_compares_its_errors(terminal: Terminal, runs: dict[str, Row]) -> None:
    how = find_run(terminal.store, runs["numbers"].run_id).tags[TRAINED_TAG]
    assert re.match(r"stacked, 2 trajectories wide, \d threads? \(launch.stack is force: ", how)
    done = sweepstack(terminal, "repro", runs["numbers"].run_id, "--run")
    assert done.exit_code == 0, done.output
    assert re.match(r"equal, (bit for bit|within rounding: it was trained in a stack, )", done.stdout.splitlines()[1])


def test_errors_of_a_regression_that_differ_are_no_rounding(terminal: Terminal, runs: dict[str, Row]) -> None:
    store = terminal.store
    run = changed(find_run(store, runs["numbers"].run_id))
    rmse = run.row.metrics["test/rmse"]
    found = repetition.compare(store, run, store, changed(run, test_rmse=rmse * 1.0001))
    assert found.equal
    assert found.how.startswith("within rounding: it was trained in a stack, and the weights differ by 0 (")
    found = repetition.compare(store, run, store, changed(run, test_rmse=rmse * 1.1))
    assert not found.equal
    assert "the losses differ by up to 0.091 of their size (0.001 is allowed)" in found.how
    file = files_of(terminal, runs["numbers"]) / "test_predictions.npy"
    was = np.load(file)
    assert count_changes(was, was, 0.0) == 0
    assert count_changes(was, was * np.float32(1.0001), 0.0) == 88
    assert count_changes(was, was * np.float32(1.0001), repetition.RELU_TOLERANCE) == 0
    assert count_changes(was, was * np.float32(1.01), repetition.RELU_TOLERANCE) == 88
