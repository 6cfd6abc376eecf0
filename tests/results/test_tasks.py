"""Sweeps of other tasks than the default one, from the command line to the report."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sweepstack.cli.main import main

from ..terminal import Terminal, new_store


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
    assert both.stderr == "error: --metric selects a run of a sweep, and a run is given, got lr=0.1; leave one out\n"
