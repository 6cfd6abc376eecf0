"""The command `sweepstack refine`."""

from __future__ import annotations

import sys

import click

from sweepstack.cli.programs import json_option
from sweepstack.cli.runs import store_option
from sweepstack.errors import printable
from sweepstack.exits import FAILED
from sweepstack.strict_json import print_json


@click.command()
@click.option("--sweep", default="latest", show_default=True, metavar="NAME|latest", help="Which sweep.")
@click.option("--metric", metavar="NAME", help="Select by this metric.  [default: the objective of the task]")
@click.option(
    "--budget",
    type=click.IntRange(min=1),
    metavar="N",
    help="Train no more than N trials.  [default: as many as the sweep has]",
)
@json_option
@store_option
def refine(sweep: str, metric: str | None, budget: int | None, as_json: bool, store: str | None) -> None:
    """Train more seeds of the settings that may be the best, until one is left or the budget is spent.

    Exit code 1 if a trial has failed, as of a sweep.
    """
    from sweepstack.results.refine import refine as add_seeds
    from sweepstack.sweep_end import print_next
    from sweepstack.tracking.address import own_options
    from sweepstack.tracking.store import Store

    def say(line: str) -> None:
        click.echo(printable(line))

    found = add_seeds(Store(store), sweep, budget, metric, say)
    notes = [found.selection.in_short, found.selection.added, found.selection.caution]
    if as_json:
        best = found.selection.groups.iloc[0]
        print_json(
            {
                "sweep": found.sweep,
                "trained": found.trained,
                "failed": found.failed,
                "why": found.why,
                "answer": found.selection.in_short,
                "notes": [note for note in notes[1:] if note],
                "run_ids": best["run_ids"],
            }
        )
        sys.exit(FAILED if found.failed else 0)
    failed = f", {found.failed:,} of them failed" if found.failed else ""
    say(f"{found.trained:,} trials trained{failed}; {found.why}.")
    for note in filter(None, notes):
        say(f"{note[0].upper()}{note[1:]}.")
    print_next(["Table", "table", "--by-seed", "--sweep", found.sweep, *own_options(store)])
    if found.failed:
        sys.exit(FAILED)
