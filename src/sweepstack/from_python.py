"""`sweepstack.sweep`: a sweep from Python, such as a notebook.

It starts the command that `python train.py -m` is, in a process of its own (`train.py` of this package), and reads the
table. So the plan, the records and a resume are those of the command line; Hydra, PyTorch, signal handlers, logging and
the event loop of the caller stay as they are; and nothing that the caller has done, such as a use of PyTorch's threads
or of a GPU, can change a training. The price is the start of a process, one to two seconds.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import importlib
import json
import os
import pickle
import re
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterable, Iterator, KeysView, Mapping, Sequence, ValuesView
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Any

from sweepstack.child_process import NEW_GROUP
from sweepstack.errors import ConfigError, UserError, printable
from sweepstack.exits import EXIT_INTERRUPTED, FAILED, OK, TERMINATED, USER_ERROR, WAITING, rule_and_remedy
from sweepstack.files.current import current_folder
from sweepstack.paths import typed_path
from sweepstack.trial import TrialState

if TYPE_CHECKING:
    import pandas as pd

    from sweepstack.tracking.runs_as_rows import Row

BEGUN_BY_SWEEP = "SWEEPSTACK_SWEEP"
"""Environment variable of the process that trains, and of all that it starts."""
KEY = re.compile(r"\+{0,2}[^\W\d][\w./@:-]*")
"""Matches a key as it is typed."""
NAME = re.compile(r"[^\W\d][\w.]*")
"""Matches a name, or several with dots between."""
TRIAL_ENDED = re.compile(r"\[\d+/[\d,]+\] ")
"""Matches the beginning of a line that says how one trial has ended."""
COLORS = ("FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE")
"""Environment variables of a notebook, which make programs write to a pipe as to a terminal."""
MOST_NAMED = 5
"""The most failed trials that a warning names."""
WIDTH = 100
"""Characters of the line in a notebook that is written again and again."""


def sweep(
    *settings: Mapping[str, Any] | Iterable[str] | str,
    trials: int | None = None,
    config_dir: str | os.PathLike[str] | None = None,
    config_name: str = "config",
    quiet: bool = False,
    **keys: Any,
) -> pd.DataFrame:
    """Trains a sweep, as `python train.py -m` does, and returns its table: one row for each trial, the best first.

        import sweepstack

        df = sweepstack.sweep({"optimizer.lr": [0.001, 0.01, 0.1], "batch_size": [50, 100]}, dataset="digits", epochs=3)

    Keys are those of the config; one without a dot may be a keyword, such as `epochs=3`. A list sweeps its values (so
    do a tuple, a range, an array, a pandas Series, an iterator), and several lists are crossed; anything else is one
    value. A list inside of the list is a value: `{"model.hidden": [[64], [128, 64]]}` sweeps two, `{"model.hidden":
    [[64]]}` sets one. A text is taken as it is, with all its commas, quotes and `${`. A class or a function stands for
    its import path: `{"model._target_": Net}`. It must be in a module, because another process imports it; a cell of a
    notebook is none.

    What only Hydra's grammar can say is given as words, as they are typed:

        df = sweepstack.sweep("optimizer.lr=tag(log,interval(1e-4,1))", search="tpe", trials=32, dataset="digits")

    The same call again trains only what is missing, also after Ctrl-C (the stop button of a notebook). Relative paths
    start in the current folder; the store is the project's, or what `{"tracking.uri": ...}` or MLFLOW_TRACKING_URI
    names. The columns are those of `sweepstack.table`. Failed trials are in the table with their state and reason, and
    a warning names them. With `{"launch.dry_run": True}` the plan is printed, and the table is empty.

    Args:
        settings: mappings from keys to values, and overrides of Hydra as texts or lists of texts.
        trials: the number of trials of a search, `search.trials`.
        config_dir: a folder with configs: that of a whole project if it holds the main config, else one with groups
            beside those of the project, as `--config-dir` adds it. None: `conf/` of the project.
        config_name: the name of the main config.
        quiet: True: print nothing but warnings.

    Raises:
        UserError: a setting, the config, the data or the store cannot be used; `str(error)` is the line that the
            command prints, and `error.rule`, `value`, `remedy` and `where` are its parts.
        RuntimeError: the process that trains has ended without a table.
        KeyboardInterrupt: the sweep was stopped; the same call goes on from there.
    """
    if os.environ.get(BEGUN_BY_SWEEP):
        raise UserError(
            "a sweep imports the file with your model, and that file begins another sweep",
            remedy="put sweepstack.sweep(...) below `if __name__ == '__main__':`, or the model into a file of its own",
        )
    current_folder()
    words = [*words_of(*settings, {} if trials is None else {"search.trials": trials}, keys)]
    words += _location(config_dir, config_name)
    with tempfile.TemporaryDirectory() as folder:
        rows, mistakes = Path(folder, "rows"), Path(folder, "mistakes")
        code, errors = _run(words, {"rows": str(rows), "mistakes": str(mistakes)}, quiet)
        found = pickle.loads(rows.read_bytes()) if rows.exists() else None
        mistake = _read_mistake(mistakes)
    message = "\n".join(errors)
    if code in (TERMINATED, EXIT_INTERRUPTED):
        raise KeyboardInterrupt(message)
    if code == USER_ERROR:
        if mistake is None or str(mistake) != message:
            mistake = UserError(message) if len(errors) > 1 else UserError(*rule_and_remedy(message))
        raise mistake
    if code not in (OK, FAILED, WAITING) or (code != OK and found is None):
        raise RuntimeError(
            message or f"the process that trains has ended with code {code}; the same call goes on from there"
        )
    return _table(found or [], message if code == WAITING else "")


def words_of(*settings: Mapping[str, Any] | Iterable[str] | str) -> Iterator[str]:
    """Yields settings as words of Hydra's command line.

    Args:
        settings: see `sweep`.

    Raises:
        ConfigError: a key or a value cannot be one of a config, or a key is given twice.
    """
    seen: set[str] = set()
    for part in settings:
        if not isinstance(part, Iterable):
            raise ConfigError("settings must be mappings or overrides KEY=VALUE", part, "for example {'epochs': 3}")
        for word in _words_of_mapping(part) if isinstance(part, Mapping) else [part] if isinstance(part, str) else part:
            if not isinstance(word, str) or word.startswith("-"):
                raise ConfigError("a setting must be a mapping or an override KEY=VALUE", word, "for example epochs=3")
            key = word.partition("=")[0].lstrip("+")
            if key in seen:
                raise ConfigError("a key must be given once", key, "put all its values into one list")
            seen.add(key)
            yield word


def _words_of_mapping(settings: Mapping[str, Any]) -> Iterator[str]:
    from sweepstack.hydra_adapter.sweep_values import typed

    for key, value in settings.items():
        if not isinstance(key, str) or not KEY.fullmatch(key):
            rule = "a key must be one of the config, or +KEY to add one"
            raise ConfigError(rule, key, "for example 'optimizer.lr'; ~KEY is given as a text, outside of the mapping")
        values = [typed(_plain(one, key)) for one in _values(key, value)]
        if not values:
            raise ConfigError(f"{key} must have a value", value, f"for example {{{key!r}: [1, 2]}}")
        yield f"{key}={','.join(values)}"


def _values(key: str, value: Any) -> Iterable[Any]:
    """Returns the values that a key is swept over, or its only value."""
    if isinstance(value, set | frozenset):
        raise ConfigError(f"the values of {key} must have an order", value, "give a list, such as sorted(...)")
    if isinstance(value, str | Mapping | enum.Enum | PurePath | bytes | bytearray | memoryview) or callable(value):
        return [value]
    if hasattr(value, "tolist"):  # NumPy, pandas, PyTorch
        found = _list_of(value)
        return found if isinstance(found, list) else [found]
    return value if isinstance(value, Sequence | Iterator | KeysView | ValuesView) else [value]


def _list_of(value: Any) -> Any:
    """Returns an array, or a number of NumPy, as lists of numbers: of 32 or 16 bits as they are written, 0.1 as 0.1."""

    def written(part: Any) -> Any:
        return [written(one) for one in part] if isinstance(part, list) else float(str(kind(part)))

    found, name = value.tolist(), str(getattr(value, "dtype", "")).rpartition(".")[2].lower()
    if name not in ("float32", "float16"):
        return found
    import numpy as np

    kind = np.dtype(name).type
    return written(found)


def _plain(value: Any, key: str) -> Any:
    """Returns a value as one of those that a config can hold: None, bool, int, float, str, and lists and dicts of them.

    Args:
        value: the value.
        key: its key, for errors.
    """
    match value:
        case enum.Enum():
            return _plain(value.value, key)
        case None | bool():
            return value
        case int():
            return int(value)
        case float():  # that of NumPy is one, too
            return float(value)
        case str() | PurePath():
            return _text(str(value), key)
        case Mapping():
            if wrong := [name for name in value if not (isinstance(name, str) and NAME.fullmatch(name))]:
                raise ConfigError(f"a name inside of {key} must be a word", wrong[0], "for example {'name': 1}")
            return {name: _plain(part, key) for name, part in value.items()}
        case list() | tuple() | range():
            return [_plain(part, key) for part in value]
    if callable(value):
        return _import_path(value, key)
    if hasattr(value, "tolist") and not isinstance(value, memoryview):
        return _plain(_list_of(value), key)
    raise ConfigError(
        f"{key} must be a number, a text, None, or a list or dict of these",
        value,
        f"convert the {type(value).__name__}",
    )


def _text(text: str, key: str) -> str:
    if "\0" in text:
        raise ConfigError(f"{key} must not have a NUL character", text, "leave it out")
    if text.startswith("__main__."):
        raise _not_in_a_module(text, key)
    return text


def _import_path(target: Any, key: str) -> str:
    """Returns the shortest path at which a class or function can be imported, as people write it: torch.optim.SGD.

    Args:
        target: the class or function.
        key: the key that it is the value of, for errors.
    """
    module, name = getattr(target, "__module__", None) or "", getattr(target, "__qualname__", "")
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)  # of `python -m package.module`
    script = Path(getattr(main, "__file__", None) or "").stem if spec is None else spec.name
    if module == "__main__" and NAME.fullmatch(f"{script}.{name}"):
        return f"{script}.{name}"
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        with contextlib.suppress(Exception):  # there is no such module, or nothing of that name in it
            holder = importlib.import_module(".".join(parts[:end]))
            if module != "__main__" and functools.reduce(getattr, name.split("."), holder) is target:
                return ".".join([*parts[:end], name])
    raise _not_in_a_module(target, key)


def _not_in_a_module(target: Any, key: str) -> ConfigError:
    return ConfigError(
        f"{key} must name what another process can import",
        target,
        "write it to a file beside the notebook, such as my_net.py (%%writefile), and import it from there",
    )


def _read_mistake(file: Path) -> UserError | None:
    """Returns the error that has ended the command, with its fields; None if only its line is known."""
    with contextlib.suppress(Exception):  # it is not there, or has a value of a class that this process cannot import
        found = pickle.loads(file.read_bytes())
        return found if isinstance(found, UserError) else None
    return None


def _location(config_dir: str | os.PathLike[str] | None, config_name: str) -> list[str]:
    """Returns Hydra's flags that say where the configs are; see `sweep`."""
    name = config_name.removesuffix(".yaml")
    flags = [] if name == "config" else [f"--config-name={name}"]
    if config_dir is None:
        return flags
    chosen = typed_path(config_dir)
    if not chosen.is_dir():
        raise ConfigError("config_dir must be a folder with configs", str(config_dir), "for example 'my_conf'")
    is_main = (chosen / f"{name}.yaml").is_file()
    return [*flags, f"--config-{'path' if is_main else 'dir'}={chosen}"]


def _run(words: Sequence[str], files: Mapping[str, str], quiet: bool) -> tuple[int, list[str]]:
    """Runs the command, and shows what it prints; returns its exit code and its errors.

    Its standard input is its tie to this process: when that is closed, it stops, as after SIGTERM.

    Args:
        words: the words of Hydra's command line.
        files: those to which it writes: `rows` for the rows of the table, `mistakes` for the error that has ended it.
        quiet: see `sweep`.
    """
    paths = [os.path.abspath(path) for path in sys.path]
    begin = f"import sys; sys.path[:] = {paths!r}; from sweepstack.train import main; main()"
    order = json.dumps({"words": ["--multirun", *words], **files})
    environment = {name: value for name, value in os.environ.items() if name not in COLORS} | {BEGUN_BY_SWEEP: "1"}
    if environment.get("MPLBACKEND", "").startswith("module://"):  # draws into a notebook
        del environment["MPLBACKEND"]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", begin],
        env=environment,
        encoding="utf-8",
        errors="replace",
        process_group=0,  # Ctrl-C in a terminal would reach it, too
        creationflags=NEW_GROUP,  # the same on Windows
        **pipes,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    errors: list[str] = []
    reader = threading.Thread(target=_read_errors, args=(process.stderr, errors), daemon=True)
    reader.start()
    shown = _Progress(quiet)
    try:
        with contextlib.suppress(BrokenPipeError):  # it has ended, and says why
            process.stdin.write(f"{order}\n")
            process.stdin.flush()
        shown.show(process.stdout)
        process.wait()
    except BaseException:
        _close(process.stdin)
        try:
            shown.show(process.stdout)
            process.wait()
        finally:
            process.kill()  # only after a second Ctrl-C does it still run
        raise
    finally:
        shown.end()
        process.wait()
        reader.join()
        for pipe in (process.stdin, process.stdout, process.stderr):
            _close(pipe)
    return process.returncode, errors


def _close(pipe: IO[str] | None) -> None:
    with contextlib.suppress(BrokenPipeError):
        if pipe is not None:
            pipe.close()


def _read_errors(stream: IO[str], errors: list[str]) -> None:
    """Collects errors, and shows all other lines.

    Args:
        stream: the standard error of the command.
        errors: takes its errors without the word "error:".
    """
    for line in stream:
        text = line.rstrip()
        if text.startswith(("error: ", "Stopped")) or errors:
            errors.append(text.removeprefix("error: "))
        elif text.startswith('{"rule": '):  # what `launch.dry_run=json` makes of errors
            found = json.loads(text)
            errors += [one["message"] for one in (found, *found["further"])]
        elif text:
            print(text, file=sys.stderr, flush=True)


class _Progress:
    """What a command prints, in fewer lines: those of single trials take turns in one line, where that is possible.

    Args:
        quiet: show nothing.
    """

    def __init__(self, quiet: bool) -> None:
        from rich.console import Console

        console = Console()
        self._quiet = quiet
        self._rewrites = console.is_terminal or console.is_jupyter
        self._open = False  # the last line can be rewritten

    def show(self, stream: IO[str]) -> None:
        """Shows the lines of a stream until its end."""
        for line in stream:
            text = line.rstrip()
            if self._quiet:
                continue
            if self._rewrites and TRIAL_ENDED.match(text):
                print(f"\r{text[:WIDTH]:<{WIDTH}}", end="", flush=True)
                self._open = True
            else:
                self.end()
                print(text, flush=True)

    def end(self) -> None:
        """Ends the line that was rewritten."""
        if self._open:
            print()
        self._open = False


def _table(rows: Sequence[Row], waiting: str) -> pd.DataFrame:
    """Makes the table, and warns of what a user must not overlook.

    Args:
        rows: the rows of the trials.
        waiting: why records are not in the store yet; empty if they are.
    """
    from sweepstack.results.tables.frame import as_frame

    if waiting:
        _warn(waiting)
    if not rows:
        import pandas as pd

        return pd.DataFrame()
    try:
        frame = as_frame(rows)
    except UserError as error:  # the trials have different objectives
        _warn(f"the trials are not ranked: {error}")
        frame = as_frame(rows, sort="started")
    lost = [row for row in rows if row.state in (TrialState.FAILED, TrialState.KILLED)]
    if lost:
        named = [f"{row.name} ({row.state}: {row.reason})" for row in lost[:MOST_NAMED]]
        more = [f"and {len(lost) - MOST_NAMED} more"] if len(lost) > MOST_NAMED else []
        _warn(f"{len(lost)} of {len(rows)} trials have no result: {', '.join([*named, *more])}")
    return frame


def _warn(line: str) -> None:
    warnings.warn(printable(line), RuntimeWarning, stacklevel=4)
