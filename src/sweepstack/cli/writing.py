"""Writes what a command of `sweepstack` makes: to a file, or to the terminal."""

from __future__ import annotations

from pathlib import Path

import click

from sweepstack.errors import UserError, printable
from sweepstack.strict_json import output as output_stream


def write(rendered: str | bytes, output: Path | None, what: str, is_json: bool = False) -> None:
    """Writes to a file, or prints.

    Args:
        rendered: what is written.
        output: the file; None or "-" to print.
        what: what is written, in words.
        is_json: print it as UTF-8 in every locale.

    Raises:
        UserError: the file cannot be written.
    """
    if output is None or str(output) == "-":
        if isinstance(rendered, str) and output_stream().isatty():
            rendered = "\n".join(map(printable, rendered.split("\n")))
        elif isinstance(rendered, str) and is_json:
            rendered = rendered.encode("utf-8", "backslashreplace")
        click.echo(rendered, output_stream(), nl=False)
        return
    from sweepstack.files.replacing import write_output

    content = rendered.encode() if isinstance(rendered, str) else rendered
    try:
        write_output(output, content)
    except OSError as error:
        raise UserError(
            f"{output} cannot be written ({error.strerror})",
            remedy="choose another file with -o",
        ) from error
    click.echo(printable(f"{what}: {output}"), err=True)
