"""Flags that show configs instead of training, with -m too."""

import pytest
import yaml

from sweepstack.errors import ConfigError
from sweepstack.hydra_adapter.show_configs import asked, asks_for_json, understood

from ..terminal import Terminal


def test_the_configs_of_all_jobs_are_printed(terminal: Terminal) -> None:
    words = ["dataset=digits", "optimizer.lr=0.1,0.2", "seed=${hydra:job.num}", "--resolve"]
    done = terminal.type("train.py", "-m", "--cfg", "job", *words)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = yaml.safe_load_all(done.stdout)
    assert [(one["seed"], one["optimizer"]["lr"]) for one in (first, second)] == [(0, 0.1), (1, 0.2)]
    assert "# job 1: dataset=digits optimizer.lr=0.2 seed=${hydra:job.num}" in done.stdout
    assert not (terminal.folder / "multirun").exists()


def test_a_sweep_goes_on_to_hydra_without_the_flags_that_show() -> None:
    words = ["-m", "-c", "all", "seed=1,2", "~schedule", "-p", "model", "--config-dir", "mine"]
    assert understood(words) == ["seed=1,2", "~schedule", "--multirun", "--config-dir=mine"]
    shown = asked()
    assert shown is not None
    assert (shown.part, shown.package, shown.resolve) == ("all", "model", False)


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "seed=1,2"],
        ["--cfg", "job", "--resolve", "-p", "model"],
        ["--help", "--resolve"],
        ["--info", "plugins"],
        ["seed=1"],
        ["-r"],
    ],
)
def test_what_hydra_understands_goes_on_as_it_is(words: list[str]) -> None:
    assert understood(words) == words
    assert asked() is None


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["-m", "--info", "config"], "--multirun and --info cannot stand together"),
        (["-m", "--run"], "--run and --multirun cannot stand together"),
        (["-m", "--cfg", "job", "--info", "all"], "--multirun and --cfg and --info cannot stand together"),
        (["--resolve"], "--resolve is about what --cfg shows"),
        (["-m", "--package", "model", "seed=1,2"], "--package is about what --cfg shows"),
    ],
)
def test_flags_that_cannot_stand_together_are_refused(words: list[str], rule: str) -> None:
    with pytest.raises(ConfigError) as caught:
        understood(words)
    assert caught.value.rule == rule
    assert caught.value.remedy


def test_help_is_printed_in_a_sweep_too(terminal: Terminal) -> None:
    done = terminal.type("train.py", "-m", "model=mlp", "optimizer.lr=0.1,0.2", "seed=range(3)", "epochs=7", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Train one trial:")
    assert "epochs: 7" in done.stdout
    assert "sweepstack.training.models.MLP" in done.stdout
    assert understood(["-m", "a=1,2", "b=[1,2]", "c=(", "--hydra-help"]) == ["-m", "b=[1,2]", "c=(", "--hydra-help"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["launch.dry_run=true", "launch.dry_run=json"], True),
        (["launch.dry_run=json", "seed=1"], True),
        (["launch.dry_run=json", "launch={width:2}"], True),
        (["launch.dry_run=json", "launch.dry_run=true"], False),
        (["++launch.dry_run=json", "+launch.dry_run=false"], False),
        (["launch.dry_run=json", "launch={width: 2, dry_run: true}"], False),
        (["launch.dry_run=json", "~launch.dry_run"], False),
    ],
    ids=str,
)
def test_the_last_word_says_how_a_plan_is_printed(words: list[str], expected: bool) -> None:
    assert asks_for_json(words) is expected
    assert "launch.dry_run=json" not in understood(words)
