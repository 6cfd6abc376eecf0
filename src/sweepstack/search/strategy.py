"""A strategy chooses the points of a search one after the other: ask and tell."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sweepstack.search.space import Value


class PointState(enum.Enum):
    """How far a point of a search is."""

    ASKED = enum.auto()
    """It is to be trained; its result is not known."""
    COMPLETE = enum.auto()
    PRUNED = enum.auto()
    """Its training was ended early, because others are better."""
    FAILED = enum.auto()
    """It gave no value."""


@dataclass(frozen=True)
class Point:
    """A point of a search: a value for each searched key."""

    number: int
    """Its number in the search, from 0."""
    values: Mapping[str, Value]
    state: PointState = PointState.ASKED
    objectives: tuple[float, ...] = ()
    """What it achieved; of a pruned one the last values, of a failed one none."""


class Strategy(Protocol):
    """Chooses points. The same history gives the same next point."""

    @property
    def points(self) -> Sequence[Point]:
        """All points so far, in the order of their numbers."""

    def ask(self) -> Point:
        """Chooses the next point."""

    def tell(self, number: int, state: PointState, objectives: Sequence[float] = (), rung: int = 1) -> None:
        """Takes the result of a point that has none yet.

        Args:
            number: the number of the point.
            state: how it ended.
            objectives: what it achieved; of a pruned one the last values.
            rung: of a pruned one, the last one that it has reached, counted on the longest training of the search.
        """

    def take_interim(self, number: int, state: PointState, objectives: Sequence[float], rung: int) -> None:
        """Takes what a point that has no result yet has achieved so far; it counts until there is one.

        Args:
            number: the number of the point.
            state: how it ends if it does not go on.
            objectives: see `tell`.
            rung: see `tell`.
        """

    def keep(self) -> None:
        """Returns when all points and results so far are on the disk."""
