"""The command `sweepstack compare`: tuning curves, and whether one sweep was only tuned more than another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweepstack.cli.programs import json_option
from sweepstack.cli.runs import store_option
from sweepstack.cli.writing import write
from sweepstack.errors import UserError, printable
from sweepstack.strict_json import print_json

if TYPE_CHECKING:
    from sweepstack.results.tuning.searches import Kind
    from sweepstack.results.tuning.verdict import Tuning

PLOTS = (".svg", ".png", ".html")
"""The ends of files that a plot can be written to."""
STEPS = (1, 2, 3, 5)
"""Numbers of trials in the table: these, ten times these, and so on."""
PAGE = """\
<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{{ title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{{ colours }}
body { font: 16px/1.5 system-ui, sans-serif; max-width: 53rem; margin: 2rem auto; padding: 0 1rem }
body { background: var(--paper); color: var(--ink) }
svg { width: 100%; height: auto } pre { overflow-x: auto }</style></head>
<body>
<main>
<h1>{{ title }}</h1>
<p>{{ sentence }}</p>
<figure style="margin: 0">{{ plot }}</figure>
<pre>{{ table }}</pre>
<ul>{% for line in lines %}<li>{{ line }}</li>
{% endfor %}</ul>
</main>
</body>
</html>
"""


@click.command()
@click.argument("sweeps", nargs=-1, required=True, metavar="SWEEP_A [SWEEP_B]")
@click.option(
    "--search",
    metavar="KIND[,KIND]",
    help="How settings were chosen: random, grid or adaptive; one for both.  [default: grid, if they are all "
    "combinations]",
)
@click.option("--metric", metavar="NAME", help="Select by this metric.  [default: the objective of the task]")
@json_option
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the plot: FILE.svg, .png or .html."
)
@store_option
def compare(
    sweeps: tuple[str, ...],
    search: str | None,
    metric: str | None,
    as_json: bool,
    output: Path | None,
    store: str | None,
) -> None:
    """Show how good the best of so many trials is, of a sweep or of two, and whether A was only tuned more than B.

    A trial is a setting here, by its mean over seeds. A sweep can be `latest`; names with commas between them repeat
    one adaptive search."""
    if len(sweeps) > 2:
        raise UserError("one sweep or two can be compared", f"{len(sweeps)}", "name two")
    if output is not None and output.suffix.lower() not in PLOTS:
        raise UserError("a plot is a file that ends with .svg, .png or .html", str(output), "for example -o tuning.svg")
    kinds = _kinds(search, len(sweeps))
    from sweepstack.results.tuning.searches import read_search
    from sweepstack.results.tuning.verdict import compare_tuning, tuning_of
    from sweepstack.tracking.store import Store

    target = Store(store)
    found = [read_search(target, word, kind, metric) for word, kind in zip(sweeps, kinds, strict=True)]
    tuning = compare_tuning(*found) if len(found) == 2 else tuning_of(*found)
    if output is not None:
        _write_plot(tuning, output)
    if as_json:
        print_json(_for_programs(tuning))
        return
    for note in tuning.notes:
        click.echo(printable(f"note: {note}"), err=True)
    click.echo(_table(tuning))
    for line in _legend(tuning):
        click.echo(printable(line))
    click.echo()
    click.echo(printable(tuning.sentence))


def _kinds(search: str | None, count: int) -> Sequence[Kind | None]:
    """Returns how the settings of each sweep were chosen, as the user says; None where that is to be inferred."""
    from sweepstack.results.tuning.searches import Kind

    if search is None:
        return [None] * count
    words = [word.strip() for word in search.split(",")]
    if not {*words} <= {*map(str, Kind)} or len(words) not in (1, count):
        raise UserError(
            f"--search must be one of {', '.join(Kind)}, or one for each sweep", search, "for example --search random"
        )
    return [Kind(word) for word in words] * (count // len(words))


def _table(tuning: Tuning) -> str:
    """Returns the curves at some numbers of trials as a table."""
    from tabulate import tabulate

    from sweepstack.results.tuning.verdict import value_words

    longest = max(map(len, tuning.curves))
    numbers = {step * 10**power for power in range(len(str(longest))) for step in STEPS}
    numbers = {n for n in numbers if n <= longest} | {len(curve) for curve in tuning.curves}
    head = ["trials"]
    for one, curve in zip(tuning.searches, tuning.curves, strict=True):
        head += [printable(one.name), *(["from", "to"] if curve.low is not None else [])]
    rows = []
    for n in sorted(numbers):
        cells = [f"{n:,}"]
        for curve in tuning.curves:
            for values in (curve.median, curve.low, curve.high):
                if values is None:
                    continue
                inside = n <= len(curve)
                missing = values is not curve.median and inside and not math.isfinite(values[n - 1])
                cells.append("-" if not inside or missing else value_words(float(values[n - 1])))
        rows.append(cells)
    return str(tabulate(rows, head, tablefmt="simple", disable_numparse=True, colalign=["right"] * len(head)))


def _legend(tuning: Tuning) -> Iterator[str]:
    from sweepstack.results.tuning.verdict import describe_band

    objective = tuning.searches[0].objective
    extreme = "highest" if objective.larger_is_better else "lowest"
    yield f"The median of the {extreme} {objective} of so many trials (settings, each the mean over its seeds)."
    for one, curve in zip(tuning.searches, tuning.curves, strict=True):
        yield f"{one.name}, {one.kind} search: {describe_band(one, curve, tuning.confidence)}."


def _for_programs(tuning: Tuning) -> dict[str, Any]:
    objective = tuning.searches[0].objective
    sweeps = [
        {
            "sweep": one.name,
            "search": str(one.kind),
            "trials": len(curve),
            "failed": one.failed,
            "best": curve.median[-1],
            "curve": [
                {
                    "trials": n + 1,
                    "median": curve.median[n],
                    "low": None if curve.low is None else curve.low[n],
                    "high": None if curve.high is None else curve.high[n],
                }
                for n in range(len(curve))
            ],
        }
        for one, curve in zip(tuning.searches, tuning.curves, strict=True)
    ]
    return {
        "objective": str(objective),
        "mode": objective.mode,
        "confidence": tuning.confidence,
        "sweeps": sweeps,
        "ahead": [None if one is None else tuning.searches[one].name for one in tuning.lead],
        "sentence": tuning.sentence,
        "notes": list(tuning.notes),
    }


def _write_plot(tuning: Tuning, output: Path) -> None:
    from sweepstack.results.reporting.plots.style import png, svg, svg_file
    from sweepstack.results.reporting.plots.tuning import tuning_curves

    names = [one.name for one in tuning.searches]
    drawn = tuning_curves(dict(zip(names, tuning.curves, strict=True)), tuning.searches[0].objective)
    content: str | bytes
    match output.suffix.lower():
        case ".png":
            content = png(drawn)
        case ".svg":
            content = svg_file(svg(drawn, "tuning"))
        case _:
            from jinja2 import Environment
            from markupsafe import Markup

            from sweepstack.results.reporting.plots.palette import page_style

            content = (
                Environment(autoescape=True)
                .from_string(PAGE)
                .render(
                    title=" and ".join(names),
                    colours=Markup(page_style()),
                    sentence=tuning.sentence,
                    plot=Markup(svg(drawn, "tuning")),
                    table=_table(tuning),
                    lines=[*_legend(tuning), *tuning.notes],
                )
            )
    write(content, output, "tuning curves")
