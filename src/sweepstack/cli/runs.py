"""The commands of `sweepstack` about one run and its model: register, predict, show, repro."""

from __future__ import annotations

import csv
import json
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweepstack.errors import UserError, as_typed, printable

if TYPE_CHECKING:
    from sweepstack.inference.classifier import Classifier

store_option = click.option(
    "--store",
    metavar="URI",
    help="Tracking store. [default: MLFLOW_TRACKING_URI, else the project's mlruns/mlflow.db]",
)
NEXT_BEST = 2
"""Classes that are shown beside the most probable one."""


@click.command()
@click.argument("run", required=False)
@click.option("--sweep", metavar="NAME|latest|all", help="Take the best run of this sweep.  [default: latest]")
@click.option("--name", help="Of the registered model.  [default: the dataset's name]")
@click.option("--alias", default="best", show_default=True, help="What the model is then known by.")
@store_option
def register(run: str | None, sweep: str | None, name: str | None, alias: str, store: str | None) -> None:
    """Register a model in MLflow: the selected one of a sweep, or that of RUN."""
    if run is not None and sweep is not None:
        raise UserError(
            f"give a run or a sweep, got both: {run!r} and --sweep {sweep!r}",
            remedy="leave one out",
        )
    from sweepstack.results import register
    from sweepstack.tracking.address import own_options
    from sweepstack.tracking.runs import find_run
    from sweepstack.tracking.store import Store

    target = Store(store)
    chosen, caution = register.selected(target, sweep or "latest") if run is None else (find_run(target, run), "")
    done = register.register(target, chosen, name, alias)
    figures = "  ".join(f"{key} {value:.4f}" for key, value in sorted(chosen.row.metrics.items()) if "/acc" in key)
    click.echo(printable(f"{chosen.row.name}  {figures}"))
    if caution:
        click.echo(printable(f"Careful: {caution}"))
    click.echo(f"registered as {done.name}, version {done.version}: models:/{done.name}@{done.alias}")
    if done.code:
        click.echo(printable(f"with its code: {', '.join(path.name for path in done.code)}"))
    own = own_options(store)
    is_default = done.alias == register.DEFAULT_ALIAS and done.only
    word = "" if is_default else f"--model {shlex.quote(f'{done.name}@{done.alias}')} "
    click.echo(f"Predict:  sweepstack predict {word}{shlex.join([*own, 'IMAGE.png'])}")


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path(path_type=Path))
@click.option(
    "--model",
    "word",
    default="best",
    show_default=True,
    metavar="ALIAS|NAME@ALIAS|RUN",
    help="Which model classifies; MLflow's models:/... and runs:/... too.",
)
@click.option("--format", "form", type=click.Choice(["text", "csv", "json"]), default="text", show_default=True)
@store_option
def predict(images: tuple[Path, ...], word: str, form: str, store: str | None) -> None:
    """Classify PNG or JPEG pictures of handwritten digits."""
    from sweepstack.results import register
    from sweepstack.tracking.store import Store

    bad: list[str] = []
    with register.load_classifier(Store(store), word) as (classifier, _):
        _print(_classified(classifier, images, bad), form)
    for line in bad:
        click.echo(f"error: {line}", err=True)
    if bad:
        sys.exit(2)


def _classified(classifier: Classifier, images: Iterable[Path], bad: list[str]) -> Iterator[tuple[str, list[float]]]:
    """Each picture with the probabilities of its classes; `bad` takes a line for each that is none."""
    from sweepstack.inference.handwriting import PictureError

    for path in images:
        name = printable(click.format_filename(path))
        try:
            (probabilities,) = classifier.of_pictures([path]).tolist()
        except PictureError as error:
            bad.append(f"{name} {error}")
        else:
            yield name, probabilities


def _print(found: Iterable[tuple[str, list[float]]], form: str) -> None:
    if form == "json":
        records = [{"file": name, **_best(each), "probabilities": each} for name, each in found]
        click.echo(json.dumps(records, indent=2))
        return
    writer: Any = csv.writer(sys.stdout, lineterminator="\n")
    for place, (name, each) in enumerate(found):
        if form == "text":
            first, *others = sorted(range(len(each)), key=lambda one: -each[one])[: NEXT_BEST + 1]
            rest = ", ".join(f"{other} {each[other]:.1%}" for other in others)
            click.echo(f"{name}  {first}  {each[first]:.1%}  (then {rest})")
            continue
        if place == 0:
            writer.writerow(["file", "class", "probability", *(f"p{one}" for one in range(len(each)))])
        writer.writerow([name, *_best(each).values(), *each])


def _best(each: list[float]) -> dict[str, float]:
    best = max(range(len(each)), key=lambda one: each[one])
    return {"class": best, "probability": each[best]}


@click.command()
@click.argument("run")
@store_option
def show(run: str, store: str | None) -> None:
    """Show a RUN: how it ended, its figures, curves, params and config. RUN is an id, the beginning of one, or a name
    in the newest sweep."""
    from sweepstack.results.show import shown
    from sweepstack.tracking.runs import find_run
    from sweepstack.tracking.store import Store

    target = Store(store)
    click.echo(shown(target, find_run(target, run)), nl=False)


@click.command()
@click.argument("run")
@click.option("--run", "train", is_flag=True, help="Run it, in a store of its own that is thrown away, and compare.")
@store_option
def repro(run: str, train: bool, store: str | None) -> None:
    """Print the command that trains a RUN again. With --run: exit code 0 when it ends the same, 1 when it does not."""
    from sweepstack.results import reproduce
    from sweepstack.tracking.runs import find_run
    from sweepstack.tracking.store import Store

    target = Store(store)
    found = find_run(target, run)
    words, left_out = reproduce.repro_command(target, found)
    click.echo(as_typed(words))
    if left_out:
        click.echo(f"Left out, for its password is not recorded: {' '.join(left_out)}; give it by hand.", err=True)
    if changes := reproduce.changes(target, found):
        click.echo(f"Not all is as it was: {changes}.", err=True)
    if not train:
        return
    comparison = reproduce.repeat(target, found)
    click.echo(f"{'equal' if comparison.equal else 'NOT equal'}, {comparison.how}")
    for line in comparison.differences:
        click.echo(printable(f"  {line}"))
    sys.exit(0 if comparison.equal else 1)
