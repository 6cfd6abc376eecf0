"""Turns an exception into lines for the user and an exit code, for train.py and for `sweepstack`."""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import io
import os
import threading
from dataclasses import dataclass
from typing import Any, NoReturn

from sweepstack.blame import Fault, Whose, describe_error, judge
from sweepstack.errors import NO_VALUE, UserError, full_disk, printable

OK = 0
"""Exit code: everything went well."""
FAILED = 1
"""Exit code: a trial failed, or sweepstack has a bug."""
USER_ERROR = 2
"""Exit code: the user has to fix something first."""
WAITING = 3
"""Exit code: all is trained, and records wait in the journal."""
EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C."""
READER_GONE = 141
"""Exit code: nobody reads the output any more."""
TERMINATED = 143
"""Exit code after SIGTERM."""


def leave(code: int) -> NoReturn:
    """Ends this process without taking the loaded libraries down, which takes PyTorch about a second.

    All that users can rely on is done: threads are waited for, `atexit` functions run, open files are flushed.

    Args:
        code: the exit code.
    """
    threading._shutdown()  # type: ignore[attr-defined] # what Python itself does first
    atexit._run_exitfuncs()
    for each in gc.get_objects():
        if issubclass(type(each), io.BufferedWriter | io.BufferedRandom | io.TextIOWrapper):  # asks no object
            with contextlib.suppress(OSError, ValueError):  # it is closed, or a reader has gone
                each.flush()
    os._exit(code)


@dataclass(frozen=True)
class Ending:
    """How a program ends."""

    code: int
    lines: tuple[str, ...]
    """The lines for the standard error."""


def ending(error: BaseException) -> Ending:
    """Decides how an uncaught exception ends the program.

    If the fault is in the user's own code or in sweepstack, the traceback is kept in mlruns/errors.log.
    """
    if isinstance(error, BrokenPipeError) and error.filename is None:
        return Ending(READER_GONE, ())
    fault = judge(error)
    if fault.whose is Whose.OURS:
        return Ending(FAILED, (f"error: {describe_error(error)} (not your mistake; {_keep_traceback(error)})",))
    if fault.whose is Whose.CODE:
        return Ending(
            USER_ERROR, (f"error: {describe_error(error)} (in your {fault.where}; {_keep_traceback(error)})",)
        )
    if isinstance(error, UserError):
        return Ending(USER_ERROR, tuple(f"error: {part}{_describe_cause(part)}" for part in error.errors))
    return Ending(USER_ERROR, (f"error: {_describe_other(error, fault)}",))


def as_object(error: BaseException, end: Ending) -> dict[str, Any]:
    """Returns how a program ends as one object for programs.

    It has `rule`, `value`, `remedy`, `where` and `message` (the line for people) of the first mistake, `exit_code`, and
    in `further` the same five of each other one. `value` is None if the rule names it. Other errors than `UserError`
    have a rule and perhaps a remedy.
    """
    lines = [line.removeprefix("error: ") for line in end.lines]
    if isinstance(error, UserError) and len(lines) == len(error.errors):
        found = [_fields(part, line) for part, line in zip(error.errors, lines, strict=True)]
    else:
        found = [_fields(UserError(*rule_and_remedy(line)), line) for line in lines]
    return {**found[0], "exit_code": end.code, "further": found[1:]}


def _fields(error: UserError, line: str) -> dict[str, Any]:
    value = None if error.value is NO_VALUE else error.value
    return {"rule": error.rule, "value": value, "remedy": error.remedy, "where": error.where, "message": line}


def rule_and_remedy(line: str) -> tuple[str, Any, str]:
    """Returns rule, value and remedy of a line, as `UserError` takes them; the value is part of the rule."""
    rule, _, remedy = line.rpartition("; ")
    return (rule, NO_VALUE, remedy) if rule else (line, NO_VALUE, "")


def _describe_other(error: BaseException, fault: Fault) -> str:
    """Returns the line for an error that Hydra found in what was typed, or that the machine caused."""
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
        return f"{describe_error(error)}: a file cannot be read or written; check the disk and its mounts"
    return printable(f"{error.filename} cannot be used ({error.strerror}); correct that, or choose another path for it")


def _describe_cause(mistake: UserError) -> str:
    """If an exception in the user's own code caused a mistake, says where it was raised and where its traceback is."""
    cause = mistake.__cause__
    fault = judge(cause) if cause is not None else None
    if cause is None or fault is None or not fault.where:
        return ""
    where = "" if f"in your {fault.where}" in str(mistake) else f"in your {fault.where}; "
    return f" ({where}{_keep_traceback(cause)})"


def _keep_traceback(error: BaseException) -> str:
    from sweepstack.error_log import log_traceback

    path = log_traceback(error)
    return f"the traceback is in {path}" if path else "the traceback could not be kept, no log can be written"
