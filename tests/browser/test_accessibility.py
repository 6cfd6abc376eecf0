"""The report and its plots for readers in the dark, on a phone, without a mouse, or who hear them."""

import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sweepstack.cli.main import main
from sweepstack.results.reporting.plots.palette import PAGE, SERIES, Colour

from ..results.colour_vision import contrast
from ..terminal import Terminal, new_store

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PHONE = 390
"""The width of a phone in pixels."""
MODES = pytest.mark.parametrize("mode", Colour._fields)
TEXTS_AND_COLOURS = """() => {
  const found = [];
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const home = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || home.closest("svg")) continue;
    let behind = home;
    while (behind && getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
    const colours = [getComputedStyle(home).color, getComputedStyle(behind).backgroundColor];
    found.push([walker.currentNode.data.trim(), ...colours]);
  }
  return found;
}"""
FOCUS = """() => {
  const at = document.activeElement;
  const style = getComputedStyle(at);
  const seen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  const name = at.getAttribute("aria-label") || at.textContent.trim();
  return [at.tagName, name, seen, at.matches("main *"), at.matches("[data-walk]")];
}"""


@pytest.fixture(scope="module")
def folder(browser: "Browser", tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """With a report of twelve trials and a tuning curve. Without a browser nothing is trained."""
    terminal = Terminal(tmp_path_factory.mktemp("accessibility"))
    new_store(terminal.folder, empty_database)
    words = ["optimizer.lr=0.003,0.03,0.3", "batch_size=50,100", "epochs=2", "seed=0,1"]
    swept = terminal.type("train.py", "-m", "dataset=digits", *words)
    assert swept.returncode == 0, swept.stderr
    files = {"report.html": ["report"], "tuning.svg": ["compare", "latest"], "tuning.html": ["compare", "latest"]}
    for name, typed in files.items():
        made = CliRunner().invoke(
            main, [*typed, "-o", str(terminal.folder / name)], env={"MLFLOW_TRACKING_URI": terminal.uri}
        )
        assert made.exit_code == 0, made.output
    return terminal.folder


@pytest.fixture
def page(browser: "Browser", folder: Path) -> "Iterator[Page]":
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    page.goto((folder / "report.html").as_uri())
    yield page
    page.close()


def hexed(colour: str) -> str:
    """Converts a colour as a browser writes it."""
    return "#{:02X}{:02X}{:02X}".format(*map(int, re.findall(r"\d+", colour)[:3]))


def pressed(page: "Page", key: str, times: int = 1) -> str:
    """Returns what the tooltip says after some presses of a key."""
    for _ in range(times):
        page.keyboard.press(key)
    return page.locator("#tip").inner_text()


@MODES
def test_all_text_of_the_page_can_be_read(page: "Page", mode: str) -> None:
    page.emulate_media(color_scheme=mode)  # type: ignore[arg-type]
    for fold in page.locator("details").all():
        fold.evaluate("fold => fold.open = true")
    found = page.evaluate(TEXTS_AND_COLOURS)
    assert len(found) > 100
    assert {behind for _, _, behind in found} >= {page.evaluate("getComputedStyle(document.body).backgroundColor")}
    assert [text for text, ink, behind in found if contrast(hexed(ink), hexed(behind)) < 4.5] == []
    assert hexed(page.evaluate("getComputedStyle(document.body).backgroundColor")) == getattr(PAGE["paper"], mode)


@MODES
def test_the_page_of_a_comparison_follows_the_mode(page: "Page", folder: Path, mode: str) -> None:
    page.goto((folder / "tuning.html").as_uri())
    page.emulate_media(color_scheme=mode)  # type: ignore[arg-type]
    assert hexed(page.evaluate("getComputedStyle(document.body).backgroundColor")) == getattr(PAGE["paper"], mode)
    texts = page.evaluate(TEXTS_AND_COLOURS)
    assert len(texts) > 3
    assert [text for text, ink, behind in texts if contrast(hexed(ink), hexed(behind)) < 4.5] == []


@MODES
def test_plots_follow_the_mode_and_paper_stays_light(page: "Page", mode: str) -> None:
    drawn = "what => [...document.querySelectorAll('.plot path')].map(path => getComputedStyle(path)[what])"
    for media, expected in (("screen", mode), ("print", "light")):
        page.emulate_media(color_scheme=mode, media=media)  # type: ignore[arg-type]
        strokes = {hexed(one) for one in page.evaluate(drawn, "stroke") if one != "none"}
        fills = {hexed(one) for one in page.evaluate(drawn, "fill") if one != "none"}
        assert getattr(PAGE["paper"], expected) in fills
        assert {getattr(SERIES[name], expected) for name in ("blue", "orange", "green", "grey")} <= strokes | fills
        other = "dark" if expected == "light" else "light"
        assert {getattr(SERIES[name], other) for name in ("blue", "orange", "green", "ink")}.isdisjoint(strokes | fills)
        assert hexed(page.evaluate("getComputedStyle(document.body).backgroundColor")) == getattr(
            PAGE["paper"], expected
        )


@MODES
def test_a_mark_that_is_drawn_many_times_follows_the_mode(browser: "Browser", folder: Path, mode: str) -> None:
    """In pixels, because the copies of a mark have no elements of their own."""
    page = browser.new_page(viewport={"width": 1300, "height": 900}, color_scheme=mode)  # type: ignore[arg-type]
    page.goto((folder / "report.html").as_uri())
    ring = page.locator(".plot .mark use").last
    ring.scroll_into_view_if_needed()
    assert getattr(SERIES["orange"], mode) in colours_of(page, page.locator(".plot").first.screenshot())
    page.close()


@MODES
def test_a_plot_of_its_own_can_be_read_on_a_page_of_any_colour(browser: "Browser", folder: Path, mode: str) -> None:
    for around in Colour._fields:
        page = browser.new_page(color_scheme=mode)  # type: ignore[arg-type]
        (folder / "around.html").write_text(
            f"<!doctype html><body style='background: {getattr(PAGE['paper'], around)}'><img src='tuning.svg' alt='x'>"
        )
        page.goto((folder / "around.html").as_uri())
        seen = colours_of(page, page.locator("img").screenshot())
        assert {getattr(PAGE["paper"], mode), getattr(SERIES["blue"], mode)} <= seen  # its own background
        page.close()


def colours_of(page: "Page", picture: bytes) -> set[str]:
    """Returns the colours of a picture's pixels."""
    pixels = np.array(Image.open(io.BytesIO(picture)).convert("RGB")).reshape(-1, 3)
    return {"#{:02X}{:02X}{:02X}".format(*one) for one in np.unique(pixels, axis=0)}


@MODES
def test_a_phone_scrolls_in_one_direction(browser: "Browser", folder: Path, mode: str) -> None:
    page = browser.new_page(viewport={"width": PHONE, "height": 844}, color_scheme=mode)  # type: ignore[arg-type]
    page.goto((folder / "report.html").as_uri())
    for fold in page.locator("summary").all():
        fold.click()
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE
    boxes = page.evaluate(
        "[...document.querySelectorAll('.plot, .scroll')].map(box => box.getBoundingClientRect().right)"
    )
    assert len(boxes) > 5
    assert max(boxes) <= PHONE
    page.close()


def test_tab_reaches_all_that_a_mouse_can_use(page: "Page") -> None:
    stops = []
    while True:
        page.keyboard.press("Tab")
        tag, name, seen, inside, _ = page.evaluate(FOCUS)
        if not inside:
            break
        assert seen, name
        assert name
        stops.append((tag, name))
        assert len(stops) < 200
    assert [tag for tag, _ in stops].count("SUMMARY") == page.locator("summary").count()
    shown = "xs => xs.filter(x => x.checkVisibility()).length"
    assert [tag for tag, _ in stops].count("BUTTON") == page.locator("thead button").evaluate_all(shown)
    assert [tag for tag, _ in stops].count("DIV") == page.locator(".plot, .scroll").evaluate_all(shown)
    outside = "xs => xs.filter(x => !x.closest('[data-walk]')).length"
    assert page.locator("[data-trials]").evaluate_all(outside) == 0


def test_keys_go_through_the_marks_of_a_plot(page: "Page") -> None:
    plot = page.locator(".plot[data-walk]").first
    plot.focus()
    told = [pressed(page, key) for key in ("Enter", "ArrowRight", " ", "ArrowDown")]
    assert all("validation accuracy: " in one for one in told)
    assert len({*told}) > 1
    assert pressed(page, "ArrowLeft", 3) == told[0]
    assert plot.locator(".lit").count() >= 1
    faint = "marks => marks.map(mark => getComputedStyle(mark).opacity)"
    assert {*plot.locator(".mark:not(.lit)").evaluate_all(faint)} == {"0.35"}
    cells = page.locator(".plot", has_text="pairs of values").locator(".mark")
    assert {*cells.evaluate_all(faint)} == {"1"}  # their text could not be read
    assert page.locator("#trials tr.lit").count() == 1
    assert pressed(page, "Escape") == ""
    assert page.locator(".lit").count() == 0
    count = plot.locator("[data-trials]").count()
    assert {pressed(page, "ArrowRight") for _ in range(count)} >= {*told}  # all are reached
    page.keyboard.press("Tab")
    assert page.locator("#tip").inner_text() == ""


def test_keys_sort_unfold_and_scroll_tables(page: "Page") -> None:
    head = page.locator("#trials thead button", has_text="test accuracy")
    orders = []
    head.focus()
    for key, order in (("Enter", "ascending"), (" ", "descending")):
        page.keyboard.press(key)
        assert page.locator("#trials th[aria-sort]").get_attribute("aria-sort") == order
        number = page.locator("#trials thead button").all_inner_texts().index("test accuracy")
        orders.append(page.locator(f"#trials tbody td:nth-child({number + 1})").all_inner_texts())
    assert orders == [sorted(orders[0]), sorted(orders[0], reverse=True)]
    page.set_viewport_size({"width": PHONE, "height": 844})
    box = page.locator(".scroll:has(#trials)")
    box.focus()
    assert "validation accuracy" in pressed(page, "ArrowDown")
    assert page.locator("#trials tr.lit").get_attribute("data-trials") is not None
    page.keyboard.press("ArrowRight")
    page.wait_for_function("box => box.scrollLeft > 0", arg=box.element_handle())
    for fold in page.locator("summary").all():
        fold.focus()
        page.keyboard.press("Enter")
    assert page.locator("details:not([open])").count() == 0


def test_the_parts_of_the_page_have_names_and_an_order(page: "Page") -> None:
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.title()
    levels = [int(tag[1]) for tag in page.locator("h1, h2, h3, h4").evaluate_all("xs => xs.map(x => x.tagName)")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for table in page.locator("table").all():
        assert table.locator("caption").text_content()
        assert {one.get_attribute("scope") for one in table.locator("thead th").all()} == {"col"}
    assert page.locator("img:not([alt])").count() == 0
    named = page.locator("section, [role=group], [role=region], [role=application]")
    assert named.count() > 8
    for one in named.all():
        label = one.get_attribute("aria-label") or page.locator(f"#{one.get_attribute('aria-labelledby')}").inner_text()
        assert label.strip()
    assert page.locator("[role=status][aria-live=polite]").count() == 1
    ids = page.locator("[id]").evaluate_all("xs => xs.map(x => x.id)")
    assert len(ids) == len({*ids})


def test_the_best_and_the_lit_rows_are_told_by_more_than_colour(page: "Page") -> None:
    style = "(row, what) => getComputedStyle(row.cells[0])[what]"
    best, other = page.locator("#trials tr.best"), page.locator("#trials tr:not(.best) >> nth=-1")
    assert best.evaluate(style, "fontWeight") != other.evaluate(style, "fontWeight")
    assert "★" in best.evaluate("row => getComputedStyle(row.cells[row.cells.length - 1], '::after').content")
    before = other.evaluate(style, "boxShadow")
    other.hover()
    assert before == "none" != other.evaluate(style, "boxShadow")
    heads = page.locator("#settings thead button").all_inner_texts()
    marks = page.locator(f"#settings tbody td:nth-child({heads.index('mark') + 1})").all_inner_texts()
    kinds = page.locator("#settings tbody tr").evaluate_all("rows => rows.map(row => row.className)")
    words = {"best": "best", "tied": "not told apart"}
    assert [words.get(kind, mark) for kind, mark in zip(kinds, marks, strict=True)] == marks
    assert {*words} <= {*kinds}
