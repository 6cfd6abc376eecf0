"""The space of a search: a distribution for each searched key. Plain values: no Hydra, no Optuna."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from sweepstack.errors import ConfigError

Value = int | float | str
"""A value of a searched key: a number, or one of some texts in Hydra's syntax."""
DIGITS = 6
"""Significant digits of a drawn number: fewer than a float has, so that it can be read in names and tables."""

SMALL = 1e-8
"""Part of a step by which a number may miss it, because fractions are binary."""

INNER = 0.382
"""Share of an interval at which a fraction is checked, besides its ends, which may be whole: no round one."""


@dataclass(frozen=True)
class Numbers:
    """Numbers from `low` to `high`, both included; whole ones if these are `int`.

    Args:
        low: the smallest number.
        high: the largest number.
        step: the distance of neighbours, from `low` to `high`; None if there is none.
        log: whether the logarithm is what is spread evenly.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int)

    def contains(self, value: Value) -> bool:
        """Whether a value is one of the numbers."""
        if not isinstance(value, int if self.whole else int | float) or not self.low <= value <= self.high:
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return abs(steps - round(steps)) < SMALL

    def at(self, share: float) -> Value:
        """Returns the number below which a share of the distribution is.

        Args:
            share: a number from 0, below 1.
        """
        if self.step is not None and not self.log:
            return self._after(math.floor(share * self.count))
        half = 0.5 if self.whole else 0.0
        low, high = self.low - half, self.high + half
        value = math.exp(math.log(low) + share * math.log(high / low)) if self.log else low + share * (high - low)
        return min(max(round(value), int(self.low)), int(self.high)) if self.whole else value

    @property
    def has_fractions(self) -> bool:
        """True if some of the numbers are not whole."""
        return not all(float(text).is_integer() for text in self.probes())

    @property
    def count(self) -> float:
        """How many numbers there are; infinity for fractions without a step."""
        if self.step is None and not self.whole:
            return math.inf
        return round((self.high - self.low) / (self.step or 1)) + 1

    def _after(self, steps: int) -> Value:
        """Returns the number so many steps above `low`, computed in decimals: 0.1, 0.2, 0.3."""
        number = Fraction(str(self.low)) + steps * Fraction(str(self.step))
        return int(number) if self.whole else float(number)

    def text(self, value: Value) -> str:
        """Returns a number as it is typed; one without a step with `DIGITS` digits."""
        if self.whole:
            return str(value)
        number = float(value)
        if self.step is not None:
            return str(self._after(round((number - self.low) / self.step)))
        short = float(f"{number:.{DIGITS}g}")
        return repr(short if self.low <= short <= self.high else min(max(number, self.low), self.high))

    def probes(self) -> list[str]:
        """Returns the values that are checked before anything trains, as they are typed: both ends, and a fraction
        between them."""
        inner = () if self.whole else (self.low + self.step if self.step is not None else self.at(INNER),)
        return list(dict.fromkeys(map(self.text, (self.low, self.high, *inner))))

    def __str__(self) -> str:
        shown = f"from {self.text(self.low)} to {self.text(self.high)}"
        step = f" in steps of {self.step:g}" if self.step is not None and (not self.whole or self.step != 1) else ""
        return f"{'whole numbers ' if self.whole else ''}{shown}{step}{', by the logarithm' if self.log else ''}"


@dataclass(frozen=True)
class Options:
    """Some texts, each with the same chance."""

    texts: tuple[str, ...]

    @property
    def count(self) -> float:
        """How many different texts there are."""
        return len({*self.texts})

    def contains(self, value: Value) -> bool:
        """Whether a value is one of the texts."""
        return value in self.texts

    def at(self, share: float) -> Value:
        """Returns the text at a share of the list; see `Numbers.at`."""
        return self.texts[int(share * len(self.texts))]

    def text(self, value: Value) -> str:
        """Returns a text as it is typed."""
        return str(value)

    def probes(self) -> list[str]:
        """Returns the values that are checked before anything trains: all."""
        return [*self.texts]

    def __str__(self) -> str:
        return f"one of {', '.join(self.texts)}"


Distribution = Numbers | Options


@dataclass(frozen=True)
class Space:
    """A distribution for each searched key, as it is typed (with a `+` in front, if it adds a key)."""

    distributions: Mapping[str, Distribution]
    when: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """For each key that not every point has, a key before it, and the text that this must have."""

    def has(self, key: str, texts: Mapping[str, str]) -> bool:
        """Whether a point has a value for a key.

        Args:
            key: a searched key.
            texts: the values of the keys before it, as they are typed.
        """
        other, text = self.when.get(key, ("", ""))
        return not other or texts.get(other) == text

    def text(self, values: Mapping[str, Value]) -> dict[str, str]:
        """Returns the values of a point as they are typed, without those that it must not have."""
        return self.part({key: one.text(values[key]) for key, one in self.distributions.items() if key in values})

    def part(self, texts: Mapping[str, str]) -> dict[str, str]:
        """Returns a value of each key, as it is typed, without those that a point must not have."""
        kept: dict[str, str] = {}
        for key in self.distributions:
            if key in texts and self.has(key, kept):
                kept[key] = texts[key]
        return kept

    def at(self, shares: Sequence[float]) -> dict[str, Value]:
        """Returns the point at a point of the unit cube, which has an axis for each key."""
        values = {key: one.at(share) for (key, one), share in zip(self.distributions.items(), shares, strict=True)}
        return {key: values[key] for key in self.text(values)}

    def contains(self, values: Mapping[str, Value]) -> bool:
        """Whether a point lies in the space."""
        fits = all(key in self.distributions and self.distributions[key].contains(one) for key, one in values.items())
        if not fits:
            return False
        texts = self.text(values)
        return texts.keys() == values.keys() and all(
            key in texts or not self.has(key, texts) for key in self.distributions
        )

    @property
    def size(self) -> float:
        """The number of different points; infinity if there is an interval of fractions."""
        return math.prod(self._size_of(key) for key in self.distributions if key not in self.when)

    def _size_of(self, key: str) -> float:
        """Returns the number of different values of a key, each with those of the keys that a point has only then."""
        below: dict[str, list[str]] = {}
        for other, (above, text) in self.when.items():
            if above == key:
                below.setdefault(text, []).append(other)
        alone = self.distributions[key].count - len(below)
        return alone + sum(math.prod(map(self._size_of, others)) for others in below.values())

    def lines(self) -> list[str]:
        """Returns the space as lines for people."""
        conditions = {key: f", when {other.lstrip('+')}={text}" for key, (other, text) in self.when.items()}
        return [f"{key.lstrip('+')}: {one}{conditions.get(key, '')}" for key, one in self.distributions.items()]


def interval(line: str, bounds: Sequence[float], log: bool) -> Numbers:
    """Returns the distribution of an interval.

    Args:
        line: the typed override, for errors.
        bounds: its start and its end.
        log: whether the logarithm is what is spread evenly.

    Raises:
        ConfigError: it is empty, reversed or endless, or has a logarithm of something that is not positive.
    """
    low, high = bounds
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ConfigError("an interval must end", line, "give it finite numbers, such as interval(0,1)")
    if low >= high:
        remedy = f"write interval({high:g},{low:g})" if low > high else "give one value instead, or a wider interval"
        raise ConfigError("an interval must go from a smaller to a larger number", line, remedy)
    if log and low <= 0:
        raise ConfigError(
            "an interval of logarithms must begin above 0",
            line,
            "for example tag(log,interval(1e-4,1)), or without log",
        )
    return Numbers(low, high, 1 if isinstance(low, int) and not log else None, log)
