"""The current folder, which may be gone."""

from __future__ import annotations

from pathlib import Path

from sweepstack.errors import UserError


def current_folder() -> Path:
    """Returns the current folder.

    Raises:
        UserError: it was deleted, or nobody may enter it.
    """
    try:
        return Path.cwd()
    except OSError as error:
        rule = f"the current folder must exist ({error.strerror})"
        raise UserError(rule, remedy="change to another one (cd, in Python os.chdir)") from error
