"""The documentation as a site: its pages, their commands as they are typed, and the reference that the code makes.

`make docs` builds it, and checks its links with their anchors.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from docs import hooks
from omegaconf import OmegaConf

from sweepstack.cli.main import main
from sweepstack.config.run_sections import ENGINE_KEYS, PRUNER_KEYS
from sweepstack.config.schema import FlatConfig

from . import here
from .terminal import DIGITS, ROOT, Terminal
from .test_readme import commands as commands_of_readme

DOCS = ROOT / "docs"
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
TYPED = [DOCS / "index.md", DOCS / "tutorial.md", DOCS / "faults.md", *sorted((DOCS / "how-to").glob("*.md"))]
"""Pages whose commands are typed here, as they stand and from the top down. (Other pages have tests of their own.)"""
FILE = re.compile(r"^```\w+ title=\"(.+?)\"\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CONSOLE = re.compile(r"^```console\n(?!\$ )(.*?)^```$", re.DOTALL | re.MULTILINE)
"""Commands. (A block that begins with `$` shows what is printed, too: tests/test_readme.py types it.)"""


def entries(nav: list[Any]) -> Iterator[str]:
    """The pages of a menu."""
    for entry in nav:
        for content in entry.values():
            yield from entries(content) if isinstance(content, list) else [content]


def keys(values: Any, prefix: str = "") -> Iterator[str]:
    """The dotted names of the values in nested dicts."""
    if not isinstance(values, dict) or not values:
        yield prefix.removesuffix(".")
        return
    for name, value in values.items():
        yield from keys(value, f"{prefix}{name}.")


@pytest.mark.parametrize("page", TYPED, ids=lambda page: page.stem)
def test_the_commands_of_a_page_work_from_the_top_down(
    page: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = page.read_text()
    for name, content in FILE.findall(text):
        (terminal.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (terminal.folder / name).write_text(content)
    monkeypatch.chdir(terminal.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", terminal.uri)
    monkeypatch.syspath_prepend(terminal.folder)
    commands = [line for block in CONSOLE.findall(text) for line in block.splitlines()]
    assert commands
    for command in commands:
        if command in commands_of_readme():
            continue  # a test of the README types it
        program, *words = shlex.split(command)
        assert program in ("python", "sweepstack"), command
        if program == "sweepstack":
            done = here.sweepstack(*words)
        else:
            own = terminal.folder / words[0]  # a program of the page
            done = here.train(*words[1:], "threads=1", program=own if own.is_file() else ROOT / "train.py")
        assert done.code == 0, (command, done.err)


def test_every_page_is_in_the_menu_and_every_entry_is_a_page() -> None:
    written = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    made = {"reference/config.md", "reference/commands.md", *hooks.COPIES.values()}
    assert not written & made
    assert sorted(entries(SITE["nav"])) == sorted(written | made)


def test_each_of_thirty_questions_is_two_clicks_from_the_first_page() -> None:
    assert "](questions.md)" in (DOCS / "index.md").read_text()
    rows = re.findall(r"^\| ([^|]+\?) \| (.+) \|$", (DOCS / "questions.md").read_text(), re.MULTILINE)
    assert len({question for question, _ in rows}) == len(rows) >= 30
    for question, answer in rows:
        links = hooks.LINK.findall(answer)
        assert links, question
        for target, anchor in links:
            headings = re.findall(r"^#+ (.+)$", (DOCS / target).read_text(), re.MULTILINE)
            assert not anchor or anchor[1:] in [
                re.sub(r"[^\w-]", "", one.lower().replace(" ", "-")) for one in headings
            ]


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_a_page_links_to_files_that_exist(page: Path) -> None:
    for target, _ in hooks.LINK.findall(hooks.FENCE.sub("", page.read_text())):
        assert (page.parent / target).exists(), target


def test_the_reference_has_every_config_key() -> None:
    page = hooks.reference_of_config()
    config = FlatConfig.model_validate({**DIGITS, "pruner": {"name": "halving"}, "engine": {"name": "local"}})
    expected = {*keys(config.model_dump(mode="json", by_alias=True, exclude={"dataset": {"parts"}}))}
    expected |= {f"engine.{key}" for key in ENGINE_KEYS} | {f"pruner.{key}" for key in PRUNER_KEYS}
    for file in (ROOT / "conf").rglob("*.yaml"):
        group = file.parent.name
        if group in ("job_logging", "help"):
            continue  # of Hydra's own groups
        is_global = group == "conf" or "@package _global_" in file.read_text()
        of_file = keys(OmegaConf.to_container(OmegaConf.load(file)), "" if is_global else f"{group}.")
        expected |= {key for key in of_file if key.partition(".")[0] not in ("defaults", "hydra")}
        assert group == "conf" or f"\n### {group}={file.stem}\n" in page
    assert len(expected) > 100
    assert not [key for key in sorted(expected) if f"| `{key}` |" not in page and f"\n## {key}\n" not in page]
    assert "| `optimizer.lr` | `0.001,0.003,0.01,0.03,0.1,0.3,1.0` | number above 0 | swept |" in page
    assert "| `epochs` | `5` | whole number from 1 | passes over the training data |" in page
    assert "| `pruner.bound` | `???` | number or `null` | of the objective, such as 0.5 |" in page


def test_the_reference_has_every_command_with_every_option() -> None:
    page = hooks.reference_of_commands()
    for name in main.commands:
        part = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        options = set(re.findall(r"--[a-z][\w-]*", CliRunner().invoke(main, [name, "--help"]).output))
        assert {"--help"} <= options
        assert not [option for option in options if option not in part]


def test_the_site_links_to_pages_of_its_own_or_to_nothing() -> None:
    text = "[a](../../README.md#recipes) [b](../states.md) [c](../../train.py) [d](nothing.md) [e](https://e.org/a.md)"
    expected = "[a](../overview.md#recipes) [b](../states.md) c [d](nothing.md) [e](https://e.org/a.md)"
    assert hooks.site_links(text, "docs/how-to/page.md", "how-to/page.md") == expected
    assert hooks.site_links("```\n[a](b.md)\n```", "README.md", "overview.md") == "```\n[a](b.md)\n```"


def test_a_state_diagram_becomes_a_table() -> None:
    states = (DOCS / "states.md").read_text()
    page = hooks.state_tables(states)
    assert "```mermaid" in states
    assert "```mermaid" not in page
    assert "| CLAIMED | SETTLED | end or note_delivered, when the journal holds a settled outcome |" in page
    assert page.count("\n| *begin or end* |") == states.count("    [*] -->")


@pytest.mark.parametrize(
    ("part", "is_loaded"),
    [
        ('<script src="https://unpkg.com/mermaid"></script>', True),
        ('<link rel="stylesheet" href="//fonts.googleapis.com/css">', True),
        ('<link href="https://fonts.googleapis.com/css" rel="stylesheet">', True),
        ('<link href="https://example.org/page.html" rel="canonical">', False),
        ('<a href="https://example.org">', False),
        ('<script src="assets/bundle.js"></script>', False),
    ],
)
def test_a_page_that_loads_from_the_network_is_noticed(part: str, is_loaded: bool) -> None:
    assert bool(hooks.LOADED.search(part)) == is_loaded
    assert SITE["theme"]["font"] is False
