"""The loops in `examples/`: a sweep of each, killed and resumed; and what it takes to bring in a loop that exists."""

import difflib
import signal
from pathlib import Path

import pytest

from . import here
from .terminal import ROOT, Terminal

EXAMPLES = {
    "gan": ("val/frechet", "model.latent=4,8"),
    "contrastive": ("val/accuracy", "trainer.temperature=0.2,0.5"),
}
"""The metric that selects, and two values to sweep."""


def words(name: str) -> list[str]:
    return ["--config-dir", str(ROOT / "examples"), f"experiment={name}", "threads=1"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_two_values_of_an_example_are_swept_for_an_epoch(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(terminal.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    objective, sweep = EXAMPLES[name]
    command = ["-m", *words(name), sweep, "epochs=1"]
    plan = here.train(*command, "launch.dry_run=true")
    assert "2 trials -> 2 trajectories -> 2 stacks\n2 run-epochs asked for, 2 to train, in an unknown time" in plan.out
    assert "by its own loop, 1 thread (" in plan.out
    done = here.train(*command)
    assert (done.code, done.err) == (0, "")
    rows = terminal.store.rows()
    assert [(row.state, objective in row.metrics) for row in rows] == [("FINISHED", True)] * 2
    assert {row.params["trainer"] for row in rows} == {f"examples.{name}.train"}
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


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_that_is_killed_resumes_where_it_was(terminal: Terminal, name: str) -> None:
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
