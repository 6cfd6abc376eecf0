"""Decides whose mistake an exception is.

Its type decides first, then its traceback: the innermost frame in the user's own code or in sweepstack, whatever
libraries were called from there.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import functools
import os
import signal
import sysconfig
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from sweepstack.errors import UserError, full_disk, one_line

PACKAGE = Path(__file__).resolve().parent
"""The folder of sweepstack's code."""
OWN_FOLDERS = (f"{PACKAGE}{os.sep}", f"{PACKAGE.parent / 'hydra_plugins' / 'sweepstack'}{os.sep}")
"""All folders with sweepstack's code."""
READERS = ("hydra", "omegaconf", "yaml", "antlr4")
"""Packages that read the command line and config files."""
READING_FUNCTIONS = {
    "load_configuration",
    "load_sweep_config",
    "parse_overrides",
    "parse_override",
    "parse_rule",
    "load_config",
}
READING_FUNCTIONS |= {
    "run_job",
    "configure_log",
    "sweep",
    "multirun",
    "split_arguments",
    "get_mode",
    "instantiate_sweeper",
}
"""Functions of those packages that read them, or that do what Hydra's own section of the config says."""
CONFIG_TEXT_ERRORS = {"InterpolationResolutionError", "InterpolationKeyError", "InterpolationToMissingValueError"}
CONFIG_TEXT_ERRORS |= {"MissingMandatoryValue", "GrammarParseError", "ValidationError", "UnsupportedInterpolationType"}
"""Errors of OmegaConf that are about the text of a config, whatever code has asked for the value."""
PROGRAMMING_ERRNOS = (errno.EINVAL, errno.EBADF, errno.ECHILD, errno.ESRCH)
"""System errors that a mistake in a program causes, not a disk or a permission."""


class Whose(enum.Enum):
    """Whose mistake an exception is."""

    TYPED = "what was typed, or a file that it names"
    CODE = "the user's own code"
    MACHINE = "a disk, a permission, memory"
    OURS = "sweepstack"


@dataclass(frozen=True)
class Fault:
    """Whose mistake an exception is, and where."""

    whose: Whose
    where: str = ""
    """The place in the user's own code, such as "net.py, line 12, forward"; also if this code has caused a mistake of
    another kind."""
    direct: bool = True
    """True if that code raised the exception itself, False if a library that it called did."""


class UserCodeExitError(Exception):
    """A user's code wanted to end the program, with `sys.exit()` or an exception that is not an `Exception`."""


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Runs a user's code in the block, so that it cannot end the program.

    Raises:
        UserCodeExitError: the code called `sys.exit()`, or raised another exception that is not an `Exception`. That
            exception is the cause.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        if is_signal(error) or not _in_user_code(error):
            raise
        raise UserCodeExitError(f"the code ends the program: {describe_error(error)}") from error


def judge(error: BaseException) -> Fault:
    """Decides whose mistake an exception is."""
    chain = _causes(error)
    owner, where, direct = next((found for each in reversed(chain) if (found := _owner(each)) is not None), _NOBODY)
    if isinstance(error, UserError):
        causes = (judge(part.__cause__) for part in error.errors if part.__cause__ is not None)
        return Fault(Whose.TYPED, next((cause.where for cause in causes if cause.whose is Whose.CODE), ""))
    if owner is Whose.CODE:
        return Fault(Whose.CODE, where, direct)
    if any(isinstance(each, UserError) or _is_reading(each) for each in chain):
        return Fault(Whose.TYPED)
    if full_disk(error) or any(_is_of_the_machine(each) for each in chain):
        return Fault(Whose.MACHINE)
    return Fault(Whose.OURS, direct=direct)


def describe_error(error: BaseException) -> str:
    """Describes an exception in one line: its type and its message."""
    text = full_disk(error)
    if text or isinstance(error, UserError | UserCodeExitError):
        return text or one_line(error)
    message = one_line(error)
    name = type(error).__name__
    return message if message == name else f"{name}: {message}"


def reason(error: BaseException) -> str:
    """Returns the reason why a trial failed: the exception, and the place in the user's own code that led to it."""
    fault = judge(error)
    if fault.where:
        return f"{describe_error(error)} (in your {fault.where})"
    return (
        f"{describe_error(error)} (not your mistake)"
        if fault.whose is Whose.OURS and fault.direct
        else describe_error(error)
    )


_NOBODY: tuple[Whose | None, str, bool] = (None, "", True)


def _causes(error: BaseException) -> list[BaseException]:
    """Returns the exception and its chain of causes."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None and cause not in chain:
        chain.append(cause)
    return chain


def _owner(error: BaseException) -> tuple[Whose, str, bool] | None:
    """Finds whose code raised an exception, at which place, and whether no library was in between."""
    direct = True
    if isinstance(error, SyntaxError) and error.filename and _whose_file(error.filename) is Whose.CODE:
        return Whose.CODE, f"{Path(error.filename).name}, line {error.lineno}", direct
    for frame, line in reversed([*traceback.walk_tb(error.__traceback__)]):
        file = frame.f_code.co_filename
        match _whose_file(file):
            case Whose.CODE:
                return Whose.CODE, f"{Path(file).name}, line {line}, {frame.f_code.co_name}", direct
            case Whose.OURS:
                return Whose.OURS, "", direct
        direct = direct and _is_of_python(file)
    return None


def _in_user_code(error: BaseException) -> bool:
    owner = _owner(error)
    return owner is not None and owner[0] is Whose.CODE


def is_signal(error: BaseException) -> bool:
    """True if a signal such as that of Ctrl-C has raised the exception, and not a user's code."""
    if type(error).__module__.startswith("sweepstack."):
        return True
    ours = signal.getsignal(signal.SIGINT) is not signal.default_int_handler  # then our handler is the innermost frame
    return type(error) is KeyboardInterrupt and not (ours and _in_user_code(error))


@functools.lru_cache(maxsize=4096)
def _whose_file(name: str) -> Whose | None:
    """Says whose code a file holds; None for a library."""
    if name.startswith("<"):
        return None
    file = os.path.realpath(name)
    if file.startswith(OWN_FOLDERS):
        return Whose.OURS
    return None if _is_installed_file(file) else Whose.CODE


def _is_installed_file(file: str) -> bool:
    return bool({"site-packages", "dist-packages"} & {*Path(file).parts}) or _is_of_python(file)


@functools.lru_cache(maxsize=4096)
def _is_of_python(name: str) -> bool:
    """True if a file belongs to Python's standard library."""
    if {"site-packages", "dist-packages"} & {*Path(name).parts}:
        return False
    return name.startswith("<") or os.path.realpath(name).startswith(_standard_library())


@functools.cache
def _standard_library() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple(os.path.realpath(paths[key]) + os.sep for key in ("stdlib", "platstdlib"))


def _is_reading(error: BaseException) -> bool:
    """True if Hydra, or a reader that it calls, raised the exception while it read the command line or a file."""
    package = type(error).__module__.partition(".")[0]
    inner: list[FrameType] = []
    outer = ("", "")
    for frame, _ in reversed([*traceback.walk_tb(error.__traceback__)]):
        if _whose_file(frame.f_code.co_filename) is not None:
            outer = (os.path.realpath(frame.f_code.co_filename), frame.f_code.co_name)
            break
        inner.append(frame)
    readers = [frame for frame in inner if frame.f_globals.get("__name__", "").partition(".")[0] in READERS]
    if not readers:
        return package == "hydra"
    if str(error).startswith("Config group override") or package in ("hydra", "yaml", "antlr4"):
        return True
    if any(frame.f_code.co_name in READING_FUNCTIONS for frame in readers) or outer == (
        str(PACKAGE / "app.py"),
        "main",
    ):
        return True
    return package == "omegaconf" and type(error).__name__ in CONFIG_TEXT_ERRORS


def _is_of_the_machine(error: BaseException) -> bool:
    if isinstance(error, OSError):
        named = error.filename is not None or error.errno in (errno.EPIPE, errno.EMFILE, errno.ENFILE, errno.EIO)
        return error.errno is not None and error.errno not in PROGRAMMING_ERRNOS and named
    return isinstance(error, MemoryError)
