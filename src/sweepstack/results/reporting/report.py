"""Makes the report of a sweep: one self-contained HTML file, and its table and plots as separate files."""

from __future__ import annotations

import base64
import functools
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sweepstack.errors import printable
from sweepstack.results.reporting import text
from sweepstack.results.reporting.answer import Sentence, answer, by_sentence, no_answer, question
from sweepstack.results.reporting.mistake_sections import inputs_of_mistakes, make_mistake_sections
from sweepstack.results.reporting.plots.drawn import DrawnSection, draw_sections
from sweepstack.results.reporting.plots.palette import page_style
from sweepstack.results.reporting.plots.style import SINGLE
from sweepstack.results.reporting.searches.savings import savings
from sweepstack.results.reporting.sections import (
    About,
    OnProgress,
    about_sweep,
    make_sections,
)
from sweepstack.results.reporting.tables import (
    pruned_table,
    row_numbers,
    savings_table,
    settings_table,
    trials_table,
    unfinished_table,
)
from sweepstack.results.tables.columns import kind
from sweepstack.results.tables.frame import as_frame
from sweepstack.results.tables.grouping import settings_frame
from sweepstack.results.tables.objective import metric_of, own_metrics
from sweepstack.results.tables.objective import objective as objective_of
from sweepstack.results.tables.rendering import render
from sweepstack.tracking.address import journal_folder
from sweepstack.tracking.store import Store, without_collections

TEMPLATES = Path(__file__).parent
"""The folder of the page's template, style sheet and script."""


@dataclass(frozen=True)
class Report:
    """A report, ready to be written."""

    sweep: str
    experiment_id: str
    trials: int
    answer: str
    """Which setting is the best, and which others may be, in a few sentences."""
    html: str
    caution: str
    """Why the value of the best setting is too good, see `Selection`; else empty."""
    _tables: Mapping[str, pd.DataFrame]
    _plots: Sequence[DrawnSection]

    @functools.cached_property
    def files(self) -> dict[str, bytes]:
        """The page, the tables of trials and of settings as csv, and the plots, by their paths: as SVG, or of more
        trials than are drawn one by one as PNG."""
        files = {"report.html": self.html.encode()}
        files |= {f"{key}.csv": str(render(one, "csv")).encode() for key, one in self._tables.items()}
        return files | {f"plots/{one.file[0]}": one.file[1] for one in self._plots if one.file is not None}


@without_collections()
def report(
    sweep: str = "latest",
    *,
    store: Store | None = None,
    metric: str | None = None,
    on_progress: OnProgress = lambda _: None,
) -> Report:
    """Makes the report of a sweep; the same store gives the same bytes.

    Args:
        sweep: the name of the sweep, "latest", or "all" for everything in the store.
        store: the store to read; by default the project's own.
        metric: the metric that selects; by default the objective of the task: for classes the accuracy on held-out
            data, or on test data if nothing was held out.
        on_progress: takes a text that says what is being done.

    Raises:
        StoreError: the store is empty, or there is no such sweep.
        UserError: no trial has the metric, or it is not a result of training; or the trials have different objectives.
    """
    store = store or Store()
    on_progress("reading the store")
    rows = store.rows(sweep)
    name = "all" if sweep == "all" else str(rows[0].sweep)
    frame = as_frame(rows, metric=metric)
    about = about_sweep(store, frame, objective_of(frame, metric), [] if sweep == "all" else rows)
    interactive, folder = len(frame) <= SINGLE, journal_folder(store.uri, None)
    sections = draw_sections(folder, [about.inputs], lambda: make_sections(about, on_progress), interactive)
    shown = inputs_of_mistakes(about)
    mistakes = draw_sections(folder, shown, lambda: make_mistake_sections(about, on_progress), interactive)
    sentence = no_answer(frame, about.why_none)
    tables = {"table": frame}
    if about.selection is not None:
        sentence = answer(about.selection, about.varied)
        tables["settings"] = settings_frame(frame, about.selection)
    html = _page(name, about, sentence, sections, mistakes)
    caution = "" if about.selection is None else about.selection.caution
    words = "".join(printable(piece) for piece, _ in sentence)
    return Report(name, rows[0].experiment_id, len(rows), words, html, caution, tables, [*sections, *mistakes])


def _page(
    name: str,
    about: About,
    sentence: Sentence,
    sections: list[DrawnSection],
    mistakes: list[DrawnSection],
) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    frame, selection = about.frame, about.selection
    chosen = None if selection is None else row_numbers(frame)[str(selection.trial["run_id"])]
    interactive = len(frame) <= SINGLE

    def shown(one: DrawnSection) -> dict[str, Any]:
        if one.svg:
            picture = Markup(one.svg.replace("<svg", '<svg aria-hidden="true"', 1))
        elif one.png:
            picture = Markup('<img alt="{}" src="data:image/png;base64,{}">').format(one.title, one.png)
        else:
            return {"picture": "", "caption": one.caption}
        walk = interactive and "data-trials" in picture
        return {"picture": picture, "caption": one.caption, "title": one.title, "width": one.width, "walk": walk}

    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    settings = 0 if selection is None else len(selection.groups)
    page = environment.get_template("report.html.j2").render(
        sweep=name,
        when=_when(frame),
        question=question(settings, about.varied, about.objective or metric_of(frame, f"val/{own_metrics(frame)[0]}")),
        answer=by_sentence(sentence),
        warnings=text.warnings(frame, about.varied, selection, about.origin, about.ranges),
        settings=settings_table(frame, selection, about.varied) if selection is not None and settings > 1 else None,
        trials=trials_table(frame, about.varied, about.objective, chosen),
        sections=[shown(one) for one in sections],
        mistakes=[shown(one) for one in mistakes],
        interactive=interactive,
        saved=savings(list(about.rows.values())) if len(about.rows) > 1 else None,
        savings_table=savings_table,
        reproduction=_reproduction(about),
        pruned=pruned_table(frame, about.objective),
        failures=unfinished_table(frame),
        reading=text.explain_values(frame, selection, about.origin.counts.get("test") if about.origin else None),
        style=Markup(page_style() + (TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
    )
    return f"{page}\n"


def _visible(value: Any) -> Any:
    """Makes control characters in a text visible, because HTML has none. Markup stays as it is."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "\n".join(map(printable, value.split("\n")))


def _when(frame: pd.DataFrame) -> str:
    first, last = (f"{at:%Y-%m-%d %H:%M}" for at in (frame["started"].min(), frame["started"].max()))
    trials = f"{len(frame):,} trials" if len(frame) > 1 else "1 trial"
    return f"{trials}, begun {first} UTC" if first == last else f"{trials}, begun {first} to {last} UTC"


def _reproduction(about: About) -> dict[str, Any] | None:
    """Returns the command that trains the trial to use again, and facts about its training; None if unknown."""
    if about.selection is None or about.origin is None:
        return None
    trial, known = about.selection.trial, about.origin
    command = None if known.overrides is None else shlex.join(["python", *known.program, *known.overrides])
    commit = f"{known.commit}{', with uncommitted changes' if known.uncommitted else ''}" if known.commit else ""
    items = "items" if kind(trial.get("task")) else "images"
    counts = ", ".join(f"{count:,} {part.replace('_', ' ')}" for part, count in known.counts.items())
    facts = [
        ("run", str(trial["run_id"])),
        ("git commit", commit),
        ("versions", ", ".join(f"{package} {version}" for package, version in known.versions.items())),
        ("dataset", f"{known.dataset}: {counts} {items}" if counts else known.dataset),
        ("dataset checksum", known.digest),
        ("trained", known.trained),
        ("resumed", known.recomposed),
    ]
    return {"command": command, "name": str(trial["name"]), "facts": [fact for fact in facts if fact[1]]}
