"""How a program ends: whatever was raised, as lines for the user and an exit code; for train.py as for `sweepstack`."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from sweepstack.errors import UserError, full_disk, printable
from sweepstack.faults import Fault, Whose, describe_error, judge

OK, FAILED, USER_ERROR, WAITING, EXIT_INTERRUPTED, READER_GONE, TERMINATED = 0, 1, 2, 3, 130, 141, 143
"""Exit codes: all is well; a trial failed, or a fault of ours; something needs to be fixed first; all was trained, and
records wait in the journal; Ctrl-C; nobody reads the output any more; SIGTERM."""


@dataclass(frozen=True)
class Ending:
    """How a program ends."""

    code: int
    lines: tuple[str, ...]
    """For the standard error."""


def ending(error: BaseException) -> Ending:
    """What an exception that nobody has caught means. The traceback of a fault in the user's own code, or in ours, is
    kept in mlruns/errors.log."""
    if isinstance(error, BrokenPipeError) and error.filename is None:
        return Ending(READER_GONE, ())
    fault = judge(error)
    if fault.whose is Whose.OURS:
        return Ending(FAILED, (f"error: {describe_error(error)} (not your mistake; {_kept(error)})",))
    if fault.whose is Whose.CODE:
        return Ending(USER_ERROR, (f"error: {describe_error(error)} (in your {fault.where}; {_kept(error)})",))
    if isinstance(error, UserError):
        return Ending(USER_ERROR, tuple(f"error: {part}{_came_of(part)}" for part in error.errors))
    return Ending(USER_ERROR, (f"error: {_of_others(error, fault)}",))


def _of_others(error: BaseException, fault: Fault) -> str:
    """The line for what Hydra, or the machine, has against what was typed."""
    if fault.whose is Whose.TYPED:
        from sweepstack.hydra_adapter.error_messages import explain

        return explain(error)
    if full := full_disk(error):
        return printable(full)
    if not isinstance(error, OSError):
        return f"{describe_error(error)}; the memory of this machine is full: make room, or take less at a time"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"too many files are open ({error.strerror}); raise the limit with ulimit -n"
    if error.filename is None:
        what = "something that was written to or read from does not work"
        return f"{describe_error(error)}: {what}; check the disk and its mounts"
    return printable(
        f"{error.filename} cannot be used ({error.strerror}); correct that, or choose another place for it"
    )


def _came_of(mistake: UserError) -> str:
    """For a mistake to which an exception in the user's own code has led: where, unless it says so, and the log."""
    cause = mistake.__cause__
    fault = judge(cause) if cause is not None else None
    if cause is None or fault is None or not fault.where:
        return ""
    where = "" if f"in your {fault.where}" in str(mistake) else f"in your {fault.where}; "
    return f" ({where}{_kept(cause)})"


def _kept(error: BaseException) -> str:
    from sweepstack.error_log import log_traceback

    place = log_traceback(error)
    return f"the traceback is in {place}" if place else "the traceback could not be kept, no log can be written"
