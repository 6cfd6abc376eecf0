"""The commands of `sweepstack` about one run and its model: register, predict, show, repro."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sweepstack.cli.programs import json_option
from sweepstack.errors import UserError, as_typed, printable
from sweepstack.strict_json import print_json

if TYPE_CHECKING:
    from sweepstack.cli.answers import Answered
    from sweepstack.inference.predictor import Predictor

store_option = click.option(
    "--store",
    metavar="URI",
    help="Tracking store. [default: MLFLOW_TRACKING_URI, else the project's mlruns/mlflow.db]",
)


@click.command()
@click.argument("run", required=False)
@click.option("--sweep", metavar="NAME|latest|all", help="Take the best run of this sweep.  [default: latest]")
@click.option("--metric", metavar="NAME", help="Select by this metric.  [default: the objective of the task]")
@click.option("--name", help="Name of the registered model.  [default: the dataset's name]")
@click.option("--alias", default="best", show_default=True, help="Alias of the registered model.")
@json_option
@store_option
def register(
    run: str | None,
    sweep: str | None,
    metric: str | None,
    name: str | None,
    alias: str,
    as_json: bool,
    store: str | None,
) -> None:
    """Register a model in MLflow: the selected one of a sweep, or that of RUN."""
    if run is not None and sweep is not None:
        raise UserError(
            f"give a run or a sweep, got both: {run!r} and --sweep {sweep!r}",
            remedy="leave one out",
        )
    if run is not None and metric is not None:
        raise UserError("--metric selects a run of a sweep, and a run is given", run, "leave one out")
    from sweepstack.results import register
    from sweepstack.tracking.address import own_options
    from sweepstack.tracking.runs import find_run
    from sweepstack.tracking.store import Store

    target = Store(store)
    if run is None:
        chosen, found, caution = register.selected(target, sweep or "latest", metric)
    else:
        chosen, found, caution = find_run(target, run), "", ""
    done = register.register(target, chosen, name, alias, caution)
    if as_json:
        print_json(
            {
                "name": done.name,
                "version": done.version,
                "alias": done.alias,
                "uri": f"models:/{done.name}@{done.alias}",
                "run_id": chosen.row.run_id,
                "run": chosen.row.name,
                "answer": found,
                "caution": caution,
                "code": done.code,
            }
        )
        return
    click.echo(printable(f"{chosen.row.name}  {register.describe_results(chosen.row)}"))
    if found:
        click.echo(printable(f"{found[:1].upper()}{found[1:]}."))
    if caution:
        click.echo(printable(f"Careful: {caution}"))
    click.echo(f"registered as {done.name}, version {done.version}: models:/{done.name}@{done.alias}")
    if done.code:
        click.echo(printable(f"with its code: {', '.join(path.name for path in done.code)}"))
    own = own_options(store)
    is_default = done.alias == register.DEFAULT_ALIAS and done.only
    option = "" if is_default else f"--model {shlex.quote(f'{done.name}@{done.alias}')} "
    click.echo(f"Predict:  sweepstack predict {option}{shlex.join([*own, done.file])}")


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option(
    "--model",
    "model",
    default="best",
    show_default=True,
    metavar="ALIAS|NAME@ALIAS|RUN",
    help="Which model predicts; MLflow's models:/... and runs:/... work, too.",
)
@click.option("--format", "form", type=click.Choice(["text", "csv", "json"]), default="text", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="As --format json, for programs.")
@store_option
def predict(files: tuple[Path, ...], model: str, form: str, as_json: bool, store: str | None) -> None:
    """Predict what is in each FILE: rows of numbers (.csv: a line for each item, in the order of the flattened
    dataset.shape, with or without a header), tensors (.npy: one item, or several along the first axis), or else a PNG
    or JPEG picture of a handwritten digit. Numbers are those that the dataset gives, before dataset.mean and
    dataset.std are applied. For a model of a table, a .csv has the columns of the table by their names; for one
    of a folder of images, a picture is one as the folder has them."""
    from sweepstack.cli.answers import print_answers
    from sweepstack.results import register
    from sweepstack.tracking.store import Store

    if as_json and form == "csv":
        raise UserError("--json and --format csv ask for different forms", remedy="leave out one of them")
    bad: list[str] = []
    with register.load_predictor(Store(store), model) as (predictor, _):
        form = "json" if as_json else form
        print_answers(_answered(predictor, files, bad), predictor.answer, form, predictor.classes)
    if bad and as_json:
        raise UserError.of_all([UserError(line) for line in bad])
    for line in bad:
        click.echo(f"error: {line}", err=True)
    if bad:
        sys.exit(2)


def _answered(predictor: Predictor, files: Sequence[Path], bad: list[str]) -> Iterator[Answered]:
    """Yields what a model answers for each item of files.

    Args:
        predictor: the model.
        files: the files.
        bad: takes a line for each file that cannot be read.
    """
    from sweepstack.cli.answers import Answered
    from sweepstack.inference.inputs import InputError, has_items

    numbered = any(map(has_items, files))  # with pictures among them, so that all lines of CSV have the same columns
    for path in files:
        name = printable(click.format_filename(path))
        try:
            values = predictor.predict_file(path)
        except InputError as error:
            bad.append(f"{name} {error}")
        else:
            yield from (Answered(name, row if numbered else None, one) for row, one in enumerate(values))


@click.command()
@click.argument("run")
@json_option
@store_option
def show(run: str, as_json: bool, store: str | None) -> None:
    """Show a RUN: how it ended, its metrics, curves, params and config. RUN is an id, the beginning of one, or a name
    in the newest sweep."""
    from sweepstack.results.show import describe_run, run_as_object
    from sweepstack.tracking.runs import find_run
    from sweepstack.tracking.store import Store

    target = Store(store)
    found = find_run(target, run)
    if as_json:
        print_json(run_as_object(target, found))
    else:
        click.echo(describe_run(target, found), nl=False)


@click.command()
@click.argument("run")
@click.option("--run", "train", is_flag=True, help="Run it in a temporary store, and compare the results.")
@json_option
@store_option
def repro(run: str, train: bool, as_json: bool, store: str | None) -> None:
    """Print the command that trains a RUN again. With --run: exit code 0 if it ends the same, 1 if it does not."""
    from sweepstack.results import reproduce
    from sweepstack.tracking.runs import find_run
    from sweepstack.tracking.store import Store

    target = Store(store)
    found = find_run(target, run)
    words, left_out = reproduce.repro_command(target, found)
    if as_json:
        compared = reproduce.repeat(target, found) if train else None
        print_json(
            {
                "run_id": found.row.run_id,
                "run": found.row.name,
                "command": words,
                "left_out": left_out,
                "changes": reproduce.changes(target, found),
                "repeated": None if compared is None else dataclasses.asdict(compared),
            }
        )
        sys.exit(0 if compared is None or compared.equal else 1)
    click.echo(as_typed(words))
    if left_out:
        click.echo(f"Left out, because passwords are not recorded: {' '.join(left_out)}; add it yourself.", err=True)
    if changes := reproduce.changes(target, found):
        click.echo(f"Changed since the run: {changes}.", err=True)
    if not train:
        return
    comparison = reproduce.repeat(target, found)
    click.echo(f"{'equal' if comparison.equal else 'NOT equal'}, {comparison.how}")
    for line in comparison.differences:
        click.echo(printable(f"  {line}"))
    sys.exit(0 if comparison.equal else 1)
