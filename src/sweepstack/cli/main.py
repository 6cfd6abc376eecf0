"""The command `sweepstack`: results table, report, UI, delivery, datasets. The other files of this folder have its
other subcommands."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from sweepstack import strict_json
from sweepstack.blame import Whose, is_signal, judge
from sweepstack.cli import cleaning, compare, control, runs, writing
from sweepstack.cli import new as new_project
from sweepstack.cli import refine as refining
from sweepstack.cli.programs import asks_for_json, json_option, print_error, usage_error
from sweepstack.cli.runs import store_option
from sweepstack.cli.writing import write
from sweepstack.errors import StoreError, UserError, one_line, printable
from sweepstack.exits import EXIT_INTERRUPTED, FAILED, Ending, ending
from sweepstack.files.current import current_folder
from sweepstack.standard_streams import READER_GONE_ERRNOS, discard, open_closed
from sweepstack.strict_json import is_reserved, output, print_json, reserved_output

TABLE_FORMATS = ["text", "csv", "markdown", "latex", "html", "json", "parquet"]
"""The choices of `sweepstack table --format`."""
FILES = (
    __file__,
    cleaning.__file__,
    compare.__file__,
    control.__file__,
    new_project.__file__,
    refining.__file__,
    runs.__file__,
    strict_json.__file__,
    writing.__file__,
)
"""The files that print."""


class Commands(click.Group):
    """Turns every exception that ends a command into one line and an exit code, as train.py does."""

    def main(self, *args: Any, **extra: Any) -> Any:
        open_closed(output_is_needed=True)
        given = args[0] if args else extra.get("args")
        words = sys.argv[1:] if given is None else [*given]
        try:
            if asks_for_json(words):
                return self._main_for_programs(words)
            return super().main(*args, **extra)
        except Exception as error:  # raised while click prints something itself, such as the help
            sys.exit(_print_ending(error))

    def _main_for_programs(self, words: Sequence[str]) -> NoReturn:
        """Prints nothing but JSON on standard output; an error is an object in the last line of standard error."""
        with reserved_output():
            try:
                code = super().main(words, standalone_mode=False)
            except click.ClickException as error:
                mistake = usage_error(error)
                code = print_error(mistake, Ending(error.exit_code, (str(mistake),)))
            except click.Abort:
                mistake = UserError("the question was not answered", remedy="add --yes")
                code = print_error(mistake, Ending(FAILED, (str(mistake),)))
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, context: click.Context) -> Any:
        try:
            done = super().invoke(context)
            output().flush()  # a full disk is noticed only then
            return done
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt as error:
            if not is_signal(error):
                context.exit(_print_ending(error))
            if is_reserved():
                context.exit(print_error(error, Ending(EXIT_INTERRUPTED, ("Stopped.",))))
            click.echo("Stopped.", err=True)
            context.exit(EXIT_INTERRUPTED)
        except SystemExit as error:
            if judge(error).whose is Whose.CODE:
                context.exit(_print_ending(error))
            raise
        except BaseException as error:
            context.exit(_print_ending(error))


def _print_ending(error: BaseException) -> int:
    """Prints how the command ends; returns its exit code."""
    with contextlib.suppress(OSError, ValueError):
        output().flush()
    if isinstance(error, OSError) and error.errno not in READER_GONE_ERRNOS and _is_of_output(error):
        error = UserError(
            f"the output cannot be written ({error.strerror})", remedy="make room, or choose another place"
        )
    discard(output())
    end = ending(error)
    with contextlib.suppress(OSError, ValueError):  # the reader may have gone
        if is_reserved():
            return print_error(error, end)
        for line in end.lines:
            click.echo(line, err=True)
        return end.code
    discard(sys.stderr)
    return end.code


def _is_of_output(error: OSError) -> bool:
    """True if an error was raised while something was printed. Such an error names no file, so the frame decides."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    printing = {"click", "rich"} & {frame.f_globals.get("__name__", "").partition(".")[0]}
    return error.filename is None and (bool(printing) or frame.f_code.co_filename in FILES)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sweepstack")
def main() -> None:
    """Browse, export and use what `python train.py` recorded."""
    sys.path.append(str(current_folder()))  # a user's own modules are there, as for train.py


for command in (
    new_project.new,
    compare.compare,
    runs.register,
    runs.predict,
    runs.show,
    runs.repro,
    refining.refine,
    control.status,
    control.stop,
    cleaning.clean,
    cleaning.delete,
):
    main.add_command(command)


@main.command()
@click.option("--sweep", default="latest", show_default=True, metavar="NAME|latest|all", help="Which trials.")
@click.option("--where", metavar="CONDITION", help="Only trials that fulfil it, such as 'params.lr > 0.01'.")
@click.option("--metric", metavar="NAME", help="Compare by this metric.  [default: the objective of the task]")
@click.option(
    "--by-seed", is_flag=True, help="Settings: mean over seeds and folds, interval, what may be as good as the best."
)
@click.option("--group-by", metavar="KEY[,KEY]", help="Means over all trials that are equal in these params.")
@click.option("--pivot", nargs=2, metavar="ROW COLUMN", help="Means by two params, such as optimizer.lr batch_size.")
@click.option("--top", type=click.IntRange(min=1), metavar="N", help="Only the first N rows.")
@click.option("--sort", metavar="COLUMN", help="Sort by this column.  [default: the metric, best first]")
@click.option("--columns", metavar="A,B,...", help="Only these columns, in this order.")
@click.option("--format", "form", type=click.Choice(TABLE_FORMATS), default="text", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="As --format json, for programs.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file.")
@store_option
def table(
    sweep: str,
    where: str | None,
    metric: str | None,
    by_seed: bool,
    group_by: str | None,
    pivot: tuple[str, str] | None,
    top: int | None,
    sort: str | None,
    columns: str | None,
    form: str,
    as_json: bool,
    output: Path | None,
    store: str | None,
) -> None:
    """Print or export the table of trials, best first; or of groups of them.

    A condition compares params, metrics, state and name with values: lr > 0.01 and metrics["val/accuracy"] > 0.9
    """
    if as_json and form not in ("text", "json"):
        raise UserError(f"--json and --format {form} ask for different forms", remedy="leave out one of them")
    form = "json" if as_json else form
    if form == "parquet" and output is None:
        raise UserError(
            "parquet is not text, it must be written to a file",
            remedy="name one with -o FILE",
        )
    shapes = {"--by-seed": by_seed, "--group-by": group_by, "--pivot": pivot}
    chosen = [name for name, value in shapes.items() if value not in (None, False)]
    if len(chosen) > 1:
        raise UserError(
            f"{' and '.join(chosen)} make different tables",
            remedy="choose one of them",
        )
    for name, value in {"--top": top, "--sort": sort, "--columns": columns}.items():
        if pivot and value is not None:
            raise UserError(
                "a pivot is shown whole, in the order of its params",
                remedy=f"leave out {name}, or use --group-by",
            )
    if sort and metric and not chosen:
        raise UserError(
            "--sort and --metric both say what to sort trials by",
            remedy="leave out one of them",
        )
    from sweepstack.results.tables import frame as frames
    from sweepstack.results.tables import grouping, rendering
    from sweepstack.results.tables.objective import direction_note
    from sweepstack.tracking.store import Store

    target = Store(store)
    frame = frames.table(sweep, where=where, metric=metric, sort=None if chosen else sort, store=target)
    notes = [note] if metric is not None and (note := direction_note(frame, metric)) else []
    if by_seed:
        from sweepstack.results.selection.predictions import compare_with_targets

        frame = grouping.by_seed(frame, metric, compare_with_targets(target))
    elif group_by is not None:
        frame = grouping.grouped(frame, _split_list(group_by), metric)
    elif pivot:
        frame = grouping.pivoted(frame, *pivot, metric)
    notes += frame.attrs.get("notes", ())
    if chosen and sort is not None:
        frame = frames.sorted_by(frame, sort)
    if top is not None:
        frame = frame.head(top)
    if columns is not None:
        frame = frames.only(frame, _split_list(columns))
    elif form in rendering.FOR_READERS:
        frame = rendering.short(frame)
    for note in notes:
        click.echo(printable(f"note: {note}"), err=True)
    what = f"{len(frame)} {'rows' if pivot else 'groups' if chosen else 'trials'}"
    write(rendering.render(frame, form), output, what, is_json=form == "json")


def _split_list(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


@main.command()
@click.option("--sweep", default="latest", show_default=True, metavar="NAME|latest|all", help="Which trials.")
@click.option("--metric", metavar="NAME", help="Select by this metric.  [default: the objective of the task]")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default="report.html", show_default=True
)
@click.option("--record/--no-record", default=True, help="Keep it with the sweep's summary run in MLflow, too.")
@json_option
@store_option
def report(sweep: str, metric: str | None, output: Path, record: bool, as_json: bool, store: str | None) -> None:
    """Write the report of a sweep: one HTML file with answer, table and plots, which opens anywhere."""
    from rich.console import Console

    from sweepstack.results.reporting.report import report as make
    from sweepstack.tracking.store import Store
    from sweepstack.tracking.summary import record_summary

    if not output.parent.is_dir():  # before all the work
        raise UserError(
            f"{output} cannot be written (there is no folder {output.parent})",
            remedy="choose another file with -o",
        )
    target = Store(store)
    with Console(stderr=True).status("reading the store") as status:  # shown only in a terminal
        made = make(sweep, store=target, metric=metric, on_progress=status.update)
    if as_json and str(output) == "-":
        raise UserError("--json and the report cannot both be printed", remedy="name a file with -o")
    write(made.html, output, f"{made.trials} trials")
    run_id = None
    if record:
        try:
            run_id = record_summary(target, made.sweep, made.experiment_id, made.files, made.answer, made.caution)
        except StoreError as error:  # no failure: the file that was asked for is written
            click.echo(f"The report is not recorded in MLflow: {error}", err=True)
    if as_json:
        found = {"sweep": made.sweep, "trials": made.trials, "answer": made.answer, "caution": made.caution}
        print_json({"file": str(output.absolute()), **found, "summary_run_id": run_id})


@main.command()
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
@store_option
def ui(port: int, store: str | None) -> None:
    """Serve MLflow's UI on this machine and print the link to the newest sweep. Ctrl-C ends it."""
    from rich.console import Console

    from sweepstack.tracking.store import Store
    from sweepstack.tracking.ui.server import serve

    status = Console(stderr=True).status("waiting for MLflow's server to answer, which takes a few seconds")
    sys.exit(serve(Store(store), port, click.echo, lambda: status))  # the status is shown only in a terminal


@main.command()
@json_option
@click.option("--journal", metavar="DIR", help="The journal's folder, if tracking.journal names one.")
@store_option
def sync(as_json: bool, journal: str | None, store: str | None) -> None:
    """Deliver records that wait in the journal, and end the runs of dead processes that are still RUNNING."""
    import logging

    from sweepstack.error_log import ErrorsLog
    from sweepstack.execution.open_store import ledger_of
    from sweepstack.tracking.leftovers import finish_leftovers
    from sweepstack.tracking.store import Store
    from sweepstack.tracking.writer.delivery import deliver_what_is_left, not_delivered

    logging.basicConfig(level=logging.ERROR, handlers=[ErrorsLog()])
    target = Store(store)
    ledger = ledger_of(target, journal)
    delivered, refused = deliver_what_is_left(target, ledger)
    ledger.show_notes(click.echo)
    for error in refused:
        raise StoreError(not_delivered(0, target.uri, ledger.folder, one_line(error))) from error
    if as_json:
        print_json({"delivered": delivered, "store": target.uri})
    else:
        click.echo(f"{delivered} trials delivered to {target.uri}" if delivered else "Everything is delivered.")
    try:
        finish_leftovers(target)
    except Exception:  # the next command does it
        logging.getLogger(__name__).exception("the runs of killed commands could not be ended")


@main.command()
@click.argument("name")
@json_option
def data(name: str, as_json: bool) -> None:
    """Fetch and verify a dataset's files, for example: sweepstack data mnist"""
    from sweepstack.training.data.download import obtain

    folder = obtain(name)
    if as_json:
        print_json({"dataset": name, "folder": str(folder)})
    else:
        click.echo(f"{name} is complete and verified: {folder}")
