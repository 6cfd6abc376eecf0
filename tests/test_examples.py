"""The folders of `examples/`: each command of their READMEs, typed at small size; the loops, killed and resumed.

And what it takes to bring in a loop that exists."""

import difflib
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from . import here
from .terminal import ROOT, Terminal

EXAMPLES = ROOT / "examples"
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TYPED = [folder.parent.name for folder in sorted(EXAMPLES.glob("*/README.md")) if CONSOLE.search(folder.read_text())]
SMALL = {
    "augmentation": ("dataset.count=40", "epochs=1"),
    "search": ("search.trials=4", "epochs=3"),
    "text": ("epochs=2", "workers=1"),
}
"""Words that make the trainings of an example small; of others, `epochs=1`."""
LONGEST_README = 16
"""Lines of a README: about ten of text, and what Markdown needs."""
LOOPS = {
    "gan": ("val/frechet", "model.latent=4,8"),
    "contrastive": ("val/accuracy", "trainer.temperature=0.2,0.5"),
}
"""The metric that selects, and two values to sweep."""


def commands(name: str) -> list[str]:
    """The commands of an example's README."""
    return [
        line for block in CONSOLE.findall((EXAMPLES / name / "README.md").read_text()) for line in block.splitlines()
    ]


@pytest.fixture(autouse=True)
def own_modules() -> Iterator[None]:
    """A module of an example is not one of the same name that another test has imported."""
    names = {file.stem for file in EXAMPLES.glob("*/*.py")}
    for name in names & {*sys.modules}:
        del sys.modules[name]
    yield
    for name in names & {*sys.modules}:
        del sys.modules[name]


@pytest.mark.parametrize("name", TYPED)
def test_an_example_works_as_it_is_typed(name: str, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = terminal.folder / "a copy" / name
    shutil.copytree(EXAMPLES / name, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    for command in commands(name):
        program, *words = shlex.split(command)
        if name == "slurm" and "launch.dry_run=true" not in words:
            continue  # tests/engines/test_slurm.py types it, where a Slurm runs
        if program == "sweepstack":
            done = here.sweepstack(*words)
        else:
            assert (program, words[0]) == ("python", "train.py")
            done = here.train(*words[1:], *SMALL.get(name, ("epochs=1",)), "threads=1", program=folder / "train.py")
        assert done.code == 0, (command, done.err)
    if name == "slurm":
        assert "4 trials -> 4 trajectories -> 2 stacks" in done.out
        return
    rows = terminal.store.rows("all")
    assert len(rows) >= 2
    assert {row.state for row in rows} <= {"FINISHED", "PRUNED"}


def test_the_notebook_runs_as_it_is(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = terminal.folder / "a copy"
    shutil.copytree(EXAMPLES / "notebook", folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    book = nbformat.read(folder / "sweep.ipynb", 4)
    NotebookClient(book, timeout=240, resources={"metadata": {"path": str(folder)}}).execute()
    (train, _), (head, _), (pivot, _), (again, size) = (
        (cell, cell.outputs[-1]) for cell in book.cells if cell.cell_type == "code"
    )
    shown = "".join(output.get("text", "") for output in train.outputs)
    assert shown.startswith("8 trials -> 8 trajectories -> ")
    assert shown.count("\n") < 5  # lines of single trials take turns in one
    assert "\r[8/8] " in shown
    assert "FINISHED" in head.outputs[-1].data["text/plain"]
    assert "0.3" in pivot.outputs[-1].data["text/plain"]
    assert "8 trials trained before: not trained again" in "".join(output.get("text", "") for output in again.outputs)
    assert size.data["text/plain"] == "12"
    assert not [output for cell in book.cells for output in cell.get("outputs", ()) if output.get("name") == "stderr"]


def test_every_example_is_listed_and_short() -> None:
    folders = {folder.name for folder in EXAMPLES.iterdir() if folder.is_dir() and folder.name != "__pycache__"}
    listed = re.findall(
        r"^\| \[(\w+)\]\((\w+)/README\.md\) \| .+ \|$", (EXAMPLES / "README.md").read_text(), re.MULTILINE
    )
    assert sorted(listed) == sorted((name, name) for name in folders)
    assert {*TYPED} == folders - {"notebook"}
    for name in folders:
        readme = EXAMPLES / name / "README.md"
        assert len(readme.read_text().splitlines()) <= LONGEST_README, name
        for target in re.findall(r"\]\(([^)#]+)", readme.read_text()):
            assert (readme.parent / target).exists(), (name, target)


def words(name: str) -> list[str]:
    return ["--config-dir", str(EXAMPLES / "own_loop" / "conf"), f"experiment={name}", "threads=1"]


@pytest.fixture
def beside_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules of the loops are found."""
    monkeypatch.syspath_prepend(EXAMPLES / "own_loop")
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES / "own_loop"))


@pytest.mark.usefixtures("beside_loops")
@pytest.mark.parametrize("name", LOOPS)
def test_two_values_of_a_loop_are_swept_for_an_epoch(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(terminal.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    objective, sweep = LOOPS[name]
    command = ["-m", *words(name), sweep, "epochs=1"]
    plan = here.train(*command, "launch.dry_run=true")
    assert "2 trials -> 2 trajectories -> 2 stacks\n2 run-epochs asked for, 2 to train, in an unknown time" in plan.out
    assert "by its own loop, 1 thread (" in plan.out
    done = here.train(*command)
    assert (done.code, done.err) == (0, "")
    rows = terminal.store.rows()
    assert [(row.state, objective in row.metrics) for row in rows] == [("FINISHED", True)] * 2
    assert {row.params["trainer"] for row in rows} == {f"{name}.train"}
    files = {file.path for file in terminal.store.client.list_artifacts(rows[0].run_id)}
    assert files >= ({"weights.pt", "drawn.png"} if name == "gan" else {"weights.pt"})
    assert "2 trials trained before: not trained again" in here.train(*command).out
    for command in (["show", rows[0].run_id], ["report"])[: 2 if name == "gan" else 1]:
        told = here.sweepstack(*command)
        assert (told.code, told.err.count("error")) == (0, 0), told.err
    refused = here.sweepstack("register", rows[0].run_id)
    assert refused.code == 2
    assert refused.err.startswith("error: a model must give the outputs of its task to be used here, ")
    assert refused.err.count("\n") == 1
    assert objective in here.sweepstack("table", "--format", "csv").out


@pytest.mark.usefixtures("beside_loops")
@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_that_is_killed_resumes_where_it_was(terminal: Terminal, name: str) -> None:
    command = ["train.py", *words(name), "epochs=4", "checkpoint.every=0"]
    process = terminal.start(*command)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 2 "):
            process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert process.returncode == -signal.SIGKILL
    resumed = terminal.type(*command)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert "1 stack interrupted before: resumed" in resumed.stdout
    assert "step 1 " not in resumed.stdout
    undisturbed = terminal.type(*command, "rerun=true")
    assert (undisturbed.returncode, undisturbed.stderr) == (0, "")
    assert "step 1 " in undisturbed.stdout
    one, other = (
        {key: value for key, value in row.metrics.items() if "seconds" not in key} for row in terminal.store.rows("all")
    )
    assert one == other


PLAIN = """\
import torch
from sklearn.datasets import load_digits
from torch import nn


def batches(images, labels, size):
    order = torch.randperm(len(images))
    for index in order.split(size):
        yield images[index], labels[index]


def accuracy(model, images, labels):
    model.eval()
    with torch.no_grad():
        hits = model(images).argmax(1) == labels
    model.train()
    return hits.float().mean().item()


def train(lr=0.1, width=32, epochs=2):
    torch.manual_seed(0)
    table = load_digits()
    images = torch.tensor(table.images, dtype=torch.float32).flatten(1) / 16
    labels = torch.tensor(table.target)
    images, test_images = images[:1500], images[1500:]
    labels, test_labels = labels[:1500], labels[1500:]
    model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    for epoch in range(1, epochs + 1):
        total = 0.0
        for inputs, expected in batches(images, labels, 100):
            loss = nn.functional.cross_entropy(model(inputs), expected)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        schedule.step()
        reached = accuracy(model, test_images, test_labels)
        print(f"epoch {epoch} loss {total / 15:.4f} accuracy {reached:.4f}")
    return model
"""
BROUGHT_IN = PLAIN.replace("def train(lr", "def train(config, context, lr").replace(
    "    return model\n",
    '        if context.report({"train/loss": total / 15, "val/accuracy": reached}, epoch) is Verdict.STOP:\n'
    "            break\n"
    "    return model\n",
)
BROUGHT_IN = BROUGHT_IN.replace("from torch import nn\n", "from torch import nn\nfrom sweepstack import Verdict\n")


def test_a_loop_that_exists_is_brought_in_with_five_lines_of_glue(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (terminal.folder / "own_script.py").write_text(BROUGHT_IN)
    monkeypatch.chdir(terminal.folder)
    monkeypatch.syspath_prepend(terminal.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    diff = difflib.ndiff(PLAIN.splitlines(), BROUGHT_IN.splitlines())
    assert len(PLAIN.splitlines()) >= 40
    assert len([line for line in diff if line.startswith("+ ")]) <= 5
    space: dict[str, object] = {}
    exec(PLAIN, space)
    expected = {}
    for width in (8, 16):
        space["train"](width=width)  # type: ignore[operator]
        expected[str(width)] = float(capsys.readouterr().out.split()[-1])
    done = here.train("-m", "dataset=digits", "trainer={_target_:own_script.train}", "+trainer.width=8,16", "threads=1")
    assert (done.code, done.err) == (0, "")
    found = {row.params["trainer.width"]: row.metrics["val/accuracy"] for row in terminal.store.rows()}
    assert found == {width: pytest.approx(reached, abs=1e-4) for width, reached in expected.items()}


def test_a_loop_that_fails_is_the_users_own(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    (terminal.folder / "own_broken_loop.py").write_text(
        "def train(config, context, how):\n"
        "    if how == 'silent': return\n"
        "    if how == 'loud': raise ValueError('the cat is on the keyboard')\n"
        "    context.report({'train/loss': 1.0, 'val/accuracy': float('nan')}, 12)\n"
    )
    monkeypatch.chdir(terminal.folder)
    monkeypatch.syspath_prepend(terminal.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    loop = "trainer={_target_:own_broken_loop.train}"
    done = here.train("-m", "dataset=digits", loop, "+trainer.how=silent,loud,diverging")
    assert done.code == 1
    reasons = {row.params["trainer.how"]: (row.state, row.reason) for row in terminal.store.rows()}
    assert {state for state, _ in reasons.values()} == {"FAILED"}
    assert reasons["silent"][1].startswith(
        "the loop must report val/accuracy, which selects trials, it reported nothing;"
    )
    assert reasons["loud"][1] == ("ValueError: the cat is on the keyboard (in your own_broken_loop.py, line 3, train)")
    assert reasons["diverging"][1] == "the loop reported val/accuracy = nan at step 12"
    assert "Traceback" not in done.err + done.out
    (log,) = [path for path in Path().glob("multirun/*/*/train.log") if "keyboard" in path.read_text()]
    assert "Traceback" in log.read_text()
