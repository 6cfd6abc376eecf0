"""Checkpoints: the state of a training in files that survive a kill at any moment, and the wish to stop."""

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
from sweepstack.files.replacing import irregular, make_durable

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
TITLE = b"sweepstack checkpoint %d " % FORMAT_VERSION
"""How a file begins; the first line ends with the checksum of all that follows it."""
SELDOM = 40
"""The next save is not due before so many times the seconds that the last one took: at most 2.5 % of the time."""


class CheckpointError(Exception):
    """A state does not fit what is to go on from it; says why. Nothing has been reported yet: begin again, with a model
    built afresh."""


class NewerCheckpointError(Exception):
    """A checkpoint was written by a newer version of sweepstack."""


class CheckpointManager:
    """Where a training keeps its state, and how it is asked to stop.

    The folder holds `latest.pt` and `previous.pt`, each whole or not there. A state is made of tensors and plain values
    only (dict, list, tuple, int, float, str, bool, None): nothing else would be loaded again.

    Args:
        folder: of this training alone; made when it is needed. None: nothing is kept.
        every: seconds from one save to the next, at least; 0: after every epoch, whatever it costs.
        stopping: whether to stop; asked after every step, so it must cost next to nothing.
        before: called at the beginning of a save, to make durable what has been reported up to this state. When it
            raises OSError, nothing is saved: a state must not be ahead of its reports.
        say: takes one line for the user.
    """

    def __init__(
        self,
        folder: Path | None,
        every: float = 10.0,
        stopping: Callable[[], bool] = lambda: False,
        before: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = log.warning,
    ) -> None:
        self.state: dict[str, Any] | None = None
        """What is to be resumed from; None: begin again. It is copied from, never trained in."""
        self._folder = folder
        self._every = self._pause = every
        self._stopping, self._before, self._say = stopping, before, say
        self._last = time.monotonic()
        self._complained = self._refused = False

    @property
    def stopping(self) -> bool:
        """Whether the training is to save its state and to end KILLED."""
        return self._stopping()

    def due(self) -> bool:
        """Whether the last save, or the beginning, is long enough ago."""
        return self._folder is not None and time.monotonic() - self._last >= self._pause

    def restore(self, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        """Loads the newest good state into `state` and returns it; None when there is none. A damaged file is told of
        and removed.

        Args:
            device: where the tensors go. A training copies them to where it trains: in the host's memory they spare a
                GPU a second copy.
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
            except FileNotFoundError:  # not saved yet, or killed between the two renames
                continue
            except (torch.OutOfMemoryError, MemoryError):  # not the file's fault
                raise
            except NewerCheckpointError:
                kept = path.with_name(f"{path.stem}.newer.pt")
                os.replace(path, kept)  # else the next saves would overwrite it
                self._say(f"checkpoint {path} is of a newer version of sweepstack; it is kept as {kept.name}")
            except Exception as error:  # a damaged file can fail in any way
                damaged.append(f"{path.name} {_reason(error)}")
                _remove(path)  # else the next save would put it in the place of the good one
        _remove(temporary)
        if damaged:
            remedy = "training begins again" if self.state is None else "training goes on from the one before"
            self._say(f"checkpoint {self._folder} is damaged ({'; '.join(damaged)}); {remedy}")
        return self.state

    def save(self, state: dict[str, Any]) -> None:
        """Keeps a state in place of the last but one. When it cannot be written, as on a full disk, that is told once
        and the older ones stay: it must not end the training."""
        if self._folder is None:
            return
        began = time.monotonic()
        latest, previous, temporary = _files(self._folder)
        try:
            self._before()
            make_folder(self._folder.parent)
            make_folder(self._folder)
            for path in (latest, previous, temporary):
                if found := irregular(path):
                    raise OSError(f"{path} is {found}")
            _write_state(temporary, state)
            with contextlib.suppress(FileNotFoundError):  # the first one
                os.replace(latest, previous)
            os.replace(temporary, latest)
            make_durable(self._folder)
        except OSError as error:
            _remove(temporary)
            if not self._complained:
                self._say(f"checkpoint cannot be written ({_reason(error)}); training goes on from the last one kept")
            self._complained = True
        self._last = time.monotonic()
        self._pause = max(self._every, SELDOM * (self._last - began)) if self._every else 0.0

    def cannot(self, what: str) -> None:
        """Says once that the state of this training cannot be kept. Older files stay.

        Args:
            what: the attributes of the model that no file can hold.
        """
        if self._folder is not None and not self._refused:
            self._say(
                f"no checkpoint can be kept: the model changes {what}, which no file can hold; if this training is "
                "interrupted, it begins again. Keep it in a buffer"
            )
        self._refused = True
        self._last = time.monotonic()

    def remove(self) -> None:
        """Deletes the folder and forgets the state: what comes next begins again."""
        self.state = None
        if self._folder is not None:
            if not any(self._folder.glob("*.newer.pt")):
                shutil.rmtree(self._folder, ignore_errors=True)
            else:
                for path in _files(self._folder):
                    _remove(path)


NEVER = CheckpointManager(None)
"""Keeps nothing and never stops."""


def rows(saved: Tensor, indices: Sequence[int], like: Tensor) -> Tensor:
    """A copy of these rows of a saved tensor [K, ...], on the device of `like`.

    Raises:
        CheckpointError: they have another shape or dtype than `like`.
    """
    if (len(indices), *saved.shape[1:], saved.dtype) != (*like.shape, like.dtype):
        expected, got = (f"{list(tensor.shape)} {tensor.dtype}" for tensor in (like, saved))
        raise CheckpointError(f"a tensor is {got}, {expected} is needed")
    return saved.index_select(0, torch.tensor(indices, device=saved.device)).to(like.device)


@contextlib.contextmanager
def fitting() -> Iterator[None]:
    """Whatever a state that does not fit leads to in this block is a `CheckpointError`."""
    try:
        yield
    except torch.OutOfMemoryError:  # a RuntimeError, and not the state's fault
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{type(error).__name__}: {one_line(error)}") from error


def _files(folder: Path) -> tuple[Path, Path, Path]:
    """The latest, the previous, and where the next one is written before it gets its name."""
    return folder / "latest.pt", folder / "previous.pt", folder / "latest.pt.partial"


class _Hashed:
    """A file that is hashed while it is written to, so that a state needs no second copy in memory. An error is held
    back until it is asked for: PyTorch's writer would make another one of it."""

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
        """PyTorch's writer calls it; the file itself is flushed when it is whole."""

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error


def _new_hash() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=20)


def _write_state(path: Path, state: dict[str, Any]) -> None:
    with open(path, "wb", opener=opener) as file:
        file.write(_first_line(_new_hash().hexdigest()))  # as long as the right one, which is known at the end
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
    """The state in a file; nothing of it is interpreted before its checksum has matched.

    Raises:
        CheckpointError: it is damaged, or holds something else.
        OSError: it is not there, or cannot be read.
    """
    if found := irregular(path):
        raise CheckpointError(f"is {found}")
    with path.open("rb") as file:
        first = file.readline(200)
        if (title := re.match(rb"sweepstack checkpoint ([0-9]+) ", first)) and int(title[1]) > FORMAT_VERSION:
            raise NewerCheckpointError
        if first != _first_line(hashlib.file_digest(file, _new_hash).hexdigest()):
            raise CheckpointError("does not match its checksum" if first.startswith(TITLE) else "is no checkpoint")
        file.seek(len(first))
        try:
            state = torch.load(file, map_location=device, weights_only=True)
        except pickle.UnpicklingError as error:  # whose text advises to load it nevertheless
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
