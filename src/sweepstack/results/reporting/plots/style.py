"""How all plots look: style, words for names, and pictures in bytes which depend on the data alone."""

from __future__ import annotations

import contextlib
import io
import re
import textwrap
import warnings
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sweepstack.results.tables.columns import upwards

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY, INK = "#0072B2", "#D55E00", "#8C8C8C", "#222222"  # the first two of Okabe and Ito's palette
COLOURS = "cividis"  # the same to all eyes, and in grey
SINGLE = 500
"""Marks that are drawn one by one, so that each can be pointed at; more than these are drawn as one."""
LABELS = {
    "lr": "learning rate",
    "bs": "batch size",
    "train_seconds": "seconds of training",
    "train_seconds_share": "seconds of training (share)",
    "val/accuracy": "validation accuracy",
    "val/accuracy_best": "best validation accuracy",
    "val/loss": "validation loss",
}
STYLE: Any = {
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "figure.titlesize": 13,
    "figure.titleweight": "bold",
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    "font.size": 10,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "xtick.color": "#444444",
    "ytick.color": "#444444",
}


@contextlib.contextmanager
def styled(salt: str = "sweepstack") -> Iterator[None]:
    """Matplotlib with the style of the plots, whatever the user's own settings are."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a browser has more fonts
        warnings.filterwarnings("ignore", category=matplotlib.MatplotlibDeprecationWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE | {"svg.hashsalt": salt})
        yield


def figure(width: float = 8.0, height: float = 4.5) -> Figure:
    """An empty figure, in inches; it knows nothing of screens and of other figures."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def title(figure: Figure, text: str) -> None:
    """Above a figure, on as many lines as it takes."""
    figure.suptitle(text, x=0.01, ha="left", wrap=True)


def legend(figure: Figure, columns: int, **options: Any) -> None:
    """Below a figure, in so many columns at most: in fewer where it would be wider than the figure."""
    for fewer in range(columns, 0, -1):
        drawn = figure.legend(loc="outside lower left", ncols=fewer, **options)
        if fewer == 1 or drawn.get_window_extent().width <= figure.bbox.width:
            return
        drawn.remove()


def png(figure: Figure, dpi: int = 150) -> bytes:
    """A figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure, name: str) -> str:
    """A figure as an SVG element to be put into a page beside others.

    What an artist with gid `trial-3-5` has drawn is of the class `mark` and says `data-trials="3 5"`; no other ids are
    left but those which the drawing itself refers to, and these hold `name`.
    """
    buffer = io.StringIO()
    with styled(salt=name):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    return re.sub(r"<[^>]*>", lambda tag: _inside_html(tag[0], name), text).strip()


def _inside_html(tag: str, name: str) -> str:
    """One tag of SVG as HTML takes it, with ids that no other figure has; the page gives the size."""
    tag = re.sub(r' xmlns(:xlink)?="[^"]*"| version="1.1"', "", tag).replace("xlink:href=", "href=")
    if tag.startswith("<svg"):
        return re.sub(r' (width|height)="[^"]*"', "", tag)
    if found := re.match(r'<g id="trial-([\d-]+)"', tag):
        places = found[1].replace("-", " ")
        return f'<g class="mark" data-trials="{places}"{tag[found.end() :]}'
    tag = re.sub(r'^<g id="[^"]*"', "<g", tag)
    return re.sub(r'( id="| href="#|url\(#)', rf"\g<1>{name}-", tag)


def gid(trials: Iterable[Hashable]) -> str:
    """What an artist is known by that shows these trials, by their places in the table."""
    return "trial-" + "-".join(map(str, trials))


def words(name: str) -> str:
    """A param or a metric as a reader says it: `val/loss` is the validation loss."""
    if name in LABELS:
        return LABELS[name]
    part, slash, rest = name.partition("/")
    if slash and part in ("val", "train", "test"):
        part = {"val": "validation", "train": "training", "test": "test"}[part]
        return f"{part} {rest.replace('_', ' ')}"
    return shortened(name.replace("_", " "), 60)


def wrapped(name: str, width: int = 28) -> str:
    """A param or a metric in words, on so many lines that it fits beside an axis."""
    return textwrap.fill(words(name), width)


def listed(names: Sequence[str]) -> str:
    """Words as people list them: a, b and c."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def shortened(text: Any, width: int = 30) -> str:
    """One line of so many characters at most."""
    line = " ".join(str(text).split())
    return line if len(line) <= width else f"{line[: width - 1]}…"


def more_is_better(metric: str) -> bool:
    """Whether the best is the largest: of accuracies it is, of losses and times the smallest."""
    return not upwards(metric)
