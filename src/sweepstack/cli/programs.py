"""The option --json of all commands that print, and errors as JSON; see docs/how-to/programs.md."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import click

from sweepstack.errors import UserError
from sweepstack.exits import Ending, as_object
from sweepstack.strict_json import print_error_json

JSON = "--json"
json_option = click.option(JSON, "as_json", is_flag=True, help="Print JSON, for programs.")


def asks_for_json(words: Sequence[str]) -> bool:
    """True if a command is typed for a program. It is known before click has parsed the words, or has refused them."""
    options = {*itertools.takewhile(lambda word: word != "--", words)}
    return JSON in options and not options & {"-h", "--help"}


def usage_error(error: click.ClickException) -> UserError:
    """Returns an error about what was typed as rule and remedy."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    remedy = f"see {context.command_path} --help" if context is not None else ""
    return UserError(error.format_message().rstrip("."), remedy=remedy)


def print_error(error: BaseException, end: Ending) -> int:
    """Prints how a command ends as the last line of standard error; returns the exit code."""
    if end.lines:
        print_error_json(as_object(error, end))
    return end.code
