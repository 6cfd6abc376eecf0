"""The style of all plots, words for names, and pictures as bytes that depend only on the data."""

from __future__ import annotations

import contextlib
import io
import re
import textwrap
import warnings
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sweepstack.metrics import BEST, bare_name
from sweepstack.results.reporting.plots.palette import AXES, PAGE, SERIES, drawing_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, BLUE, ORANGE, GREEN, GREY = (SERIES[name].light for name in ("ink", "blue", "orange", "green", "grey"))
"""Colours of text and lines; of means and the Pareto front; of the best setting; of the other settings that may be the
best, whose marks and lines have another form, too; and of all other trials."""
PAPER = PAGE["paper"].light
"""Colour of the background."""
DASHES = (0, (4, 1.5))
"""Lines of other settings that may be the best, and of the second of two curves."""
SINGLE = 500
"""The most marks that are drawn one by one, so that a reader can point at each; more are drawn as one."""
LABELS = {
    "lr": "learning rate",
    "bs": "batch size",
    "train_seconds": "seconds of training",
    "train_seconds_share": "seconds of training (share)",
    "auroc": "AUROC",
    "cohen_kappa": "Cohen's kappa",
    "f1_macro": "F1 (macro)",
    "f1_micro": "F1 (micro)",
    "f1_weighted": "F1 (weighted)",
    "mae": "MAE",
    "matthews_corrcoef": "Matthews correlation",
    "mse": "MSE",
    "pearson": "Pearson correlation",
    "precision_macro": "precision (macro)",
    "r2": "R²",
    "recall_macro": "recall (macro)",
    "rmse": "RMSE",
    "spearman": "Spearman correlation",
}
"""Params and metrics (without the part of the data) in words, if the words do not follow from the name."""
PARTS = {"val": "validation", "train": "training", "test": "test"}
"""The parts of the data in words."""
STYLE: Any = {
    "axes.edgecolor": AXES["edge"].light,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titley": 1.0,  # else matplotlib measures all ticks to find whether a title is in their way
    "axes.axisbelow": True,
    "figure.facecolor": PAPER,
    "figure.titlesize": 13,
    "figure.titleweight": "bold",
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    "font.size": 10,
    "grid.color": AXES["grid"].light,
    "grid.linewidth": 0.8,
    "image.composite_image": False,
    "legend.frameon": False,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "xtick.color": AXES["tick"].light,
    "ytick.color": AXES["tick"].light,
}
"""matplotlib's settings for all plots."""


@contextlib.contextmanager
def styled(salt: str = "sweepstack") -> Iterator[None]:
    """Sets the style of the plots in matplotlib for the block, whatever the user's own settings are.

    Args:
        salt: makes the ids in an SVG file different from those of other files.
    """
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a browser has more fonts
        warnings.filterwarnings("ignore", category=matplotlib.MatplotlibDeprecationWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE | {"svg.hashsalt": salt})
        yield


def figure(width: float = 8.0, height: float = 4.5) -> Figure:
    """Makes an empty figure of a size in inches. It is independent of screens and of other figures."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def title(figure: Figure, text: str) -> None:
    """Puts a title above a figure, on as many lines as it needs."""
    figure.suptitle(text, x=0.01, ha="left", wrap=True)


def legend(figure: Figure, columns: int, **options: Any) -> None:
    """Puts a legend below a figure, with as many columns as fit, at most `columns`."""
    for fewer in range(columns, 0, -1):
        drawn = figure.legend(loc="outside lower left", ncols=fewer, **options)
        if fewer == 1 or drawn.get_window_extent().width <= figure.bbox.width:
            return
        drawn.remove()


def png(figure: Figure, dpi: int = 150) -> bytes:
    """Returns a figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with styled():
        _lay_out(figure)
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def _lay_out(figure: Figure) -> None:
    """Places the parts of a figure once; else matplotlib does it twice for each of its pictures."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.execute(figure)
        figure.set_layout_engine("none")


def svg(figure: Figure, name: str) -> str:
    """Returns a figure as an SVG element for a page with other figures.

    What an artist with gid `trial-3-5` has drawn has the class `mark` and `data-trials="3 5"`. Other ids are removed,
    except those that the drawing itself refers to; these begin with `name`.

    Args:
        figure: the figure.
        name: a name that no other figure on the page has.
    """
    text = _drawn(figure, salt=name)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    return re.sub(r"<[^>]*>", lambda tag: _inside_html(tag[0], name), text).strip()


def svg_file(element: str) -> bytes:
    """Returns an SVG file with a plot of a page, for light and dark mode.

    Args:
        element: what `svg` returned.
    """
    width, height = re.findall(r"[\d.]+", element[element.index("viewBox") : element.index(">")])[2:4]
    size = f'xmlns="http://www.w3.org/2000/svg" width="{width}pt" height="{height}pt"'
    start = element.index(">") + 1
    head = element[:start].replace("<svg", f"<svg {size}", 1)
    style = f"* {{ stroke-linejoin: round; stroke-linecap: butt; }}\n{drawing_style()}"
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head}<style>{style}</style>{element[start:]}\n'.encode()


def _drawn(figure: Figure, salt: str) -> str:
    """Draws a figure as an SVG file; the same figure gives the same text."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    with styled(salt):
        _lay_out(figure)
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(buffer, metadata={"Date": None, "Creator": None})  # `savefig` draws twice
    return buffer.getvalue()


def _inside_html(tag: str, name: str) -> str:
    """Converts one tag of SVG for HTML: gives its ids the prefix `name`, and removes its size, which the page sets."""
    tag = re.sub(r' xmlns(:xlink)?="[^"]*"| version="1.1"', "", tag).replace("xlink:href=", "href=")
    if tag.startswith("<svg"):
        return re.sub(r' (width|height)="[^"]*"', "", tag)
    if found := re.match(r'<g id="trial-([\d-]+)"', tag):
        rows = found[1].replace("-", " ")
        return f'<g class="mark" data-trials="{rows}"{tag[found.end() :]}'
    tag = re.sub(r'^<g id="[^"]*"', "<g", tag)
    return re.sub(r'( id="| href="#|url\(#)', rf"\g<1>{name}-", tag)


def gid(trials: Iterable[Hashable]) -> str:
    """Returns the gid of an artist that shows some trials.

    Args:
        trials: the rows of the trials in the table.
    """
    return "trial-" + "-".join(map(str, trials))


def words(name: str) -> str:
    """Returns a param or a metric in words: `val/loss` is the validation loss."""
    if name in LABELS:
        return LABELS[name]
    part, slash, rest = name.partition("/")
    if slash and part in PARTS:
        bare = bare_name(name)
        return f"{'best ' if rest.endswith(BEST) else ''}{PARTS[part]} {LABELS.get(bare, bare.replace('_', ' '))}"
    return shortened(name.replace("_", " "), 60)


def objective_words(objective: str) -> str:
    """Returns the metric that selects in words. What test data give is no test result if they select."""
    if not objective.startswith("test/"):
        return words(objective)
    return f"{words(bare_name(objective))} on the test data that selected"


def tick_text(value: float) -> str:
    """Returns a value of a metric as it is written into a plot, as short as its size allows."""
    return format(value, ".3f" if 0.01 <= abs(value) < 100 or value == 0 else ".5g" if abs(value) >= 100 else ".3g")


def sentence_case(text: str) -> str:
    """Returns a text with a capital at its beginning; the rest, such as RMSE, stays."""
    return text[:1].upper() + text[1:]


def wrapped(name: str, width: int = 28) -> str:
    """Returns a param or a metric in words, on several lines so that it fits beside an axis."""
    return textwrap.fill(objective_words(name), width)


def listed(names: Sequence[str]) -> str:
    """Joins words as people list them: a, b and c."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def shortened(text: Any, width: int = 30) -> str:
    """Shortens a text to one line of at most `width` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= width else f"{line[: width - 1]}…"
