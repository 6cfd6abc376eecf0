"""The commands of `sweepstack` that delete: clean, delete. Both list what they delete."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from sweepstack.cli.control import journal_option
from sweepstack.cli.programs import json_option
from sweepstack.cli.runs import store_option
from sweepstack.errors import UserError, as_typed, printable
from sweepstack.strict_json import print_json

if TYPE_CHECKING:
    from sweepstack.execution.cleanup.delete import Deletion
    from sweepstack.journal.unneeded import Inventory, Item

NOT_DELETED = 1
"""Exit code of `delete` if the question was answered with no."""
MOST_ITEMS = 20
"""The most files and folders of one kind, with one reason, that are named for people."""
UNITS = ("B", "kB", "MB", "GB", "TB")
"""Units of sizes, each a thousand of the one before."""


@click.command()
@click.option("--yes", is_flag=True, help="Delete what is listed; without it nothing is deleted.")
@click.option(
    "--kept", is_flag=True, help="Also what was kept: checkpoint.keep=true, damaged journals, plots of reports."
)
@json_option
@journal_option
@store_option
def clean(yes: bool, kept: bool, as_json: bool, journal: str | None, store: str | None) -> None:
    """List what nothing needs of journal and downloads, with sizes and reasons; with --yes delete it.

    What was interrupted or pruned, what waits for its delivery and what a command uses stays, and is listed, too."""
    from sweepstack.execution.cleanup.clean import clean as clean_now
    from sweepstack.execution.cleanup.clean import find
    from sweepstack.execution.open_store import ledger_of
    from sweepstack.tracking.address import own_options
    from sweepstack.tracking.store import Store

    target = Store(store)
    ledger = ledger_of(target, journal)
    found = find(ledger)
    chosen = [*found.unneeded, *(found.kept if kept else ())]
    deleted = clean_now(ledger, chosen, remember=target.database is None) if yes else []
    if as_json:
        content = {name: [*map(dataclasses.asdict, items)] for name, items in vars(found).items()}
        print_json({"journal": str(ledger.folder), **content, "deleted": [*map(dataclasses.asdict, deleted)]})
        return
    options = [*(["--kept"] if kept else []), *own_options(store, journal)]
    for line in _describe_clean(found, chosen, deleted, yes, as_typed(["sweepstack", "clean", "--yes", *options])):
        click.echo(printable(line))


def _describe_clean(
    found: Inventory, chosen: Sequence[Item], deleted: Sequence[Item], yes: bool, command: str
) -> Iterator[str]:
    if yes and chosen:
        if deleted:
            yield f"Deleted, {_size_of(deleted)}:"
            yield from _describe_items(deleted)
        if in_use := [item for item in chosen if item not in deleted]:
            yield f"Not deleted, because it is needed by now or cannot be deleted, {_size_of(in_use)}:"
            yield from _describe_items(in_use)
    elif chosen:
        yield f"Nothing needs, {_size_of(chosen)}:"
        yield from _describe_items(chosen)
    else:
        yield "There is nothing to clean."
    if kept := [item for item in found.kept if item not in chosen]:
        yield f"Kept, until --kept is given, {_size_of(kept)}:"
        yield from _describe_items(kept)
    if found.needed:
        yield f"Needed, {_size_of(found.needed)}:"
        yield from _describe_items(found.needed)
    if chosen and not yes:
        yield f"Delete what nothing needs:  {command}"


def _describe_items(items: Sequence[Item]) -> Iterator[str]:
    """Describes files and folders; those of one kind and reason together."""
    groups: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        groups.setdefault((item.kind, item.why), []).append(item)
    for (kind, why), members in groups.items():
        yield f"  {kind}: {why}"
        for item in members[:MOST_ITEMS]:
            yield f"    {size_text(item.size):>8}  {item.path}"
        if rest := members[MOST_ITEMS:]:
            yield f"    {_size_of(rest):>8}  in {len(rest)} others; --json names them"


@click.command()
@click.argument("sweep")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@journal_option
@store_option
def delete(sweep: str, yes: bool, as_json: bool, journal: str | None, store: str | None) -> None:
    """Delete the records of a SWEEP: its runs, its report, and what was left to resume. It asks before.

    Runs that others have, too, stay with those. MLflow can restore deleted runs until `mlflow gc` ends them; the
    files of the jobs in outputs/ and multirun/ stay. Exit code 1 if the answer is no."""
    if not (yes or sys.stdin.isatty()):
        raise UserError(
            f"the deletion of sweep {sweep!r} must be confirmed, and there is no terminal to ask at", remedy="add --yes"
        )
    import logging

    from sweepstack.error_log import ErrorsLog
    from sweepstack.execution.cleanup.delete import delete as delete_now
    from sweepstack.execution.cleanup.delete import find_deletion
    from sweepstack.execution.open_store import ledger_of
    from sweepstack.tracking.store import Store

    logging.basicConfig(level=logging.ERROR, handlers=[ErrorsLog()])
    target = Store(store)
    ledger = ledger_of(target, journal)
    if not yes:
        found = find_deletion(target, ledger, sweep)
        for line in (f"In {target.uri} this deletes:", *_describe_deletion(found)):
            click.echo(printable(line), err=True)
        if not click.confirm(printable(f"Delete sweep {sweep}?"), err=True):
            click.echo("Nothing is deleted.", err=True)
            sys.exit(NOT_DELETED)
    done = delete_now(target, ledger, sweep)
    if as_json:
        print_json(_for_programs(done))
        return
    for line in (f"Sweep {sweep} is deleted:", *_describe_deletion(done)):
        click.echo(printable(line))
    if done.runs.own or done.runs.summaries:
        click.echo("MLflow can restore the runs until `mlflow gc` ends all that was deleted, with the files.")


def _describe_deletion(found: Deletion) -> Iterator[str]:
    from sweepstack.errors import count

    runs, left = found.runs, found.left
    if runs.own:
        states = Counter(run.state for run in runs.own)
        yield f"  {count(len(runs.own), 'run')} ({', '.join(f'{number} {state}' for state, number in states.items())})"
    if runs.summaries:
        yield "  its report"
    if found.studies:
        yield f"  {'the study' if len(found.studies) == 1 else f'{len(found.studies)} studies'} behind its search"
    if left.unfinished:
        size = f", {size_text(left.size)} of checkpoints" if left.size else ""
        yield f"  the state of {count(len(left.unfinished), 'unfinished trial')}{size}"
    if runs.shared:
        sweeps = Counter(name for run in runs.shared for name in run.others or ["a single run"])
        named = ", ".join(f"{name} ({number})" for name, number in sorted(sweeps.items()))
        stay = "1 run stays" if len(runs.shared) == 1 else f"{len(runs.shared)} runs stay"
        yield f"{stay}, because others have the same trials: {named}"


def _for_programs(done: Deletion) -> dict[str, Any]:
    return {
        "sweep": done.runs.sweep,
        "deleted_runs": [run.id for run in done.runs.own],
        "deleted_summaries": [*done.runs.summaries],
        "shared_runs": {run.id: sorted(run.others) for run in done.runs.shared},
        "forgotten_trials": [row.trial.id for row in done.left.unfinished],
        "checkpoint_bytes": done.left.size,
        "deleted_studies": [*map(str, done.studies)],
    }


def _size_of(items: Sequence[Item]) -> str:
    return size_text(sum(item.size for item in items))


def size_text(size: float) -> str:
    """Returns a number of bytes with a unit."""
    unit = 0
    while size >= 999.5 and unit < len(UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.3g} {UNITS[unit]}"
