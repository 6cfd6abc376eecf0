"""The files that stacks resume from, and how they get to another stack: one that was renewed, cut, or united."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from sweepstack.errors import UserError
from sweepstack.files.replacing import replacing
from sweepstack.planning.plan import Stack
from sweepstack.trial import PART_STATE, parts_of

CHECKPOINTS = ("latest.pt", "previous.pt")
"""The files of a stack's checkpoints; see `CheckpointManager`. By name, because listings of shared disks come late."""


class StackStates:
    """Gives stacks the states of others, as they are now. What does not fit on the disk begins from scratch.

    Args:
        folder: returns the folder for the checkpoints of a stack, by its id.
    """

    def __init__(self, folder: Callable[[str], Path]) -> None:
        self._folder = folder

    def give(self, of: Stack | Path, to: Stack) -> None:
        """Gives a stack the states that another one has, or a folder.

        Args:
            of: the other stack, or the folder.
            to: the stack.
        """
        states = of if isinstance(of, Path) else self._folder(of.id)
        self._give([(file, file.name) for file in (*(states / name for name in CHECKPOINTS), *parts_of(states))], to)

    def give_parts(self, of: Sequence[Stack], to: Stack) -> None:
        """Gives a stack the states of several stacks: its worker makes one of them.

        Args:
            of: the stacks.
            to: the stack.
        """
        latest = [self._folder(stack.id) / CHECKPOINTS[0] for stack in of]
        self._give([(file, PART_STATE.format(number=number)) for number, file in enumerate(latest)], to)

    def _give(self, files: Sequence[tuple[Path, str]], to: Stack) -> None:
        folder = self._folder(to.id)
        for file, name in files:
            with contextlib.suppress(OSError, UserError):
                if not file.exists():
                    continue
                folder.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(file, folder / name)
                except OSError:  # a file system without hard links
                    with replacing(folder / name) as temporary:
                        shutil.copyfile(file, temporary)

    def remove(self, of: Stack) -> None:
        """Removes the last states of a stack whose trials go on elsewhere. Those of pruned trials stay.

        Args:
            of: the stack.
        """
        for name in CHECKPOINTS:
            with contextlib.suppress(OSError):
                (self._folder(of.id) / name).unlink(missing_ok=True)
