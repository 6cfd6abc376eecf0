"""Every colour of a report and its plots, in light and in dark mode. Tests simulate how colour-blind readers see them.

matplotlib draws with the colours of light mode. Style rules replace them in dark mode, so one drawing serves both, and
a program that knows no such rules shows light mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Colour(NamedTuple):
    """A colour as #rrggbb, in light and in dark mode."""

    light: str
    dark: str


SERIES = {
    "ink": Colour("#222222", "#E6E6E6"),
    "blue": Colour("#0072B2", "#56B4E9"),
    "orange": Colour("#D55E00", "#F08A3C"),
    "green": Colour("#225522", "#BBFFAA"),
    "grey": Colour("#8C8C8C", "#989898"),
}
"""Colours that mean something in a plot. Blue and orange are from Okabe and Ito's palette; its green and grey look the
same to readers with deuteranopia, so this green is darker."""
PAGE = SERIES | {
    "paper": Colour("#FFFFFF", "#15181C"),
    "soft": Colour("#595959", "#A9B0B8"),
    "line": Colour("#D9D9D9", "#3A4048"),
    "rule": Colour("#888888", "#77808A"),
    "wash": Colour("#F6F7F8", "#1E2329"),
    "alert": Colour("#E69F00", "#E69F00"),
    "alert-wash": Colour("#FDF6E7", "#33290F"),
    "best-wash": Colour("#FDEEE3", "#46290F"),
    "tied-wash": Colour("#EEF6FB", "#10293A"),
    "lit-wash": Colour("#CFE4F3", "#1D5275"),
    "tip": Colour("#222222", "#E6E6E6"),
    "tip-ink": Colour("#FFFFFF", "#15181C"),
}
"""Colours of the page, by the names of their variables in the style sheet."""
AXES = {
    "edge": Colour("#666666", "#9AA1A9"),
    "grid": Colour("#E4E4E4", "#2B3036"),
    "tick": Colour("#444444", "#C3C9CF"),
    "faint": Colour("#6F6F6F", "#8F979F"),
    "on-clear": Colour("#010101", "#FFFFFF"),
}
"""Colours of what surrounds the data in a plot, and of text on a cell through which the paper is seen."""
ON_DARK = "#FFFFFE"
"""Text on a dark cell whose colour is the same in both modes. The paper's white would become dark in dark mode."""
ON_BRIGHT = "#000000"
"""Text on a bright cell whose colour is the same in both modes."""
CELL = "#08519C"
"""Colour of a cell that is more or less transparent."""
OPAQUE = 0.77
"""The opacity from which a cell of that colour is dark in light mode."""
BRIGHTER = 1.3
"""The factor on the brightness of such cells in dark mode."""
COLOURS = "cividis"
"""Colour map of values; it looks the same to colour-blind readers, and is readable in grey."""
LIGHT_PART = (0.0, 0.62)
"""The part of the colour map that is dark enough for lines in light mode."""
DARK_PART = (0.4, 1.0)
"""The part of the colour map that is bright enough for lines in dark mode."""
LINES = (
    Colour("#00224e", "#666970"),
    Colour("#002a5f", "#6f7073"),
    Colour("#003170", "#777777"),
    Colour("#18376f", "#817f78"),
    Colour("#2a3f6d", "#8b8778"),
    Colour("#36466c", "#948e77"),
    Colour("#424e6c", "#9e9676"),
    Colour("#4d556c", "#a99f73"),
    Colour("#565c6d", "#b4a76f"),
    Colour("#60646f", "#beaf6b"),
    Colour("#696b71", "#c8b866"),
    Colour("#727374", "#d4c15f"),
    Colour("#7b7a78", "#dfca57"),
    Colour("#858279", "#ead34c"),
    Colour("#908b78", "#f6dd3f"),
    Colour("#999277", "#fee838"),
)
"""Colours of lines that show values, from the lowest value to the highest: steps through these parts of the colour map,
written out because it takes a third of a second to import matplotlib."""
CELLS = "cells"
"""The gid of an image of such cells. Other images, such as photographs, stay as they are in dark mode."""


def on_cell(colour: Sequence[float]) -> str:
    """Returns the colour of text that has more contrast on a cell.

    Args:
        colour: red, green and blue of the cell, each from 0 to 1.
    """
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in colour[:3]]
    luminance = sum(part * weight for part, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))
    return ON_DARK if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else ON_BRIGHT


def page_style() -> str:
    """Returns the style rules of a page: its variables in both modes, and its plots in dark mode. Paper is light."""
    light, dark = (
        " ".join(f"--{name}: {colour[mode]};" for name, colour in PAGE.items()) for mode in range(len(Colour._fields))
    )
    return (
        f":root {{ color-scheme: light; {light} }}\n"
        f"@media screen {{ :root {{ color-scheme: light dark; }} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{\n:root {{ {dark} }}\n{_dark_rules()}\n}}\n"
    )


def drawing_style() -> str:
    """Returns the style rules of an SVG file: it follows the mode of the page or program that shows it."""
    return (
        "@media screen { svg { color-scheme: light dark; } }\n"
        f"@media screen and (prefers-color-scheme: dark) {{\n{_dark_rules()}\n}}\n"
    )


def _dark_rules() -> str:
    """Returns the rules that replace the colours of light mode in what matplotlib has drawn.

    No selector names the plot around: it is not there for a mark that a drawing uses many times.
    """
    both = {one.light: one.dark for one in (PAGE["paper"], *SERIES.values(), *AXES.values())}
    pairs = [(what, *pair) for what in ("fill", "stroke") for pair in both.items()]
    pairs += [("stroke", *pair) for pair in LINES]
    rules = [f'[style*="{what}: {light.lower()}"] {{ {what}: {dark} !important; }}' for what, light, dark in pairs]
    return "\n".join([*rules, f'image[id$="{CELLS}"] {{ filter: brightness({BRIGHTER}); }}'])
