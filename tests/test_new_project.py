"""`sweepstack new`: what it writes runs as its README says, and nothing of the user's is written over."""

import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from docs import hooks

from . import here
from .terminal import ROOT, Terminal, new_store
from .test_docs_site import CONSOLE

CLI = ROOT / "src" / "sweepstack" / "cli"


def test_a_new_project_runs_as_its_readme_says(tmp_path: Path, empty_database: Path, monkeypatch) -> None:
    """In a folder with a space, in which git and an environment are already."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    project = tmp_path / "my project"
    subprocess.run(["git", "init", "--quiet", str(project)], check=True)
    (project / ".venv").mkdir()
    (project / ".venv" / "pyvenv.cfg").write_text("")
    made = here.sweepstack("new", "my project")
    assert made.code == 0, made.err
    for name in ("train.py", "net.py", "rings.py", "conf/config.yaml", "conf/model/net.yaml", ".gitignore"):
        assert name in made.out
        assert (project / name).is_file()
    for words in (["check"], ["format", "--check"]):  # with the settings that ruff has by default
        ruff = [sys.executable, "-m", "ruff", *words, "--isolated", "--no-cache", "."]
        checked = subprocess.run(ruff, cwd=project, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout
    cache = ROOT / ".mypy_cache" / "new_project"  # the types of PyTorch take half a minute
    mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), "--config-file", os.devnull, "."]
    typed = subprocess.run(mypy, cwd=project, capture_output=True, text=True, check=False)
    assert typed.stdout == "Success: no issues found in 4 source files\n", typed.stdout + typed.stderr
    (project / "mlruns").mkdir()
    new_store(project / "mlruns", empty_database)
    next_words = made.out.partition("Next:\n")[2].splitlines()
    assert next_words[0] == "  cd 'my project'"
    commands = [line for block in CONSOLE.findall((project / "README.md").read_text()) for line in block.splitlines()]
    assert {line.strip() for line in next_words[1:3]} <= {*commands}
    outputs = {}
    for command in commands:
        program, *words = shlex.split(command)
        known = {"python": sys.executable, "sweepstack": str(Path(sys.executable).with_name("sweepstack"))}
        done = subprocess.run([known[program], *words], cwd=project, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        outputs[command] = done.stdout + done.stderr
    swept = outputs["python train.py -m model.width=4,16 optimizer.lr=0.1,0.3"]
    assert "1 trial trained before" in swept
    assert "3 trials -> 3 trajectories -> 2 stacks" in swept
    assert "Ran 2 tests" in outputs["python -m unittest"]
    git = ["git", "-C", str(project), "status", "--porcelain", "--untracked-files=all"]
    status = subprocess.run(git, capture_output=True, text=True, check=True).stdout
    assert {line[3:] for line in status.splitlines()} == {*made.out.partition(": ")[2].partition("\n")[0].split(", ")}
    best = max(float(value) for value in re.findall(r"test/accuracy (0\.\d+)", swept))
    assert best > 0.9  # its model learns its data
    (project / "conf").rename(project / "settings")
    lost = here.train(program=project / "train.py")
    assert lost.code == 2
    assert lost.err.startswith(f"error: there is no folder {project / 'conf'} of configs; name yours in @hydra.main(")
    assert lost.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "mistake"),
    [
        (["full"], r"must be empty, .*full has mine\.txt; name a new folder, such as sweepstack new my_project"),
        (["."], r"must be empty, .* has (a file|full)"),
        (["a file"], "a file is there, and is not a folder; name a new folder"),
        (["a file/inside"], r"cannot be written \(Not a directory\); choose another folder"),
        ([""], "needs a folder whose name can be typed, without [$]{, got ''"),
        (["a\nb"], "needs a folder whose name can be typed"),
        (["a${b}"], "needs a folder whose name can be typed"),
        (["x" * 300], r"cannot be a folder here \(File name too long\)"),
        ([sys.prefix + "/project"], "must not be in a folder of Python's"),
        (
            ["new", "--from", "lightning"],
            "--from must name what you come from, got 'lightning'; did you mean 'lightning-hydra-template'",
        ),
        (["new", "--from", "x"], "got 'x'; known: lightning-hydra-template, plain"),
    ],
    ids=str,
)
def test_it_writes_over_nothing(words: list[str], mistake: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    for file in ("full/mine.txt", "a file"):
        (tmp_path / file).write_text("mine")
    done = here.sweepstack("new", *words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert re.search(mistake, done.err)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / name for name in ("a file", "full", "full/mine.txt")]


def test_a_project_that_cannot_be_written_leaves_nothing(terminal: Terminal) -> None:
    """Here no file may have more than 500 bytes; some are shorter."""
    limit = (500, 500)
    words = ("sweepstack", "new", os.path.join("deep", "er"))
    done = terminal.type(*words, before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith("er cannot be written (File too large); choose another folder\n")
    assert not (terminal.folder / "deep").exists()
    assert terminal.type(*words).returncode == 0


@pytest.mark.parametrize("origin", ["plain", "lightning-hydra-template"])
def test_it_says_what_moves_where_by_keys_and_files_that_there_are(origin: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = here.sweepstack("new", os.path.join("deep", "er"), "--from", origin)
    assert done.code == 0, done.err
    plain = here.sweepstack("new", "plain")  # whose types are checked
    assert plain.code == 0, plain.err
    for file in (tmp_path / "plain").rglob("*.py"):
        assert file.read_text() == (tmp_path / "deep" / "er" / file.relative_to(tmp_path / "plain")).read_text()
    guide = (tmp_path / "deep" / "er" / "MIGRATING.md").read_text()
    assert guide in done.out
    lines = [line for line in guide.splitlines() if line.startswith("| `")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len(rows) > 10
    page = hooks.reference_of_config()
    for there, here_, what in rows:
        for file in re.findall(r"`([\w/]+\.(?:py|yaml))`", here_):
            assert (tmp_path / "deep" / "er" / file).is_file(), there
        for key in re.findall(r"`([a-z_]+(?:\.[a-z_]+)*): [^`]*`(?!: `)", what):
            assert f"| `{key}` |" in page or f"\n## {key}\n" in page, key


def test_its_code_is_what_the_pages_teach() -> None:
    """The dataset, and the program but for the place of its configs."""
    page = (ROOT / "docs" / "how-to" / "own_dataset.md").read_text()
    rings = (CLI / "project" / "rings.py.template").read_text()
    assert rings.partition('"""\n\n')[2] in page
    program = (CLI / "project" / "train.py.template").read_text().partition("\n\n")[2]
    page = (ROOT / "docs" / "how-to" / "new_project.md").read_text()
    for there, here_ in (("=None", '="1.3"'), ('"configs"', '"conf"'), ('"main")', '"config")')):
        page = page.replace(there, here_)
    assert program in page
