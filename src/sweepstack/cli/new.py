"""The command `sweepstack new`: writes a small project that runs at once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import click

from sweepstack.errors import UserError, as_typed, did_you_mean, one_line, printable

TEMPLATE = ".template"
"""The ending of the files that become a project. With it, no tool takes them for code of this package."""
ORIGINS = ("lightning-hydra-template", "plain")
"""What a user can come from; `migrating/` says for each what moves where."""
MIGRATING = "MIGRATING.md"
"""The file that says it in the new project."""


@click.command()
@click.argument("directory", metavar="DIR")
@click.option(
    "--from",
    "origin",
    metavar="|".join(ORIGINS),
    help=f"What you have now: also write {MIGRATING}, which says what of it moves where.",
)
def new(directory: str, origin: str | None) -> None:
    """Write a small project into a new or empty folder: a program, a model, a dataset, their configs and a test.

    It runs at once; put your model and your data in the place of those.
    """
    if origin is not None and origin not in ORIGINS:
        part_of = [one for one in ORIGINS if origin and origin.lower() in one]
        raise UserError("--from must name what you come from", origin, did_you_mean((part_of or [origin])[0], ORIGINS))
    folder = _checked(directory)
    content = {name: file.read_text(encoding="utf-8") for name, file in _templates(files("sweepstack.cli") / "project")}
    if origin is not None:
        guide = files("sweepstack.cli").joinpath("migrating", f"{origin}.md").read_text(encoding="utf-8")
        content[MIGRATING] = guide
    try:
        _write(folder, content)
    except OSError as error:
        rule = f"{click.format_filename(error.filename or folder)} cannot be written ({error.strerror})"
        raise UserError(rule, remedy="choose another folder") from error
    where = os.path.relpath(folder)
    click.echo(printable(f"{where if where != '.' else 'This folder'} has a project now: {', '.join(sorted(content))}"))
    if origin is not None:
        click.echo(f"\n{guide}")
    click.echo("\nNext:")
    if where != ".":
        click.echo(f"  {as_typed(['cd', where])}")
    for line in ("python train.py -m model.width=4,16 optimizer.lr=0.1,0.3", "sweepstack report -o report.html"):
        click.echo(f"  {line}")
    click.echo("README.md says what is where.")


def _write(folder: Path, content: Mapping[str, str]) -> None:
    """Writes all files of a project, or none: if one cannot be written, or Ctrl-C comes, those before it are removed.

    Args:
        folder: the folder of the project.
        content: the text of each file, by its path in the project.
    """
    made: list[Path] = []
    try:
        for name, text in content.items():
            file = folder / name
            for above in [one for one in reversed(file.parents) if not one.exists()]:
                above.mkdir()
                made.append(above)
            with file.open("x", encoding="utf-8", newline="\n") as stream:
                made.append(file)
                stream.write(text)
    except BaseException:
        for path in reversed(made):
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
        raise


def _templates(folder: Traversable, inside: str = "") -> Iterator[tuple[str, Traversable]]:
    """Yields the files of a project, by their paths in it."""
    for entry in folder.iterdir():
        name = f"{inside}{entry.name.replace('dot-', '.', 1)}"
        if entry.is_dir():
            yield from _templates(entry, f"{name}/")
        elif name.endswith(TEMPLATE):
            yield name.removesuffix(TEMPLATE), entry


def _checked(directory: str) -> Path:
    """Returns the absolute path of the folder of a new project.

    Raises:
        UserError: it is a file, has files, belongs to Python, or is no name of a folder.
    """
    from sweepstack.paths import is_of_python, typed_path

    remedy = "name a new folder, such as sweepstack new my_project"
    if not directory.strip() or not directory.isprintable() or "${" in directory:
        raise UserError("a project needs a folder whose name can be typed, without ${", directory, remedy)
    folder = Path(os.path.abspath(typed_path(directory)))
    try:
        if is_of_python(folder):
            raise UserError("a project must not be in a folder of Python's", str(folder), "name a folder elsewhere")
        if folder.is_dir():
            found = sorted(entry.name for entry in folder.iterdir() if not _is_no_content(entry))
            if found:
                shown = printable(", ".join(found[:3])) + (", ..." if len(found) > 3 else "")
                rule = f"the folder of a new project must be empty, {folder} has {shown}"
                raise UserError(rule, remedy=remedy)
        elif folder.exists() or folder.is_symlink():
            raise UserError(f"{folder} is there, and is not a folder", remedy=remedy)
    except OSError as error:
        rule = f"{one_line(directory)} cannot be a folder here ({error.strerror})"
        raise UserError(rule, remedy=remedy) from error
    return folder


def _is_no_content(entry: Path) -> bool:
    """True for what a folder may have before the project: git's own folder, and an environment of Python."""
    return entry.is_dir() and (entry.name == ".git" or (entry / "pyvenv.cfg").is_file())
