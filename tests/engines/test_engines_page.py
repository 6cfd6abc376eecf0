"""What docs/engines.md says works as it is written."""

import re
import shlex

import pytest

from .. import here
from ..terminal import ROOT, Terminal

PAGE = (ROOT / "docs" / "engines.md").read_text()


def test_the_first_commands_of_the_page_train_and_show_the_plan(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"```console\n(.*?)```", PAGE.partition("\n## ")[0], re.DOTALL)
    train, plan = (shlex.split(line)[2:] for line in block.splitlines())
    monkeypatch.chdir(terminal.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    assert here.train(*plan).out.startswith("4 trials -> 4 trajectories -> 2 stacks")
    assert here.train(*train).code == 0
    runs = terminal.store.client.search_runs(["1"])
    assert len(runs) >= 4
    trained = {run.data.tags["trained"] for run in runs if "trained" in run.data.tags}
    assert trained
    assert all(text.endswith("workers side by side)") for text in trained)


def test_every_engine_of_the_page_can_be_chosen() -> None:
    named = re.findall(r"^\| `(\w+)`", PAGE.partition("\n## ")[0], re.MULTILINE)
    assert {*named} == {path.stem for path in (ROOT / "conf" / "engine").glob("*.yaml")}
