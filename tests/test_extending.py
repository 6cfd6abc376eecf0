"""The code of docs/extending.md works as it is written."""

import json
import re
import shlex

import pytest
import torch
import yaml

from sweepstack.training.instantiate import instantiate

from . import here
from .terminal import ROOT, Terminal

PAGE = (ROOT / "docs" / "extending.md").read_text()


def block(language: str, part: str) -> str:
    """The only block of a language in the part of the page below a heading."""
    text = PAGE.partition(f"\n## {part}\n")[2].partition("\n## ")[0]
    (found,) = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return str(found)


def test_the_loop_of_the_page_is_swept(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    (terminal.folder / "my_loop.py").write_text(block("python", "A loop of your own"))
    monkeypatch.chdir(terminal.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    monkeypatch.syspath_prepend(terminal.folder)
    program, script, *words = shlex.split(block("console", "A loop of your own"))
    assert (program, script) == ("python", "train.py")
    done = here.train(*words, "epochs=2", "threads=1")
    assert (done.code, done.err) == (0, "")
    rows = {row.params["trainer.decay"]: row for row in terminal.store.rows()}
    assert {name: row.state for name, row in rows.items()} == {"0": "FINISHED", "0.5": "FINISHED"}
    assert all(0 < row.metrics["val/accuracy"] <= 1 for row in rows.values())


def test_the_task_of_the_page_is_swept(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    part = "A task, a metric and a step of your own"
    (terminal.folder / "counts.py").write_text(block("python", part))
    (terminal.folder / "conf" / "experiment").mkdir(parents=True)
    (terminal.folder / "conf" / "experiment" / "counts.yaml").write_text(block("yaml", part))
    monkeypatch.chdir(terminal.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    monkeypatch.syspath_prepend(terminal.folder)
    words = ("-m", "--config-dir", "conf", "experiment=counts", "dataset=diabetes", "model=linear", "epochs=2")
    done = here.train(*words, "optimizer.lr=0.0001,0.0003", "threads=1")
    assert (done.code, done.err) == (0, "")
    rows = terminal.store.rows()
    assert [row.state for row in rows] == ["FINISHED"] * 2
    assert all(row.metrics["val/deviance_best"] <= row.metrics["val/deviance"] for row in rows)


def test_the_model_of_the_page_is_built() -> None:
    model = instantiate(yaml.safe_load(block("yaml", "Words beside a `_target_`").replace("${dataset.classes}", "10")))
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_the_commands_for_the_examples_name_configs_that_exist() -> None:
    names = re.findall(r"^    python train.py .*experiment=(\w+)", PAGE, re.MULTILINE)
    assert len(names) == 2
    for name in names:
        assert (ROOT / "examples" / "own_loop" / "conf" / "experiment" / f"{name}.yaml").is_file()


OWN = """
import torch
from torch import nn


class Narrow(nn.Module):
    def __init__(self, kind="relu", **others):
        super().__init__()
        activation = {"relu": nn.ReLU, "tanh": nn.Tanh}[kind]
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), activation(), nn.Linear(8, 10))

    def forward(self, images):
        return self.layers(images)


class Wide(Narrow):
    pass


class Clipped(torch.optim.SGD):
    def __init__(self, params, lr, clip_norm=1.0, **others):
        super().__init__(params, lr=lr * clip_norm, **others)
"""


@pytest.mark.parametrize(
    ("swept", "column", "values"),
    [
        ("model._target_=varied_parts.Narrow,varied_parts.Wide", "model", {"varied_parts.Narrow", "varied_parts.Wide"}),
        (
            "model={_target_:varied_parts.Narrow},{_target_:varied_parts.Wide}",
            "model",
            {"varied_parts.Narrow", "varied_parts.Wide"},
        ),
        ("+model.kind=relu,tanh", "model.kind", {"relu", "tanh"}),
        ("+optimizer.clip_norm=0.1,1", "optimizer.clip_norm", {0.1, 1}),
    ],
)
def test_what_a_sweep_varies_of_parts_of_ones_own_tells_settings_apart(
    swept: str, column: str, values: set[object], terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table by seed would call two models one setting."""
    monkeypatch.chdir(terminal.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    monkeypatch.syspath_prepend(terminal.folder)
    (terminal.folder / "varied_parts.py").write_text(OWN)
    own = [] if "_target_" in swept else ["model._target_=varied_parts.Narrow"]
    own += ["optimizer._target_=varied_parts.Clipped"]
    done = here.train("-m", "dataset=digits", "epochs=1", "threads=1", *own, swept)
    assert done.code == 0, done.err
    settings = json.loads(here.sweepstack("table", "--by-seed", "--json").out)
    assert {setting[column] for setting in settings} == values
