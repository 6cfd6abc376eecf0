"""The report, opened from disk by somebody who has nothing else: no server, no network."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from sweepstack.cli.main import main
from sweepstack.tracking.runs_as_rows import Row

from ..terminal import Terminal, new_store

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TEXTS = "rows => rows.map(row => [...row.cells].map(cell => cell.textContent.trim()))"
DRAWN_AT = "([x, y]) => document.elementFromPoint(x, y)?.closest('svg [data-trials]')?.dataset.trials"


@pytest.fixture(scope="module")
def terminal(browser: "Browser", tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Terminal:
    """With a report of four trials. `browser` comes first: where there is none, nothing is trained."""
    terminal = Terminal(tmp_path_factory.mktemp("report"))
    new_store(terminal.folder, empty_database)
    swept = terminal.type("train.py", "-m", "dataset=digits", "optimizer.lr=0.01,0.1", "epochs=1,3")
    assert swept.returncode == 0, swept.stderr
    made = CliRunner().invoke(
        main, ["report", "-o", str(report_of(terminal))], env={"MLFLOW_TRACKING_URI": terminal.uri}
    )
    assert made.exit_code == 0, made.output
    return terminal


def report_of(terminal: Terminal) -> Path:
    return terminal.folder / "report.html"


@pytest.fixture
def page(browser: "Browser", terminal: Terminal) -> "Iterator[Page]":
    """Nothing is asked of anybody, and nothing complains, whatever a test does with it."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(report_of(terminal).as_uri())
    yield page
    assert asked == [report_of(terminal).as_uri()]
    assert complaints == []
    page.close()


def trials(terminal: Terminal) -> list[Row]:
    return terminal.store.rows()


def column(page: "Page", name: str) -> list[str]:
    heads = page.locator("#trials thead th").all_inner_texts()
    return [row[heads.index(name)] for row in page.locator("#trials tbody tr").evaluate_all(TEXTS)]


def test_it_shows_the_figures_of_the_store(terminal: Terminal, page: "Page") -> None:
    assert sorted(zip(column(page, "validation accuracy"), column(page, "test accuracy"), strict=True)) == sorted(
        (f"{row.metrics['val/accuracy']:.4f}", f"{row.metrics['test/accuracy']:.4f}") for row in trials(terminal)
    )
    assert page.locator("figure svg").count() > 2


def test_a_click_on_a_head_sorts_by_it_and_a_second_one_the_other_way_round(page: "Page") -> None:
    head = page.locator("#trials thead button", has_text="test accuracy")
    orders = []
    for _ in range(2):
        head.click()
        orders.append([float(text) for text in column(page, "test accuracy")])
    assert orders == [sorted(orders[0]), sorted(orders[0], reverse=True)]
    assert len(set(orders[0])) > 2


def test_what_is_drawn_of_a_trial_tells_its_figures_when_it_is_pointed_at(terminal: Terminal, page: "Page") -> None:
    tip = page.locator("#tip")
    assert tip.inner_text() == ""
    told: set[str] = set()
    for mark in page.locator("figure svg [data-trials]").all():
        mark.scroll_into_view_if_needed()
        box = mark.bounding_box()
        assert box is not None
        middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        trial = page.evaluate(DRAWN_AT, middle)  # another one may lie above it, or a curve go round its middle
        if trial in told or not str(trial).isdecimal():
            continue
        told.add(trial)
        page.mouse.move(*middle)
        row = page.locator(f"#trials tbody tr[data-trials='{trial}']")
        assert all(text in tip.inner_text() for text in row.evaluate_all(TEXTS)[0])
        assert "lit" in str(row.get_attribute("class"))
    assert len(told) == len(trials(terminal))
    page.mouse.move(0, 0)
    assert tip.inner_text() == ""
