"""The colours of reports and plots can be read in light and dark mode, and told apart by colour-blind readers."""

import itertools
import re

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb

from sweepstack.results.reporting.plots.palette import (
    AXES,
    BRIGHTER,
    CELL,
    COLOURS,
    DARK_PART,
    LIGHT_PART,
    LINES,
    ON_DARK,
    OPAQUE,
    PAGE,
    SERIES,
    Colour,
    on_cell,
    page_style,
)
from sweepstack.results.reporting.plots.style import figure, styled, svg, svg_file
from sweepstack.results.reporting.plots.tuning import tuning_curves
from sweepstack.results.reporting.report import TEMPLATES
from sweepstack.results.tuning.curves import curve_of_points

from .colour_vision import DEFICIENCIES, ciede2000, contrast, distance, lab
from .trials import ACCURACY

TEXT = 4.5
"""The least contrast of text; WCAG 2, level AA."""
GRAPHICS = 3.0
"""The least contrast of what is drawn; WCAG 2, level AA."""
APART = 14.0
"""The least distance of two colours that mean something, by CIEDE2000; 1 is just to be noticed side by side."""
WASHES_APART = 3.0
"""The least distance of the backgrounds of rows, which are large, touch each other, and have words beside them."""
MODES = pytest.mark.parametrize("mode", Colour._fields)


def test_the_distance_is_that_of_the_paper_that_defines_it() -> None:
    for one, other, expected in [  # from Sharma, Wu and Dalal (2005)
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.49, -0.001), (50, -2.49, 0.0009), 7.1792),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ]:
        assert ciede2000(one, other) == pytest.approx(expected, abs=1e-4)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    for kind in DEFICIENCIES:
        assert lab("#ffffff", kind) == pytest.approx([100, 0, 0], abs=0.1)  # no deficiency tints grey
    assert distance("#00ff00", "#ffa500", "deuteranopia") < distance("#00ff00", "#ffa500", "none") / 2


@MODES
@pytest.mark.parametrize("kind", DEFICIENCIES)
def test_colours_that_mean_something_are_told_apart(mode: str, kind: str) -> None:
    colours = {name: getattr(one, mode) for name, one in SERIES.items()}
    found = {pair: distance(colours[pair[0]], colours[pair[1]], kind) for pair in itertools.combinations(colours, 2)}
    assert {pair: one for pair, one in found.items() if one < APART} == {}
    washes = [getattr(PAGE[name], mode) for name in ("paper", "best-wash", "tied-wash", "lit-wash")]
    assert min(distance(*pair, kind) for pair in itertools.combinations(washes, 2)) > WASHES_APART


def test_lines_have_the_colours_of_cells_that_can_be_read_in_their_mode() -> None:
    for number, (low, high) in enumerate((LIGHT_PART, DARK_PART)):
        shades = [to_hex(colormaps[COLOURS](at)) for at in np.linspace(low, high, len(LINES))]
        assert [colour[number] for colour in LINES] == shades


@pytest.mark.parametrize("kind", DEFICIENCIES)
def test_better_values_look_brighter_to_everybody(kind: str) -> None:
    ramps = [
        [to_hex(colormaps[COLOURS](step / 10)) for step in range(11)],
        *([getattr(one, mode) for one in LINES] for mode in Colour._fields),
    ]
    for ramp in ramps:
        assert np.diff([lab(colour, kind)[0] for colour in ramp]).min() > 0
        assert distance(ramp[0], ramp[-1], kind) > APART


@MODES
def test_text_has_contrast_to_what_lies_behind_it(mode: str) -> None:
    """As the page's own style sheet has it."""
    light, dark = re.findall(r":root \{[^}]*(--ink:[^}]*)\}", page_style())
    page = dict(re.findall(r"--([\w-]+): (#\w{6})", light if mode == "light" else dark))
    assert page == {name: getattr(one, mode) for name, one in PAGE.items()}
    pairs = [("ink", behind) for behind in ("paper", "wash", "alert-wash", "best-wash", "tied-wash", "lit-wash")]
    pairs += [("soft", "paper"), ("blue", "paper"), ("tip-ink", "tip")]
    found = {pair: contrast(page[pair[0]], page[pair[1]]) for pair in pairs}
    found |= {("tick", "paper"): contrast(getattr(AXES["tick"], mode), page["paper"])}
    found |= {("faint", "paper"): contrast(getattr(AXES["faint"], mode), page["paper"])}
    assert {pair: one for pair, one in found.items() if one < TEXT} == {}
    drawn = [*SERIES.values(), *LINES, AXES["edge"]]
    assert min(contrast(getattr(one, mode), page["paper"]) for one in drawn) >= GRAPHICS


def test_text_on_cells_has_contrast_in_both_modes() -> None:
    for share in np.linspace(0, 1, 101):
        cell = colormaps[COLOURS](share)
        assert contrast(on_cell(cell), to_hex(cell)) >= TEXT
        light = share * np.array(to_rgb(CELL)) + (1 - share)
        brighter = np.minimum(BRIGHTER * np.array(to_rgb(CELL)), 1)
        dark = share * brighter + (1 - share) * np.array(to_rgb(PAGE["paper"].dark))
        ink = Colour(ON_DARK, ON_DARK) if share > OPAQUE else AXES["on-clear"]
        assert contrast(ink.light, to_hex(light)) >= TEXT
        assert contrast(ink.dark, to_hex(dark)) >= TEXT


def test_nothing_else_sets_a_colour() -> None:
    """Every colour is in the palette; none of another mode, nor of a heat map, is taken for one of light mode."""
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b(?=[^{}]*\})", (TEMPLATES / "report.css").read_text(encoding="utf-8")) == []
    outside = {
        f"{path.name}: {found}"
        for path in TEMPLATES.rglob("*.py")
        if path.name != "palette.py"
        for found in re.findall(r'"(#[0-9a-fA-F]{6}|white|black|C\d)"', path.read_text(encoding="utf-8"))
    }
    assert outside == set()
    ours = [one.light.lower() for one in (PAGE["paper"], *SERIES.values(), *AXES.values())]
    assert len({*ours}) == len(ours)
    assert {*ours}.isdisjoint(to_hex(colormaps[COLOURS](step)) for step in range(256))


def test_two_curves_are_told_apart_without_their_colours() -> None:
    curves = {str(n): curve_of_points(np.arange(n), larger_is_better=True) for n in (3, 5)}
    lines = tuning_curves(curves, ACCURACY).axes[0].lines
    assert len({line.get_linestyle() for line in lines}) == len({line.get_marker() for line in lines}) == 2


def test_every_colour_in_a_drawing_has_one_for_dark_mode_also_in_a_file_of_its_own() -> None:
    with styled():
        drawn = figure()
        axes = drawn.subplots()
        for name in SERIES:
            axes.errorbar([1, 2], [1, 2], [1, 1], color=SERIES[name].light, marker="s", capsize=3, label=name)
        drawn.legend()
    element = svg(drawn, "one")
    file = svg_file(element).decode()
    for text, rules in ((element, page_style()), (file, file[: file.index("</style>")])):
        used = {*re.findall(r"((?:fill|stroke): #\w{6})", text.rpartition("</style>")[2])}
        assert len(used) > 2 * len(SERIES)
        assert {one for one in used if f'[style*="{one}"]' not in rules} == set()
        assert "@media screen and (prefers-color-scheme: dark)" in rules
