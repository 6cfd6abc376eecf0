"""Checkpoints: files that hold the state of a training and survive a kill at any moment; and the request to stop."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from sweepstack.errors import one_line
from sweepstack.files.owner_only import make_folder, opener
from sweepstack.files.replacing import irregular, make_durable, move_over
from sweepstack.trial import PRUNED_STATE, parts_of

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
"""The version of the format of a file."""
TITLE = b"sweepstack checkpoint %d " % FORMAT_VERSION
"""How a file begins; the first line ends with the checksum of all that follows it."""
SELDOM = 40
"""Duty cycle: after a save of t seconds, the next one is due SELDOM * t later at the earliest, so that saves take at
most 2.5 % of the time."""


class CheckpointError(Exception):
    """A state does not fit the training that should resume from it; the message says why.

    The training has reported nothing yet: it can begin from scratch, with a new model.
    """


class NewerCheckpointError(Exception):
    """A checkpoint was written by a newer version of sweepstack."""


class CheckpointManager:
    """Saves and restores the state of a training, and says when the training has to stop.

    The folder holds `latest.pt` and `previous.pt`; neither is ever incomplete. A state contains tensors and plain
    values only (dict, list, tuple, int, float, str, bool, None), because nothing else can be loaded again.

    Args:
        folder: a folder for this training alone; the first save makes it. None: save nothing.
        every: the least number of seconds between two saves; 0: save after every epoch, whatever it costs.
        stopping: returns whether to stop. The training calls it after every step, so it must be fast.
        before: a save calls it first, to make durable what was reported up to this state. If it raises OSError, nothing
            is saved: a state must not be ahead of its reports.
        say: receives one line for the user.
        beside: returns what a save keeps in `state` beside what the training gives.
        keep_pruned: keep the states of trials that are pruned out of a stack.
        unite: makes one state of those of several stacks, which are the files `PART_STATE`.
    """

    def __init__(
        self,
        folder: Path | None,
        every: float = 10.0,
        stopping: Callable[[], bool] = lambda: False,
        before: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = log.warning,
        beside: Callable[[], dict[str, Any]] = dict,
        keep_pruned: bool = True,
        unite: Callable[[Sequence[dict[str, Any]]], dict[str, Any]] = lambda states: states[0],
    ) -> None:
        self.state: dict[str, Any] | None = None
        """The state to resume from; None: begin from scratch. A training copies it and does not change it."""
        self._folder = folder
        self._every = self._pause = every
        self._stopping, self._before, self._say, self._beside = stopping, before, say, beside
        self._keep_pruned, self._unite = keep_pruned, unite
        self._last = time.monotonic()
        self._complained = self._refused = False

    @property
    def stopping(self) -> bool:
        """True when the training has to save its state and to end as KILLED."""
        return self._stopping()

    def due(self) -> bool:
        """Whether it is time to save: the last save, or the beginning, is long enough ago."""
        return self._folder is not None and time.monotonic() - self._last >= self._pause

    def restore(self, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        """Loads the newest undamaged state into `state` and returns it; None when there is none.

        Reports and removes a damaged file.

        Args:
            device: the device for the tensors. A training copies them to its own device. The CPU saves a GPU the memory
                of a second copy.
        """
        self.state = None
        if self._folder is None:
            return None
        latest, previous, temporary = _files(self._folder)
        damaged: list[str] = []
        for path in (latest, previous):
            try:
                self.state = _read_state(path, device)
                break
            except FileNotFoundError:  # nothing was saved yet, or a kill came between the two renames
                continue
            except (torch.OutOfMemoryError, MemoryError):  # not the file's fault
                raise
            except NewerCheckpointError:
                kept = path.with_name(f"{path.stem}.newer.pt")
                move_over(path, kept)  # so that the next saves do not overwrite it
                self._say(f"checkpoint {path} is of a newer version of sweepstack; it is kept as {kept.name}")
            except Exception as error:  # a damaged file can fail in any way
                damaged.append(f"{path.name} {_reason(error)}")
                _remove(path)  # so that the next save does not replace the good file by it
        _remove(temporary)
        if self.state is None:
            self._join(device, damaged)
        if damaged:
            remedy = "training begins from scratch" if self.state is None else "training resumes from the previous one"
            self._say(f"checkpoint {self._folder} is damaged ({'; '.join(damaged)}); {remedy}")
        return self.state

    def _join(self, device: torch.device | str, damaged: list[str]) -> None:
        """Makes one state of those of other stacks whose trials go on in this one; they stay until the first save.

        Args:
            device: see `restore`.
            damaged: gets the parts that do not fit.
        """
        assert self._folder is not None
        parts = parts_of(self._folder)
        try:
            if states := [_read_state(path, device) for path in parts]:
                self.state = self._unite(states)
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            damaged.append(f"a part {_reason(error)}")
            for path in parts:
                _remove(path)

    def save(self, state: dict[str, Any], pruned_at: int | None = None) -> bool:
        """Saves a state, and deletes the one before the previous; returns whether it is on the disk.

        If the state cannot be written, as on a full disk, the user gets one message, the older states stay, and the
        training continues.

        Args:
            state: the state.
            pruned_at: the step at which trials of a stack are pruned: the state is for them, and is kept in a folder of
                its own, `PRUNED_STATE`. The stack does not resume from it.
        """
        if self._folder is None or (pruned_at is not None and not self._keep_pruned):
            return False
        began = time.monotonic()
        folder = self._folder if pruned_at is None else self._folder / PRUNED_STATE.format(step=pruned_at)
        latest, previous, temporary = _files(folder)
        try:
            self._before()
            make_folder(self._folder.parent)
            make_folder(self._folder)
            make_folder(folder)
            for path in (latest, previous, temporary):
                if found := irregular(path):
                    raise OSError(f"{path} is {found}")
            beside = self._beside()
            _write_state(temporary, {**state, **beside} if beside else state)
            with contextlib.suppress(FileNotFoundError):  # the first one
                move_over(latest, previous)
            move_over(temporary, latest)
            make_durable(folder)
            is_saved = True
        except OSError as error:
            is_saved = False
            _remove(temporary)
            if not self._complained:
                self._say(
                    f"checkpoint cannot be written ({_reason(error)}); training goes on, and the last one saved stays"
                )
            self._complained = True
        if pruned_at is None:
            self._last = time.monotonic()
            self._pause = max(self._every, SELDOM * (self._last - began)) if self._every else 0.0
            if is_saved:
                for part in parts_of(self._folder):
                    _remove(part)
        return is_saved

    def cannot(self, what: str) -> None:
        """Tells the user once that the state of this training cannot be saved. Older files stay.

        Args:
            what: the names of the model's attributes that no file can hold.
        """
        if self._folder is not None and not self._refused:
            self._say(
                f"no checkpoint can be saved: the model changes {what}, which no file can hold; after an interruption "
                "this training begins from scratch. Keep it in a buffer"
            )
        self._refused = True
        self._last = time.monotonic()

    def remove(self) -> None:
        """Deletes the folder and forgets the state: the next training begins from scratch.

        States of a newer version, and those of pruned trials, stay.
        """
        self.state = None
        if self._folder is not None:
            if not any((*self._folder.glob("*.newer.pt"), *self._folder.glob(PRUNED_STATE.format(step="*")))):
                shutil.rmtree(self._folder, ignore_errors=True)
            else:
                for path in (*_files(self._folder), *parts_of(self._folder)):
                    _remove(path)


NEVER = CheckpointManager(None)
"""The manager that saves nothing and never stops a training."""


def rows(saved: Tensor, indices: Sequence[int], like: Tensor) -> Tensor:
    """Copies rows of a saved tensor [K, ...] to the device of `like`.

    Args:
        saved: the tensor of a checkpoint, a row for each member of a stack.
        indices: the rows to copy, in the order of the result.
        like: a tensor with the shape, dtype and device that the result must have.

    Raises:
        CheckpointError: the rows have another shape or dtype than `like`.
    """
    if (len(indices), *saved.shape[1:], saved.dtype) != (*like.shape, like.dtype):
        expected, got = (f"{list(tensor.shape)} {tensor.dtype}" for tensor in (like, saved))
        raise CheckpointError(f"a tensor is {got}, {expected} is needed")
    return saved.index_select(0, torch.tensor(indices, device=saved.device)).to(like.device)


@contextlib.contextmanager
def fitting() -> Iterator[None]:
    """Turns the errors that a state of another model causes in this block into a `CheckpointError`."""
    try:
        yield
    except torch.OutOfMemoryError:  # a RuntimeError that the state did not cause
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{type(error).__name__}: {one_line(error)}") from error


def _files(folder: Path) -> tuple[Path, Path, Path]:
    """Returns the paths of the latest state, the previous state, and the temporary file for the next state."""
    return folder / "latest.pt", folder / "previous.pt", folder / "latest.pt.partial"


class _Hashed:
    """A file that computes its checksum during writing, so that a state needs no second copy in memory.

    It keeps an OSError for `raise_error`, because PyTorch's writer would turn it into another error.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._error: OSError | None = None
        self.digest = _new_hash()

    def write(self, data: bytes) -> int:
        if self._error is None:
            self.digest.update(data)
            try:
                self._file.write(data)
            except OSError as error:
                self._error = error
        return len(data)

    def flush(self) -> None:
        """Does nothing. PyTorch's writer calls it; `_write_state` flushes the file once, at the end."""

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error


def _new_hash() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=20)


def _write_state(path: Path, state: dict[str, Any]) -> None:
    with open(path, "wb", opener=opener) as file:
        file.write(_first_line(_new_hash().hexdigest()))  # has the length of the right line, which is written last
        hashed = _Hashed(file)
        torch.save(state, cast(IO[bytes], hashed))
        hashed.raise_error()
        file.seek(0)
        file.write(_first_line(hashed.digest.hexdigest()))
        file.flush()
        os.fsync(file.fileno())


def _first_line(checksum: str) -> bytes:
    return TITLE + checksum.encode() + b"\n"


def _read_state(path: Path, device: torch.device | str) -> dict[str, Any]:
    """Reads the state in a file, after its checksum has matched.

    Raises:
        CheckpointError: the file is damaged, or holds something else.
        OSError: the file does not exist, or cannot be read.
    """
    if found := irregular(path):
        raise CheckpointError(f"is {found}")
    with path.open("rb") as file:
        first = file.readline(200)
        if (title := re.match(rb"sweepstack checkpoint ([0-9]+) ", first)) and int(title[1]) > FORMAT_VERSION:
            raise NewerCheckpointError
        if first != _first_line(hashlib.file_digest(file, _new_hash).hexdigest()):
            raise CheckpointError("does not match its checksum" if first.startswith(TITLE) else "is not a checkpoint")
        file.seek(len(first))
        try:
            state = torch.load(file, map_location=device, weights_only=True)
        except pickle.UnpicklingError as error:  # its text advises to load the file without the safety check
            raise CheckpointError("holds something else than tensors and plain values") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"holds a {type(state).__name__}")
    return state


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if not irregular(path):
            path.unlink()


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or one_line(error)
