"""sweepstack register, predict, show and repro, as a user types them."""

import contextlib
import csv
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from sweepstack.cli.main import main
from sweepstack.config import code_digest
from sweepstack.inference.predictor import METADATA_FILE
from sweepstack.results import repetition
from sweepstack.results.selection.items import PerItem
from sweepstack.results.selection.predictions import compare_with_targets
from sweepstack.tracking.artifacts import artifact, predictions
from sweepstack.tracking.models import EARLIER_LOADERS, files, load_model, registered, version
from sweepstack.tracking.runs import Record, find_run
from sweepstack.tracking.runs_as_rows import Row
from sweepstack.tracking.store import Store
from sweepstack.tracking.summary import record_summary
from sweepstack.training.data import digits

from .terminal import Terminal, new_store

OWN = """
from torch import nn

from parts_of_a_user import WIDTH


class Net(nn.Sequential):
    def __init__(self, shape, classes):
        super().__init__(nn.Flatten(), nn.Linear(64, WIDTH), nn.Tanh(), nn.Linear(WIDTH, classes))
"""
SWEEP = ("-m", "dataset=digits", "epochs=5", "optimizer.lr=0.3,0.1,0.01", "launch.width=3", "tracking.sweep=swept")


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Terminal:
    """A sweep of three trials, and on their own one that diverges and one of a user's own model."""
    terminal = Terminal(tmp_path_factory.mktemp("commands"))
    new_store(terminal.folder, empty_database)
    (terminal.folder / "net_of_a_user.py").write_text(OWN)
    (terminal.folder / "parts_of_a_user.py").write_text("WIDTH = 16\n")
    assert terminal.type("train.py", *SWEEP).returncode == 0
    diverges = ("dataset=digits", "epochs=2", "model=mlp", "optimizer.lr=1e30")
    assert terminal.type("train.py", *diverges).returncode == 1
    own = ("dataset=digits", "epochs=3", "batch_size=50", "model._target_=net_of_a_user.Net", "optimizer.lr=0.5")
    done = terminal.type("train.py", *own)
    assert done.returncode == 0, done.stderr
    return terminal


@pytest.fixture(autouse=True)
def path_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command, and MLflow with a model's code, add to it, for they end with their process."""
    monkeypatch.setattr(sys, "path", list(sys.path))


def sweepstack(terminal: Terminal, *words: str) -> Result:
    """Types the command; in this process, for most of its time goes to importing MLflow."""
    return CliRunner().invoke(main, words, env={"MLFLOW_TRACKING_URI": terminal.uri, "COLUMNS": "200"})


@pytest.fixture(scope="module")
def row(terminal: Terminal) -> Row:
    """The best of the sweep."""
    return next(row for row in terminal.store.rows() if row.name == "lr=0.3")


@pytest.fixture(scope="module")
def own(terminal: Terminal) -> Row:
    return terminal.store.rows("all")[-1]


def files_of(terminal: Terminal, row: Row) -> Path:
    """The folder of a run's artifacts."""
    return Path(terminal.store.client.get_run(row.run_id).info.artifact_uri.removeprefix("file://"))


@pytest.fixture(scope="module")
def seven(terminal: Terminal) -> Path:
    """A handwritten digit: dark on light, larger, with a margin."""
    images, labels = digits(train=False).tensors
    image = images[labels == 7][0].numpy()
    picture = Image.new("L", (300, 300), 250)
    ink = Image.fromarray((250 - image * 220).astype(np.uint8)).resize((160, 160), Image.Resampling.BICUBIC)
    picture.paste(ink, (100, 40))
    picture.save(terminal.folder / "seven.png")
    return terminal.folder / "seven.png"


@pytest.fixture(scope="module")
def best(terminal: Terminal) -> Result:
    """The sweep's selected model is registered, after it was asked for in vain."""
    nothing = sweepstack(terminal, "predict", "x.png")
    assert nothing.exit_code == 2
    assert nothing.stderr.startswith("error: there is no registered model in sqlite:///")
    assert nothing.stderr.endswith("register the best one: sweepstack register\n")
    return sweepstack(terminal, "register")


# What trials keep


def test_finished_trials_keep_what_they_predict(terminal: Terminal) -> None:
    store, labels = terminal.store, digits(train=False).tensors[1].numpy()
    compared = compare_with_targets(store)
    finished = [row for row in store.rows("all") if row.state == "FINISHED"]
    assert len(finished) == 4
    for row in finished:
        kept = predictions(store, row.run_id)
        assert kept.dtype == np.uint8
        right, held_out = compared(row.run_id, "test"), compared(row.run_id, "val")
        assert isinstance(right, PerItem)
        assert isinstance(held_out, PerItem)
        assert (right.values == (kept == labels)).all()
        assert float(right.values.mean()) == pytest.approx(row.metrics["test/accuracy"], abs=1e-6)
        assert float(held_out.values.mean()) == pytest.approx(row.metrics["val/accuracy"], abs=1e-6)


def test_what_is_gone_or_damaged_is_none(terminal: Terminal, tmp_path: Path) -> None:
    shutil.copy(terminal.folder / "mlflow.db", tmp_path / "mlflow.db")
    store = Terminal(tmp_path).store
    (diverged,) = [row for row in store.rows("all") if row.state == "FAILED"]
    assert predictions(store, diverged.run_id) is None
    assert predictions(store, "0" * 32) is None
    assert "an earlier version" in str(compare_with_targets(store)("0" * 32, "val"))
    run_id = store.rows()[0].run_id
    file = files_of(terminal, store.rows()[0]) / "test_predictions.npy"
    content = file.read_bytes()
    for damaged in (b"", content[:50], content[:-1], b"\x93NUMPY" + b"x" * 200):
        file.write_bytes(damaged)
        assert predictions(store, run_id) is None
    file.unlink()
    assert compare_with_targets(store)(run_id, "test") == "its record has no test_predictions.npy"
    file.write_bytes(content)
    assert isinstance(compare_with_targets(store)(run_id, "test"), PerItem)


def test_a_run_of_an_earlier_version_is_not_compared_by_its_test_predictions(terminal: Terminal) -> None:
    rows = {row.name: row for row in terminal.store.rows("swept")}
    file = files_of(terminal, rows["lr=0.01"]) / "held_out_predictions.npy"
    tested = sweepstack(terminal, "table", "--by-seed", "--sweep", "swept", "--format", "csv")
    content = file.read_bytes()
    file.unlink()
    untested = sweepstack(terminal, "table", "--by-seed", "--sweep", "swept", "--format", "csv")
    again = terminal.type("train.py", *SWEEP)
    assert again.returncode == 0, again.stderr
    assert "3 trials trained before: not trained again" in again.stdout
    assert file.read_bytes() == content
    before, after = (
        {row["lr"]: (row["mark"], row["why"]) for row in csv.DictReader(io.StringIO(done.stdout))}
        for done in (tested, untested)
    )
    why = "it was recorded before held_out_predictions.npy was kept; repeat its command to add it (with rerun=true if"
    assert before["0.01"][1].startswith("McNemar over 144 held-out items")
    assert after["0.01"][0] == "not tested"
    assert after["0.01"][1].startswith(why)
    assert before["0.3"] == after["0.3"]


# register


def test_the_selected_model_is_registered(terminal: Terminal, best: Result, row: Row) -> None:
    assert (best.exit_code, best.stderr) == (0, "")
    lines = best.stdout.splitlines()
    assert lines[0].startswith("lr=0.3  test/accuracy")
    assert lines[1].startswith("The set that may be the best: ")
    assert lines[2] == "registered as digits, version 1: models:/digits@best"
    assert lines[3] == f"Predict:  sweepstack predict --store {terminal.uri} IMAGE.png"
    client = terminal.store.client
    version = client.get_model_version_by_alias("digits", "best")
    assert version.run_id == row.run_id
    run = client.get_run(row.run_id)
    assert run.info.status == "FINISHED"  # as before, with the same end
    assert [f"models:/{output.model_id}" for output in run.outputs.model_outputs] == [version.source]


def test_it_is_loaded_by_plain_mlflow_in_another_process(terminal: Terminal, best: Result, row: Row) -> None:
    code = """
import mlflow, numpy as np
from sweepstack.training.data import digits
model = mlflow.pyfunc.load_model("models:/digits@best")
images = digits(train=False).tensors[0].numpy().reshape(-1, 1, 8, 8)
found = model.predict(images)
assert found.dtype == np.float32 and np.allclose(found.sum(1), 1, atol=1e-6)
print(model.metadata.signature.to_dict())
print(found.argmax(1).tolist())
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd="/",
        env={**terminal.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    signature, predicted = done.stdout.splitlines()
    assert json.loads(predicted) == predictions(terminal.store, row.run_id).tolist()
    assert "'shape': (-1, 1, 8, 8)" in signature or "[-1, 1, 8, 8]" in signature


@pytest.mark.parametrize("loader", EARLIER_LOADERS)
def test_a_model_that_an_earlier_version_has_registered_is_loaded(
    terminal: Terminal, best: Result, tmp_path: Path, loader: str
) -> None:
    """It names a module that has moved since, and has a file of another name."""
    source = terminal.store.client.get_model_version_by_alias("digits", "best").source
    model = terminal.store.client.get_logged_model(source.removeprefix("models:/"))
    shutil.copytree(model.artifact_location.removeprefix("file://"), tmp_path / "model")
    about = tmp_path / "model" / "MLmodel"
    about.write_text(about.read_text().replace("sweepstack.inference.predictor", loader))
    assert f"loader_module: {loader}" in about.read_text()
    (described,) = (tmp_path / "model").rglob(METADATA_FILE)
    described.rename(described.with_name("classifier.json"))
    assert load_model(tmp_path / "model").config.dataset.classes == 10


def test_the_model_names_what_it_needs_and_holds_no_pickle(terminal: Terminal, best: Result) -> None:
    client = terminal.store.client
    source = client.get_model_version_by_alias("digits", "best").source
    model = client.get_logged_model(source.removeprefix("models:/"))
    folder = Path(model.artifact_location.removeprefix("file://"))
    required = (folder / "requirements.txt").read_text().split()
    assert f"torch=={torch.__version__.partition('+')[0]}" in [line.partition("+")[0] for line in required]
    assert {line.partition("==")[0] for line in required} == {
        "mlflow",
        *["sweepstack", "torch", "numpy", "omegaconf", "pydantic", "pillow", "scipy"],
    }
    assert (folder / "input_example.json").is_file()
    assert not [*folder.rglob("*.pkl")]
    (weights,) = folder.rglob("weights.pt")
    torch.load(weights, weights_only=True)


def test_a_users_net_of_a_user_goes_along_with_its_code(
    terminal: Terminal, own: Row, seven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list(sys.path)
    sys.path.append(str(terminal.folder))
    done = sweepstack(terminal, "register", own.run_id[:8], "--name", "mine", "--alias", "try-1")
    sys.path[:] = before
    for name in ("net_of_a_user", "parts_of_a_user"):
        sys.modules.pop(name, None)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "with its code: net_of_a_user.py, parts_of_a_user.py" in done.stdout
    assert f"sweepstack predict --model mine@try-1 --store {terminal.uri} IMAGE.png" in done.stdout
    done = sweepstack(terminal, "predict", str(seven), "--model", "try-1", "--format", "json")
    assert (done.exit_code, done.stderr) == (0, "")
    assert json.loads(done.stdout)[0]["class"] == 7
    for address in ("models:/mine@try-1", "models:/mine/1", "models:/mine/latest", f"runs:/{own.run_id}/model"):
        monkeypatch.chdir(terminal.folder)
        again = sweepstack(terminal, "predict", str(seven), "--model", address, "--format", "json")
        assert (again.exit_code, again.stderr) == (0, "")
        assert json.loads(again.stdout) == json.loads(done.stdout)
    for address, remedy in (
        ("models:/mine", "for example models:/mine@best or models:/mine/1"),
        ("models:/mine/2", "has no version '2'; known: 1"),
        ("models:/mone/1", "did you mean 'mine'?"),
        ("runs:/0123456789", "there is no run '0123456789'"),
    ):
        refused = sweepstack(terminal, "predict", str(seven), "--model", address)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert remedy in refused.stderr


@contextlib.contextmanager
def edited(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, text: str) -> Iterator[None]:
    """A user in the folder of the own model, whose code is another one as long as the block lasts."""
    file = terminal.folder / "net_of_a_user.py"

    def forget() -> None:
        code_digest._digest_of.cache_clear()
        for name in ("net_of_a_user", "parts_of_a_user"):
            sys.modules.pop(name, None)

    monkeypatch.chdir(terminal.folder)
    forget()
    try:
        file.write_text(text)
        yield
    finally:
        file.write_text(OWN)
        forget()


def test_weights_are_not_used_with_other_code(
    terminal: Terminal, own: Row, seven: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with edited(terminal, monkeypatch, OWN.replace("Tanh", "ReLU")):  # whose weights have the same shapes
        for words in (["register", own.run_id], ["predict", str(seven), "--model", own.run_id]):
            done = sweepstack(terminal, *words)
            assert (done.exit_code, done.stdout) == (2, "")
            assert re.fullmatch(
                r"error: a model must have the code that it was trained with, of run .* the training code has changed "
                r"\(checksum \w{8} then, \w{8} now\); restore that code, or train the run again with rerun=true\n",
                done.stderr,
            )
        done = sweepstack(terminal, "repro", own.run_id)
        assert (done.exit_code, done.stdout.startswith("python ")) == (0, True)
        assert re.match(r"Changed since the run: the training code has changed \(checksum .*\)", done.stderr)
    with edited(terminal, monkeypatch, OWN):
        assert "the training code" not in sweepstack(terminal, "repro", own.run_id).stderr


def test_a_model_that_predicts_otherwise_is_not_registered(terminal: Terminal, row: Row) -> None:
    file = files_of(terminal, row) / "test_predictions.npy"
    before = file.read_bytes()
    otherwise = np.load(file)
    otherwise[:6] = 9 - otherwise[:6]
    np.save(file, otherwise)
    try:
        done = sweepstack(terminal, "register", row.run_id)
    finally:
        file.write_bytes(before)
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"({row.run_id}) predicts 6 of 360 test items differently; restore its code, or train" in done.stderr


# predict


def test_pictures_are_classified_in_three_formats(terminal: Terminal, best: Result, seven: Path, row: Row) -> None:
    text = sweepstack(terminal, "predict", str(seven))
    assert (text.exit_code, text.stderr) == (0, "")
    assert re.fullmatch(rf"{re.escape(str(seven))}  7  [\d.]+%  \(then \d [\d.]+%, \d [\d.]+%\)\n", text.stdout)
    (record,) = json.loads(sweepstack(terminal, "predict", str(seven), "--format", "json").stdout)
    assert (record["file"], record["class"]) == (str(seven), 7)
    assert record["probability"] == max(record["probabilities"])
    assert sum(record["probabilities"]) == pytest.approx(1)
    (line,) = csv.DictReader(
        io.StringIO(sweepstack(terminal, "predict", str(seven), "--format", "csv", "--model", "digits@best").stdout)
    )
    assert line["class"] == "7"
    assert float(line["p7"]) == float(line["probability"]) == record["probability"]
    of_run = sweepstack(terminal, "predict", str(seven), "--model", row.run_id)
    assert of_run.stdout == text.stdout


def test_pictures_and_tensors_are_classified_side_by_side(
    terminal: Terminal, best: Result, seven: Path, row: Row, tmp_path: Path
) -> None:
    np.save(tmp_path / "two.npy", digits(train=False).tensors[0][:2].numpy())
    done = sweepstack(terminal, "predict", str(seven), str(tmp_path / "two.npy"), "--format", "csv")
    assert (done.exit_code, done.stderr) == (0, "")
    lines = [*csv.DictReader(io.StringIO(done.stdout))]
    expected = ["7", *map(str, predictions(terminal.store, row.run_id)[:2])]
    assert [(line["row"], line["class"]) for line in lines] == [*zip(["0", "0", "1"], expected, strict=True)]
    assert {len(line) for line in lines} == {14}


def test_a_model_of_another_version_is_a_line(terminal: Terminal, best: Result, seven: Path) -> None:
    store = terminal.store
    with files(store, version(store, "digits", "best")) as folder:
        (about,) = folder.rglob(METADATA_FILE)
    text = about.read_text()
    about.write_text(json.dumps({**json.loads(text), "of": "another version"}))
    done = sweepstack(terminal, "predict", str(seven))
    about.write_text(text)
    assert done.exit_code == 2
    assert re.fullmatch(
        r"error: the model in .* does not load here \(TypeError: .*\); register it again\n", done.stderr
    )


def test_bad_pictures_are_told_after_the_good_ones(
    terminal: Terminal, best: Result, seven: Path, tmp_path: Path
) -> None:
    (tmp_path / "no\nte.png").write_text("I am no picture")
    Image.new("L", (40, 40), 255).save(tmp_path / "white.jpg")
    bad = [str(tmp_path / name) for name in ("no\nte.png", "none.png", "white.jpg")]
    done = sweepstack(terminal, "predict", bad[0], str(seven), *bad[1:])
    assert done.exit_code == 2
    assert done.stdout.startswith(f"{seven}  7  ")
    assert done.stderr.splitlines() == [
        f"error: {tmp_path}/no\\nte.png must be a PNG or JPEG picture, it is neither; save it as one of them",
        f"error: {tmp_path}/none.png cannot be read (No such file or directory); correct the path",
        f"error: {tmp_path}/white.jpg must show a digit, it is of one shade; take another picture",
    ]


# show and repro


def test_show_tells_all_of_a_run(terminal: Terminal, row: Row) -> None:
    done = sweepstack(terminal, "show", "lr=0.3")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("lr=0.3  FINISHED\n")
    assert sweepstack(terminal, "show", row.run_id[:12]).stdout == done.stdout
    lines = done.stdout.splitlines()
    assert f"  test/accuracy        {row.metrics['test/accuracy']:.4f}" in lines
    assert "curves over epochs 1 to 5" in lines
    (loss,) = [line for line in lines if re.match(r"  train/loss +[▁▂▃▄▅▆▇█]{5}  ", line)]
    assert loss.split()[1][0] == "█"
    assert loss.split()[1][-1] == "▁"
    assert "  optimizer:" in lines
    assert "    lr: 0.3" in lines


def test_show_tells_why_a_trial_failed(terminal: Terminal) -> None:
    (diverged,) = [row for row in terminal.store.rows("all") if row.state == "FAILED"]
    done = sweepstack(terminal, "show", diverged.run_id)
    assert "  reason       the loss was" in done.stdout
    assert "the end of its log" in done.stdout
    assert "FAILED the loss was" in done.stdout.partition("the end of its log")[2]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["show", "lr=0.33"], "there is no run 'lr=0.33' in sqlite:.*; did you mean 'lr=0.3'[?]"),
        (["show", "nothing like it"], "there is no run 'nothing like it' in .*; give an id, the beginning of one, or"),
        (["show", "x", "--store", "sqlite:////nonexistent/x.db"], "the tracking store .* holds no trials yet"),
        (["register", "--sweep", "swpet"], "there is no sweep 'swpet' in .*; did you mean 'swept'[?]"),
        (["register", "lr=0.3", "--sweep", "swept"], "give a run or a sweep, got both"),
        (["register", "--name", "a/b"], "a model's name must be of 1 to 255 .* without / : [.] % .* got 'a/b'; give"),
        (["register", "--name", "v1.2"], "a model's name must .* got 'v1.2'; give another with --name"),
        (["register", "--name", ""], "a model's name must .* got ''; give another with --name"),
        (["register", "--name", "n" * 256], "a model's name must .* got 'n{60}[.]{3}'; give another with --name"),
        (["register", "--alias", "v1"], "an alias must be of 1 to 255 letters, .*, got 'v1'; give .* with --alias"),
        (["register", "--alias", "a" * 256], "an alias must be .*, got 'a{60}[.]{3}'; give another with --alias"),
        (["predict", "x.png", "--model", "digits@bset"], "model 'digits' has no alias 'bset'; did you mean 'best'[?]"),
        (["predict", "x.png", "--model", "digist@best"], "there is no model 'digist' in .*; did you mean 'digits'[?]"),
        (["predict", "x.png", "--model", "lr=0.33"], "there is no run 'lr=0.33' in .*; did you mean 'lr=0.3'[?]"),
        (["repro", "lr=0.33", "--run"], "there is no run 'lr=0.33' in .*; did you mean 'lr=0.3'[?]"),
    ],
)
def test_a_mistake_is_one_clear_line(terminal: Terminal, best: Result, words: list[str], line: str) -> None:
    done = sweepstack(terminal, *words)
    assert (done.exit_code, done.stdout) == (2, "")
    (shown,) = done.stderr.splitlines()
    assert re.match(f"error: {line}", shown), shown
    assert len(terminal.store.client.search_model_versions("name = 'digits'")) == 1  # a refused one leaves nothing


def test_the_summary_of_a_sweep_is_no_trial(terminal: Terminal, row: Row) -> None:
    summary = record_summary(terminal.store, "swept", row.experiment_id, {"report.html": b"a report"})
    for word in (summary, "summary of swept"):
        for command in ("show", "repro", "register"):
            done = sweepstack(terminal, command, word)
            assert (done.exit_code, done.stdout) == (2, "")
            assert done.stderr == (
                f"error: a run must be a trial, '{word}' is the summary of sweep 'swept', which holds its report; "
                "choose a trial of sweepstack table --sweep swept\n"
            )


def test_a_second_model_of_one_alias_is_named_in_full(terminal: Terminal, best: Result, row: Row) -> None:
    done = sweepstack(terminal, "register", row.run_id, "--name", "second")
    try:
        printed = f"Predict:  sweepstack predict --model second@best --store {terminal.uri} IMAGE.png"
        assert done.stdout.splitlines()[-1] == printed
    finally:
        terminal.store.client.delete_registered_model("second")


def test_a_failed_run_has_no_model_and_a_beginning_of_many_ids_is_told(terminal: Terminal) -> None:
    (diverged,) = [row for row in terminal.store.rows("all") if row.state == "FAILED"]
    done = sweepstack(terminal, "register", diverged.run_id)
    assert done.exit_code == 2
    assert f"({diverged.run_id}) is FAILED; choose another" in done.stderr
    ids = [row.run_id for row in terminal.store.rows("all")]
    first = [one[0] for one in ids]
    twice = [sign for sign in first if first.count(sign) > 1]
    for sign in twice[:1]:  # of four random ids; the next test makes sure of two names
        assert "must mean one run" in sweepstack(terminal, "show", sign).stderr


def test_repro_prints_the_command(terminal: Terminal, row: Row) -> None:
    done = sweepstack(terminal, "repro", row.run_id)
    assert done.exit_code == 0
    python, program, *overrides = shlex.split(done.stdout)
    assert (python, Path(program).name) == ("python", "train.py")
    assert overrides == [
        "dataset=digits",
        "epochs=5",
        "optimizer.lr=0.3",
        "launch.width=3",
        "tracking.sweep=swept",
        "rerun=true",
    ]


@pytest.mark.parametrize(
    ("override", "code"), [("tracking.uri=http://me:***@host", 0), ("+model.source=http://me:***@host", 2)]
)
def test_a_password_that_is_not_recorded_matters_only_where_it_is_needed(
    terminal: Terminal, row: Row, override: str, code: int
) -> None:
    file = files_of(terminal, row) / "overrides.yaml"
    before = file.read_text()
    file.write_text(f"- {override}\n{before}")
    try:
        done = sweepstack(terminal, "repro", row.run_id)
    finally:
        file.write_text(before)
    assert done.exit_code == code
    assert "***" not in done.stdout
    if code:
        assert f"which is not recorded ({override}); type the command by hand" in done.stderr
    else:
        assert done.stdout.endswith(
            "train.py dataset=digits epochs=5 optimizer.lr=0.3 launch.width=3 tracking.sweep=swept rerun=true\n"
        )
        assert f"Left out, because passwords are not recorded: {override}; add it yourself." in done.stderr


def untouched(terminal: Terminal) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in terminal.folder.rglob("*") if path.is_file()}


def test_repro_runs_it_again_and_the_result_is_equal(terminal: Terminal, row: Row) -> None:
    before = untouched(terminal)
    done = sweepstack(terminal, "repro", row.run_id, "--run")
    assert done.exit_code == 0, done.output
    assert re.match(r"equal, (bit for bit|within rounding: it was trained in a stack, )", done.stdout.splitlines()[1])
    after = untouched(terminal)
    assert {path for path in after if after[path] != before.get(path)} <= {
        str(terminal.folder / name) for name in ("mlflow.db", "mlflow.db-shm", "mlflow.db-wal")
    }


def test_what_was_trained_alone_is_equal_bit_for_bit(
    terminal: Terminal, own: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(terminal.folder)  # where the user's own model is
    done = sweepstack(terminal, "repro", own.run_id, "--run")
    assert (done.exit_code, done.stdout.splitlines()[1]) == (0, "equal, bit for bit"), done.output


def test_what_does_not_end_the_same_is_told_with_its_figures(terminal: Terminal) -> None:
    store: Store = terminal.store
    one, other = (find_run(store, name) for name in ("lr=0.3", "lr=0.01"))
    found = repetition.compare(store, one, store, other)
    assert not found.equal
    assert found.how == "it is not the same trial any more: the config has changed"
    assert any(re.match(r"test predictions: \d+ of 360 items differ", line) for line in found.differences)
    assert any(line.startswith("val/accuracy: ") for line in found.differences)
    assert repetition.compare(store, one, store, one) == repetition.Comparison(True, "bit for bit", ())


def changed(run: Record, trained: str = "stacked, 2 trajectories wide, 1 thread (...)", **metrics: float) -> Record:
    """A run that has ended a little differently."""
    known = {**run.row.metrics, **{key.replace("_", "/"): value for key, value in metrics.items()}}
    return replace(run, row=replace(run.row, metrics=known), tags={**run.tags, "trained": trained})


def test_what_is_allowed_to_differ_depends_on_how_it_was_trained(terminal: Terminal, own: Row) -> None:
    store = terminal.store
    alone, loss = find_run(store, own.run_id), own.metrics["test/loss"]
    found = repetition.compare(store, alone, store, changed(alone, test_loss=loss * 1.000001))
    assert (found.equal, found.how) == (False, "it was trained by the plain trainer, so every bit counts")
    other_company = replace(alone, tags={**alone.tags, "recomposed": "a stack of 2 failed"})
    found = repetition.compare(store, other_company, store, changed(alone, test_loss=loss * 1.000001))
    assert found.equal
    assert found.how.startswith(
        "within rounding: it did not end in the stack that it began in (a stack of 2 failed), and the"
    )
    stacked = changed(alone)
    found = repetition.compare(store, stacked, store, changed(alone, test_loss=loss * 1.000001))
    assert found.equal
    assert found.how.startswith("within rounding: it was trained in a stack, and the weights differ by 0 (")
    found = repetition.compare(store, stacked, store, changed(alone, test_loss=loss * 1.01))
    assert not found.equal
    assert "the losses differ by up to 0.0099 of their size (0.001 is allowed)" in found.how


def test_weights_far_apart_are_not_equal_though_the_figures_are(terminal: Terminal) -> None:
    store = terminal.store
    one, other = (changed(find_run(store, name)) for name in ("lr=0.3", "lr=0.01"))
    found = repetition.compare(
        store, one, store, replace(other, row=replace(other.row, metrics=one.row.metrics), tags=one.tags)
    )
    assert not found.equal
    assert re.fullmatch(r"it was trained in a stack, and the weights differ by [\d.]+ of their size .*", found.how)
    assert repetition.KINKS not in found.differences  # of logistic regression


def test_kinks_are_named_where_a_network_with_relu_is_not_equal(terminal: Terminal) -> None:
    store = terminal.store
    (row,) = [row for row in store.rows("all") if row.state == "FAILED"]
    run = find_run(store, row.run_id)
    found = repetition.compare(store, changed(run, train_loss=1.0), store, changed(run, train_loss=1.1))
    assert not found.equal
    assert found.differences[-1] == repetition.KINKS


def test_models_of_others_are_left_alone(terminal: Terminal, best: Result) -> None:
    terminal.store.client.create_registered_model("somebody-elses")
    assert "somebody-elses" not in registered(terminal.store)
    assert artifact(terminal.store, terminal.store.rows()[0].run_id, "nothing.txt") is None
