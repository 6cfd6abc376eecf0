"""The report of a sweep: one HTML file that holds all it shows, and its table and plots as files of their own."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sweepstack.errors import UserError
from sweepstack.results import fronts, heat_maps, mistakes, plots, sentences
from sweepstack.results.columns import objective as objective_of
from sweepstack.results.drawing import SINGLE, png, svg, words
from sweepstack.results.frame import as_frame
from sweepstack.results.grids import places_of, settings_grid, trials_grid, unfinished_grid
from sweepstack.results.importance import importance, importance_bars
from sweepstack.results.knobs import FEW, setting
from sweepstack.results.knobs import knobs as knobs_of
from sweepstack.results.predictions import right
from sweepstack.results.rendering import render
from sweepstack.results.selection import Selection, select
from sweepstack.results.statistics import wilson
from sweepstack.tracking.histories import histories
from sweepstack.tracking.origin import Origin, origin
from sweepstack.tracking.rows import OBJECTIVES
from sweepstack.tracking.store import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REMS = 6.6
"""On the page, for an inch of a figure: all have letters of one size then."""
HERE = Path(__file__).parent
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Report:
    """A report, ready to be written."""

    sweep: str
    experiment_id: str
    trials: int
    html: str
    files: dict[str, bytes]
    """By path: the page, the table as csv, and the plots as PNG."""


@dataclass(frozen=True)
class _Plate:
    """A plot with what is said about it; or what is said alone, where there is nothing to draw."""

    name: str
    caption: str
    figure: Figure | None = None


@dataclass(frozen=True)
class _Sweep:
    """What a report is about."""

    store: Store
    frame: pd.DataFrame
    knobs: list[str]
    objective: str | None
    """None where no trial has a metric that could select."""
    selection: Selection | None
    why_none: str
    origin: Origin | None
    """Of the trial to use."""

    @property
    def finished(self) -> pd.DataFrame:
        return self.frame[self.frame["state"] == "FINISHED"]

    @property
    def best(self) -> list[int]:
        """Places of the trials of the best setting."""
        if self.selection is None:
            return []
        ids = set(self.selection.groups["run_ids"].iloc[0])
        return [int(place) for place in self.frame.index[self.frame["run_id"].isin(ids)]]


def report(
    sweep: str = "latest", *, store: Store | None = None, metric: str | None = None, tell: Tell = lambda _: None
) -> Report:
    """The report of a sweep; the same store gives the same bytes.

    Args:
        sweep: its name, "latest", or "all" for everything in the store.
        store: where to read; the project's own unless given.
        metric: what selects; by default accuracy on held-out data, or on test data where nothing was held out.
        tell: is told what is being done.

    Raises:
        StoreError: the store is empty, or there is no such sweep.
        UserError: no trial has such a metric.
    """
    store = store or Store()
    tell("reading the store")
    rows = store.rows(sweep)
    name = "all" if sweep == "all" else str(rows[0].sweep)
    frame = as_frame(rows, metric=metric)
    about = _about(store, frame, objective_of(frame, metric))
    plates = [*_plates(about, tell)]
    wrong = [*_mistakes(about, tell)]
    tell("drawing")
    pictures = {one.name: png(one.figure) for one in [*plates, *wrong] if one.figure is not None}
    html = _page(name, about, plates, wrong, pictures)
    files = {"report.html": html.encode(), "table.csv": str(render(frame, "csv")).encode()}
    files |= {f"plots/{key}.png": content for key, content in pictures.items()}
    return Report(name, rows[0].experiment_id, len(rows), html, files)


def _about(store: Store, frame: pd.DataFrame, objective: str | None) -> _Sweep:
    selection, chosen, why = None, None, "no trial has been measured"
    if objective is not None:
        try:
            selection = select(frame, right(store), objective)
        except UserError as error:  # none has finished, or none with a number
            why = str(error).split(";")[0]
    if selection is not None:
        chosen = origin(store, str(selection.trial["run_id"]))
        accuracy, count = selection.trial.get("test/accuracy", float("nan")), chosen.counts.get("test")
        if selection.test is None and count and np.isfinite(accuracy):  # of a version that kept no predictions
            selection = replace(selection, test=wilson(round(accuracy * count), count))
    return _Sweep(store, frame, knobs_of(frame), objective, selection, why, chosen)


def _plates(about: _Sweep, tell: Tell) -> Iterator[_Plate]:
    """The plots of a sweep, the most telling first."""
    if about.objective is None or about.selection is None:
        yield _Plate("none", "No trial has finished with a figure to draw.")
        return
    frame, objective, names, best = about.finished, about.objective, about.knobs, about.best
    label = setting(about.selection.trial, names)
    several = len(plots.measured(frame, objective)) > 1
    if not names or not several:
        yield _Plate("knobs", "No knob was varied, so there is nothing to compare.")
    else:
        tell("drawing what each knob does")
        caption = "Axes are logarithmic where values span decades. Triangles at the edge are trials that lie outside."
        yield _Plate("knobs", caption, plots.by_knob(frame, names, objective, best))
        if pairs := heat_maps.pairs(frame, names):
            caption = "Each cell is the mean over all other knobs and seeds; the frame marks the best setting."
            yield _Plate("pairs", caption, heat_maps.heat_maps(frame, pairs, objective, best))
        elif len(names) > 1:
            yield _Plate("pairs", f"Heat maps need two knobs with at most {FEW} values each.")
        yield _Plate("together", "", plots.parallel_coordinates(frame, names, objective, best))
        tell("asking how much each knob matters")
        yield _importance(about)
    tell("reading the histories")
    points = histories(about.store, list(about.frame["run_id"]), objective)
    history = pd.DataFrame(points, columns=["run_id", "step", "value"])
    history = history[np.isfinite(history["value"])]
    if len(history):
        caption = "Dots are ends. Curves that leave the picture at its edge are far worse for a while."
        yield _Plate("curves", caption, plots.learning_curves(about.frame, history, objective, best, label))
    else:
        yield _Plate("curves", f"There is no history of the {words(objective)} to draw.")
    yield _time(about)


def _importance(about: _Sweep) -> _Plate:
    assert about.objective is not None
    found = importance(about.finished, about.knobs, about.objective)
    if isinstance(found, str):
        return _Plate("importance", found)
    caption = (
        "Permutation importance: a random forest learns from the knobs which trials rank before which others. How much "
        "worse it does on settings that it has not seen, when the values of one knob are shuffled, is that knob's bar "
        f"(with its standard deviation). With all knobs it explains {max(found.explained, 0):.0%} of the ranks there."
    )
    if found.explained < 0.3:
        caption += " That is little: do not read much into the bars."
    return _Plate("importance", caption, importance_bars(found, about.objective))


def _time(about: _Sweep) -> _Plate:
    assert about.selection is not None
    assert about.objective is not None
    frame = about.finished
    metric = fronts.time_metric(frame)
    if metric not in frame or not len(plots.measured(plots.measured(frame, about.objective), metric)):
        return _Plate("time", "The store does not know how long the trials took.")
    place = places_of(frame)
    groups = [[place[one] for one in ids if one in place] for ids in about.selection.groups["run_ids"]]
    drawn = fronts.time_and_objective(frame, groups, about.knobs, about.objective, about.best)
    caption = (
        "A mark is a setting, with the means of its trials; the ring is the best one. The line is the Pareto front: no "
        "other setting is both faster and better."
    )
    return _Plate("time", caption, drawn)


def _mistakes(about: _Sweep, tell: Tell) -> Iterator[_Plate]:
    if about.selection is None or about.origin is None:
        return
    tell("asking the selected model")
    found = mistakes.answers_of(about.store, str(about.selection.trial["run_id"]), about.origin.digest)
    if isinstance(found, str):
        yield _Plate("confusion", found)
        return
    caption = (
        "Numbers are test images. The darker a cell, the larger the part of that row; right answers are left white."
    )
    yield _Plate("confusion", caption, mistakes.confusion_matrix(found))
    if len(mistakes.surest_mistakes(found)):
        yield _Plate("wrong", "Above each image what it is, and what the model says.", mistakes.wrong_images(found))
    else:
        yield _Plate("wrong", "The model gets every test image right.")


def _page(name: str, about: _Sweep, plates: list[_Plate], wrong: list[_Plate], pictures: dict[str, bytes]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    frame, selection = about.frame, about.selection
    chosen = None if selection is None else places_of(frame)[str(selection.trial["run_id"])]
    interactive = len(frame) <= SINGLE

    def shown(one: _Plate) -> dict[str, Any]:
        if one.figure is None:
            return {"picture": "", "caption": one.caption}
        title = one.figure.get_suptitle()
        if interactive:
            drawn = svg(one.figure, one.name)
            picture = Markup(drawn.replace("<svg", '<svg aria-hidden="true"', 1))
        else:
            encoded = base64.b64encode(pictures[one.name]).decode()
            picture = Markup('<img alt="{}" src="data:image/png;base64,{}">').format(title, encoded)
        width = round(one.figure.get_figwidth() * REMS, 1)
        walk = interactive and "data-trials" in picture
        return {"picture": picture, "caption": one.caption, "title": title, "width": width, "walk": walk}

    script = (HERE / "report.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    settings = 0 if selection is None else len(selection.groups)
    answer = sentences.nothing(frame, about.why_none) if selection is None else sentences.answer(selection, about.knobs)
    page = environment.get_template("report.html.j2").render(
        sweep=name,
        when=_when(frame),
        question=sentences.question(settings, about.knobs, about.objective or OBJECTIVES[0]),
        answer=answer,
        warnings=sentences.warnings(frame, about.knobs, selection, about.origin),
        settings=settings_grid(frame, selection, about.knobs) if selection is not None and settings > 1 else None,
        trials=trials_grid(frame, about.knobs, about.objective, chosen),
        plates=[shown(one) for one in plates],
        mistakes=[shown(one) for one in wrong],
        interactive=interactive,
        again=_again(about),
        failures=unfinished_grid(frame),
        reading=sentences.reading(frame, selection, about.origin.counts.get("test") if about.origin else None),
        style=Markup((HERE / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
    )
    return f"{page}\n"


def _when(frame: pd.DataFrame) -> str:
    first, last = (f"{at:%Y-%m-%d %H:%M}" for at in (frame["started"].min(), frame["started"].max()))
    trials = f"{len(frame):,} trials" if len(frame) > 1 else "1 trial"
    return f"{trials}, begun {first} UTC" if first == last else f"{trials}, begun {first} to {last} UTC"


def _again(about: _Sweep) -> dict[str, Any] | None:
    """How to train the trial to use once more, and with what it was trained."""
    if about.selection is None or about.origin is None:
        return None
    trial, known = about.selection.trial, about.origin
    command = None if known.overrides is None else shlex.join(["python", "train.py", *known.overrides])
    commit = f"{known.commit}{', with uncommitted changes' if known.uncommitted else ''}" if known.commit else ""
    counts = ", ".join(f"{count:,} {part.replace('_', ' ')}" for part, count in known.counts.items())
    facts = [
        ("run", str(trial["run_id"])),
        ("git commit", commit),
        ("versions", ", ".join(f"{package} {version}" for package, version in known.versions.items())),
        ("dataset", f"{known.dataset}: {counts} images" if counts else known.dataset),
        ("dataset checksum", known.digest),
        ("trained", known.trained),
        ("resumed", known.recomposed),
    ]
    return {"command": command, "name": str(trial["name"]), "facts": [fact for fact in facts if fact[1]]}
