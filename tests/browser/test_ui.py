"""MLflow's UI, as a new user finds it behind the printed link: each test counts the clicks."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from sweepstack.tracking.runs_as_rows import Row

from .conftest import Swept

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

SWEPT = ["lr", "epochs", "batch_size"]
NUMBERS = """() => [
  ...document.querySelector("[data-testid=draggable-chart-cards-grid]").querySelectorAll(".js-plotly-plot")
].map((plot) => [
  plot.layout.xaxis.title?.text, plot.layout.yaxis.title?.text,
  plot.data.filter((trace) => trace.mode !== "lines").map((trace) => [trace.name, trace.x, trace.y])
])"""
CELLS = """() => {
  const rows = {};
  for (const cell of document.querySelectorAll("[role=row][row-id] [col-id]")) {
    const run = cell.closest("[row-id]").getAttribute("row-id");
    (rows[run] ??= {})[cell.getAttribute("col-id")] = cell.innerText.trim();
  }
  return rows;
}"""
PLACES = """() => [...document.querySelectorAll("[role=row][row-id]")].map((row) =>
  [Number(row.getAttribute("row-index")), row.getAttribute("row-id")])"""
COMPARED = """() => Object.fromEntries([...document.querySelectorAll("tr")].map((row) =>
  [row.cells[0].innerText.trim(), [...row.cells].slice(1).map((cell) => cell.innerText.trim())]))"""
METRICS = """() => [...document.querySelectorAll(".ReactVirtualized__Grid__innerScrollContainer > div")].map((cell) =>
  [parseInt(cell.style.top), parseInt(cell.style.left), cell.innerText.trim()])"""


@pytest.fixture(scope="module")
def context(browser: "Browser") -> "Iterator[BrowserContext]":
    """Keeps MLflow's 4 MB of JavaScript, which a page would load for a second or two."""
    context = browser.new_context(viewport={"width": 2600, "height": 1400})
    yield context
    context.close()


@pytest.fixture
def page(context: "BrowserContext", ui: str) -> "Iterator[Page]":
    """A new user's: nothing is remembered from earlier visits."""
    page = context.new_page()
    page.goto(ui)
    page.wait_for_selector(".js-plotly-plot")
    yield page
    page.evaluate("localStorage.clear()")
    page.close()


def rows(swept: Swept) -> list[Row]:
    return swept.terminal.store.rows(swept.sweep)


def run_names(page: "Page") -> set[str]:
    page.wait_for_selector("[role=row][row-id]")
    return set(page.locator("[role=row][row-id] a").all_inner_texts())


def test_a_sweep_ends_with_the_link_that_sweepstack_ui_prints(swept: Swept, ui: str) -> None:
    assert swept.link.partition("/#/")[2] == ui.partition("/#/")[2]


def test_the_link_shows_all_trials_of_the_sweep_and_no_others_in_charts_and_in_a_table(
    swept: Swept, page: "Page"
) -> None:
    """No click for the charts, one for the table."""
    trials = rows(swept)
    assert run_names(page) == {row.name for row in trials}
    assert page.get_by_text("8 matching runs").is_visible()
    assert page.locator(".parcoords text.label").all_text_contents() == [*SWEPT, "val/accuracy"]
    charts = {(x, y): traces for x, y, traces in page.evaluate(NUMBERS)}
    curves = charts["Step", None]
    assert {name: (x[-1], y[-1]) for name, x, y in curves} == {
        row.name: (int(row.params["epochs"]), row.metrics["val/accuracy"]) for row in trials
    }
    assert points(charts["val/accuracy", "test/accuracy"]) == sorted(
        (row.metrics["val/accuracy"], row.metrics["test/accuracy"]) for row in trials
    )
    for key in SWEPT:
        assert points(charts[key, "val/accuracy"]) == sorted(
            (float(row.params[key]), row.metrics["val/accuracy"]) for row in trials
        )

    page.locator("label", has=page.locator("input[value=TABLE]")).click()
    page.wait_for_selector("[role=row][row-id] [col-id='metrics.`test/accuracy`']")
    table = page.evaluate(CELLS)
    columns = [f"params.`{key}`" for key in SWEPT] + ["metrics.`val/accuracy`", "metrics.`test/accuracy`"]
    assert {run: [float(cells[column]) for column in columns] for run, cells in table.items()} == {
        row.run_id: [
            *(float(row.params[key]) for key in SWEPT),
            row.metrics["val/accuracy"],
            row.metrics["test/accuracy"],
        ]
        for row in trials
    }
    places = page.evaluate(PLACES)
    accuracies = [float(table[run]["metrics.`val/accuracy`"]) for _, run in sorted(places)]
    assert accuracies == sorted(accuracies, reverse=True)


def points(traces: list[Any]) -> list[tuple[float, float]]:
    return sorted((float(x), y) for _, xs, ys in traces for x, y in zip(xs, ys, strict=True))


def test_the_page_that_compares_runs_shows_the_figures_of_each(swept: Swept, page: "Page") -> None:
    """Two clicks; the page shows three digits."""
    page.get_by_label("Select all runs").click()
    page.get_by_role("button", name="Compare").click()
    page.wait_for_selector("text=Comparing 8 Runs from 1 Experiment")
    page.wait_for_selector(".ReactVirtualized__Grid__innerScrollContainer > div")
    table = page.evaluate(COMPARED)
    name, *accuracies = [text for top, _, text in page.evaluate(METRICS) if top == 0]
    assert name == "test/accuracy"
    found = {
        run: [*(float(table[key][at]) for key in SWEPT), float(accuracies[at])]
        for at, run in enumerate(table["Run ID:"])
    }
    assert found == {
        row.run_id: [*(float(row.params[key]) for key in SWEPT), pytest.approx(row.metrics["test/accuracy"], abs=5e-4)]
        for row in rows(swept)
    }


def test_sweeps_are_listed_by_name_and_another_one_is_opened_from_there(swept: Swept, page: "Page") -> None:
    """Two clicks."""
    page.get_by_test_id("saved-views-trigger").click()
    assert page.get_by_role("menuitem", name=swept.sweep).is_visible()
    page.get_by_role("menuitem", name=swept.earlier).click()
    page.wait_for_selector("text=2 matching runs")
    assert run_names(page) == {row.name for row in swept.terminal.store.rows(swept.earlier)}
