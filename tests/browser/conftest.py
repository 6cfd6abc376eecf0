"""What the tests in a browser share: a headless Chromium, a store with two real sweeps, and MLflow's UI for it."""

import os
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from ..terminal import Terminal, new_store

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("browser")


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    api = pytest.importorskip("playwright.sync_api", reason="no Playwright found: pip install playwright")
    with api.sync_playwright() as playwright:
        own = playwright.chromium.executable_path  # `playwright install chromium` puts it there
        program = next(filter(None, map(shutil.which, (own, *NAMES))), None)
        if program is None:
            pytest.skip("no Chromium found: apt-get install chromium")
        sandbox = os.geteuid() != 0  # which Chromium does not have for root
        browser = playwright.chromium.launch(executable_path=program, chromium_sandbox=sandbox)
        yield browser
        browser.close()


class Swept(NamedTuple):
    """Two sweeps in one store."""

    terminal: Terminal
    sweep: str
    link: str
    """As the later sweep ended with."""
    earlier: str


@pytest.fixture(scope="session")
def swept(browser: "Browser", tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Swept:
    """`browser` comes first: where there is none, nothing is trained."""
    terminal = Terminal(tmp_path_factory.mktemp("browser"))
    new_store(terminal.folder, empty_database)
    links = []
    for name, words in {
        "earlier": ["optimizer.lr=0.2,0.3", "epochs=2"],
        "grid <b>é": ["optimizer.lr=0.01,0.1", "batch_size=50,100", "epochs=2,3"],
    }.items():
        done = terminal.type("train.py", "-m", "dataset=digits", *words, f"tracking.sweep='{name}'")
        assert done.returncode == 0, done.stderr
        links.append(re.findall(r"http://\S+", done.stdout)[-1])
    return Swept(terminal, "grid <b>é", links[-1], "earlier")


@pytest.fixture(scope="session")
def ui(swept: Swept) -> Iterator[str]:
    """The link that `sweepstack ui` prints, while it serves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = swept.terminal.start("sweepstack", "ui", "--port", str(port), before=os.setsid)
    try:
        assert process.stdout is not None
        yield next(line.split()[-1] for line in process.stdout if line.startswith("Browse:"))
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # it would wait for the browser's connections
        process.communicate()
