"""The README's commands work as they are written, at small size."""

import re
import shlex
import subprocess
from html import unescape
from pathlib import Path

import pytest
from click.testing import CliRunner
from docs.terminal_svg import COMMANDS
from PIL import Image
from sklearn.datasets import load_digits

from sweepstack.cli.main import main

from .terminal import ROOT, Terminal, new_store

README = (ROOT / "README.md").read_text()
FAULTS = (ROOT / "docs" / "faults.md").read_text()
RECIPES = (ROOT / "docs" / "how-to" / "recipes.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    return [line for line in lines if line.startswith(("python", "sweepstack"))]


def small(words: list[str]) -> list[str]:
    """A training at small size: one epoch, of the digits unless it names a dataset."""
    names_one = any(word.startswith("dataset=") for word in words)
    shorter = [word for word in words if not word.startswith("epochs=")]
    return [*shorter, *([] if names_one else ["dataset=digits"]), "epochs=1"]


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Terminal:
    terminal = Terminal(tmp_path_factory.mktemp("readme"))
    new_store(terminal.folder, empty_database)
    picture = Image.fromarray((255 - load_digits().images[7] * 15.9).astype("uint8"))
    picture.resize((200, 200)).save(terminal.folder / "digit.png")
    done = terminal.type("train.py", *small(shlex.split(commands()[0])[2:]))
    assert done.returncode == 0, done.stderr
    return terminal


def test_the_readme_is_short_and_shows_commands_with_pictures_of_its_own() -> None:
    assert len(README.splitlines()) < 120
    assert len(commands()) >= 8
    pictures = re.findall(r"!\[.+?\]\((.*?)\)|<img", README)
    assert len(pictures) >= 2
    assert all(picture and not picture.startswith("http") for picture in pictures)
    folded = re.findall(r"<details.*?</details>", README, re.DOTALL)
    assert len(folded) >= 5
    assert all(fold.count("```console\n") == fold.count("<summary>") == 1 for fold in folded)
    days = re.findall(r"^- \*\*(\d{4}-\d\d-\d\d)\*\* ", README, re.MULTILINE)
    assert days == sorted(days, reverse=True) != []


def test_the_picture_of_a_terminal_shows_commands_that_its_script_types() -> None:
    picture = unescape((ROOT / "docs" / "terminal.svg").read_text()).replace("\xa0", " ")
    assert [f"$ {command}" for command in COMMANDS] == re.findall(r">(\$ .*)</text>", picture)
    assert " trials -> " in picture
    assert re.search(r" -  best</text>", picture)
    assert not re.findall(r"url\(|href|@import|/tmp/|<script", picture)


@pytest.mark.parametrize("command", commands()[1:])
def test_a_command_of_the_readme_works(terminal: Terminal, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *words = shlex.split(command)
    if program == "python":
        done = terminal.type(words[0], *small(words[1:]))
        assert (done.returncode, done.stderr.count("error")) == (0, 0), done.stderr
        return
    monkeypatch.chdir(terminal.folder)
    here = CliRunner().invoke(main, words, env={"MLFLOW_TRACKING_URI": terminal.uri})
    assert (here.exit_code, here.stderr) == (0, here.stderr.replace("error", "")), here.output


def test_the_tutorial_as_the_page_has_it(terminal: Terminal) -> None:
    (command,) = re.findall(r"^python (train.py .*experiment=tutorial .*)$", RECIPES, re.MULTILINE)
    done = terminal.type(*shlex.split(command))
    assert done.returncode == 0, done.stderr
    printed = [line for line in done.stdout.splitlines() if line.startswith("Iteration: ")]
    expected = {"0.001": 0.825, "0.01": 0.893, "0.1": 0.918}
    rows = terminal.store.rows()
    assert {row.params["lr"] for row in rows} == expected.keys()
    for row in rows:
        of_this = [line.removesuffix(f"  ({row.name})") for line in printed if line.endswith(f"  ({row.name})")]
        assert [line.split(".")[0] for line in of_this] == [f"Iteration: {n}" for n in range(200, 3001, 200)]
        assert row.metrics["test/accuracy"] == pytest.approx(expected[row.params["lr"]], abs=0.005)
        assert "val/accuracy" not in row.metrics
        assert of_this[-1].endswith(f"Accuracy: {100 * row.metrics['test/accuracy']:.2f}")
        files = {file.path for file in terminal.store.client.list_artifacts(row.run_id)}
        assert "first_images.png" in files


@pytest.mark.parametrize("page", [README, FAULTS], ids=["readme", "faults"])
def test_a_mistake_prints_what_a_page_shows_of_it(terminal: Terminal, page: str) -> None:
    ((command, expected),) = re.findall(r"\$ python (train.py .*)\n(error: .*)\n", page)
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
