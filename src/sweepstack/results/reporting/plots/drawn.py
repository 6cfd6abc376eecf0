"""The plots of a report, as they are put into the page: drawn once, and kept for all that they depend on."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sweepstack.files.kept import keep, load_kept
from sweepstack.results.reporting.plots.style import png, svg, svg_file

if TYPE_CHECKING:
    from sweepstack.results.reporting.sections import ReportSection

REMS = 6.6
"""The width on the page for an inch of a figure, in rem; so the text of all figures has one size."""
DRAWN_BY = ("matplotlib", "numpy", "pandas", "scikit-learn", "optuna")
"""The libraries that plots depend on."""
CODE = Path(__file__).parents[2]
"""The folder of the code that plots depend on."""


class DrawnSection(NamedTuple):
    """A plot with its caption; only the caption if there is nothing to draw."""

    name: str
    caption: str
    title: str = ""
    width: float = 0.0
    """The width on the page in rem."""
    svg: str = ""
    """The plot as an element of the page, if the marks of trials are drawn one by one."""
    png: str = ""
    """Else the plot as a PNG file, in base64."""

    @property
    def file(self) -> tuple[str, bytes] | None:
        """The name and the content of a file with the plot; None if there is none."""
        if self.svg:
            return f"{self.name}.svg", svg_file(self.svg)
        return (f"{self.name}.png", base64.b64decode(self.png)) if self.png else None


def draw_sections(
    folder: Path, inputs: Iterable[bytes], make: Callable[[], Iterable[ReportSection]], interactive: bool
) -> list[DrawnSection]:
    """Draws sections, or takes them from the last report if all is as it was then.

    Args:
        folder: the folder of the journal, where plots are kept.
        inputs: all that the sections depend on, but for the code. Without any, nothing is kept.
        make: makes the sections.
        interactive: whether the marks of trials are drawn one by one.
    """
    key = ["plots", str(interactive), _digest_of_code(), *(hashlib.sha256(one).hexdigest() for one in inputs)]
    can_be_kept = len(key) > 3
    kept = load_kept(folder, *key) if can_be_kept else None
    if kept is not None:
        return [DrawnSection(*one) for one in json.loads(kept["sections"].tobytes())]
    drawn = [_draw(section, interactive) for section in make()]
    if can_be_kept and any(section.title for section in drawn):
        keep(folder, *key, sections=np.frombuffer(json.dumps(drawn).encode(), dtype=np.uint8))
    return drawn


def _draw(section: ReportSection, interactive: bool) -> DrawnSection:
    figure = section.figure
    if figure is None:
        return DrawnSection(section.name, section.caption)
    about = (section.name, section.caption, figure.get_suptitle(), round(figure.get_figwidth() * REMS, 1))
    if interactive:
        return DrawnSection(*about, svg=svg(figure, section.name))
    return DrawnSection(*about, png=base64.b64encode(png(figure)).decode())


def _digest_of_code() -> str:
    digest = hashlib.sha256()
    for path in sorted(CODE.rglob("*.py")):
        digest.update(path.read_bytes())
    for library in DRAWN_BY:
        try:
            digest.update(importlib.metadata.version(library).encode())
        except importlib.metadata.PackageNotFoundError:
            digest.update(b"-")
    digest.update(str(importlib.util.find_spec("optuna") is not None).encode())  # it may be there and not be importable
    return digest.hexdigest()
