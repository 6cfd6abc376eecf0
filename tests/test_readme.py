"""The README's commands work as they are written, at small size."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from .conftest import ROOT, Terminal

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    return [line for line in lines if line.startswith(("python", "sweepstack"))]


def small(words: list[str]) -> list[str]:
    """A training at small size: one epoch of the digits; the tutorial keeps its own dataset."""
    words = [word for word in words if not word.startswith("epochs=")]
    if "experiment=tutorial" in words:
        return [*words, "epochs=1"]
    return [*words, "dataset=digits", "epochs=1"]


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Terminal:
    terminal = Terminal(tmp_path_factory.mktemp("readme"))
    (terminal.folder / "net.py").write_text(blocks("python")[0])
    (terminal.folder / "my_conf" / "model").mkdir(parents=True)
    (terminal.folder / "my_conf" / "model" / "net.yaml").write_text(blocks("yaml")[0])
    done = terminal.type("train.py", *small(shlex.split(commands()[0])[2:]))
    assert done.returncode == 0, done.stderr
    return terminal


def test_there_are_commands_to_test() -> None:
    assert len(commands()) >= 8
    assert len(blocks("python")) == len(blocks("yaml")) == 1


@pytest.mark.parametrize("command", commands()[1:])
def test_a_command_of_the_readme_works(terminal: Terminal, command: str) -> None:
    program, *words = shlex.split(command)
    if program == "python":
        program, words = words[0], small(words[1:])
    done = terminal.type(program, *words)
    assert (done.returncode, done.stderr.count("error")) == (0, 0), done.stderr


def test_the_mistake_that_the_readme_shows_prints_what_it_shows(terminal: Terminal) -> None:
    command, expected = re.findall(r"\$ python (train.py .*)\n(error: .*)\n", README)[0]
    done = terminal.type(*shlex.split(command))
    assert done.stderr == f"{expected}\n"
    assert done.returncode == 2


def test_make_targets_of_the_readme_exist() -> None:
    for target in set(re.findall(r"`?make (\w+)`?", README)) - {"and"}:
        assert subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, check=False).returncode == 0, (
            target
        )


def test_the_files_that_the_readme_links_to_exist() -> None:
    for link in re.findall(r"\]\(((?!http)[^)#]+)\)", README):
        assert Path(ROOT, link).exists(), link
