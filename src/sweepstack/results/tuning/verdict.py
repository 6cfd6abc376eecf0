"""Says whether one of two searches is better, or was only tuned more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sweepstack.metrics import rounded
from sweepstack.results.tuning.curves import CONFIDENCE, Curve, Floats
from sweepstack.results.tuning.searches import Kind, Search, refuse_different

ENOUGH_SEARCHES = 6
"""Repetitions of an adaptive search from which its band holds with 95 %."""
PERCENT = f"{100 * CONFIDENCE:g} %"
"""How certain a band is, in words."""


@dataclass(frozen=True, eq=False)
class Tuning:
    """The tuning curves of one search, or of two side by side."""

    searches: tuple[Search, ...]
    curves: tuple[Curve, ...]
    lead: tuple[int | None, ...]
    """Of two: which of them is ahead at 1, 2, ... trials, 0 or 1; None where that is not known, or where they are
    equal."""
    sentence: str
    """What the curves say."""
    notes: tuple[str, ...]
    """What a reader must know."""


def tuning_of(search: Search) -> Tuning:
    """Computes the tuning curve of one search."""
    curve = search.curve()
    return Tuning((search,), (curve,), (), _of_one(search, curve), _notes([search]))


def compare_tuning(first: Search, second: Search) -> Tuning:
    """Compares two searches at equal numbers of trials.

    Two bands hold together with the confidence of one: each has its square root, since the sweeps are independent.

    Raises:
        UserError: they are not about the same thing, see `refuse_different`.
    """
    refuse_different(first, second)
    searches = (first, second)
    uncertain = sum(one.kind is not Kind.GRID for one in searches)
    confidence = CONFIDENCE ** (1 / max(uncertain, 1))
    curves = (first.curve(confidence), second.curve(confidence))
    lead = _lead(searches, curves)
    notes = list(_notes(searches))
    if first.held_out != second.held_out:
        different = ", ".join(sorted(first.held_out ^ second.held_out))
        notes.append(f"the sweeps hold out different parts of the data ({different}): their values differ by that, too")
    return Tuning(searches, curves, lead, _of_two(searches, curves, lead), tuple(notes))


def describe_band(search: Search, curve: Curve) -> str:
    """Says what the band of a curve is."""
    repeated = len(search.repetitions)
    match search.kind:
        case Kind.GRID:
            return f"{PERCENT} of the random orders of its {len(search.values):,} settings; these are all there is"
        case Kind.RANDOM:
            return (
                f"{PERCENT} for the whole curve, whatever the distribution of the values (Lourie, Cho and He 2024); an "
                "end is missing where so few trials say nothing"
            )
    if curve.low is None:
        return (
            f"no band: an adaptive search must be repeated {ENOUGH_SEARCHES} times, and this one was done "
            f"{'once' if repeated == 1 else f'{repeated} times'}"
        )
    return f"{PERCENT} for the median of {repeated} searches, at each number of trials"


def _notes(searches: Sequence[Search]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(note for one in searches for note in one.notes))


def _lead(searches: Sequence[Search], curves: Sequence[Curve]) -> tuple[int | None, ...]:
    """Finds which search is ahead at 1, 2, ... trials, up to the number that both have."""
    common = min(map(len, curves))
    sign = 1 if searches[0].objective.larger_is_better else -1
    ends = [[end[:common] for end in _certain(*pair)] for pair in zip(searches, curves, strict=True)]
    worst, best = zip(*(sorted_ends if sign == 1 else sorted_ends[::-1] for sorted_ends in ends), strict=True)
    with np.errstate(invalid="ignore"):
        ahead = [sign * worst[0] > sign * best[1], sign * worst[1] > sign * best[0]]
    return tuple(0 if one else 1 if other else None for one, other in zip(*ahead, strict=True))


def _certain(search: Search, curve: Curve) -> tuple[Floats, Floats]:
    """Returns the lowest and the highest curve that is possible; NaN where there is no band."""
    if search.kind is Kind.GRID:
        return curve.median, curve.median
    if curve.low is None or curve.high is None:
        return np.full(len(curve), np.nan), np.full(len(curve), np.nan)
    return curve.low, curve.high


def _of_one(search: Search, curve: Curve) -> str:
    last = float(curve.median[-1])
    if len({value for value in search.values if math.isfinite(value)}) == 1:
        return f"All settings of {search.name} that have a value have the same, {value_words(last)}."
    if search.kind is Kind.ADAPTIVE:
        times = "" if len(search.repetitions) == 1 else f" (median of {len(search.repetitions)} searches)"
        return f"{search.name}: the best of {len(curve):,} trials is {value_words(last)}{times}."
    reached = 1 + int(np.argmax(curve.median == last))
    shares = sorted({max(1, len(curve) // 4), max(1, len(curve) // 2)})
    parts = [f"{value_words(float(curve.median[n - 1]))} after {trials_words(n)}" for n in shares]
    end = f"{value_words(last)} after all {len(curve):,}"
    enough = "" if reached in (*shares, len(curve)) else f", and half of the orders reach that after {reached:,}"
    return f"{search.name}: in random order, the median of the best is {', '.join(parts)} and {end}{enough}."


def _of_two(searches: Sequence[Search], curves: Sequence[Curve], lead: Sequence[int | None]) -> str:
    """Answers whether the one that ended better was only tuned more."""
    sign = 1 if searches[0].objective.larger_is_better else -1
    names = [one.name for one in searches]
    lasts = [float(curve.median[-1]) for curve in curves]
    common = len(lead)
    ends = " and ".join(
        f"{name} ends at {value_words(last)} after {trials_words(len(curve))}"
        for name, last, curve in zip(names, lasts, curves, strict=True)
    )
    at_common = [float(curve.median[common - 1]) for curve in curves]
    equal_trials = f"With {trials_words(common)} each, the median of the best is " + " and ".join(
        f"{value_words(value)} for {name}" for name, value in zip(names, at_common, strict=True)
    )
    if len(curves[0]) == len(curves[1]):
        equal_trials = f"Both were tuned equally, with {trials_words(common)} each"
    if lasts[0] == lasts[1]:
        return f"{ends}: both reach the same. {equal_trials}. {_ahead_words(searches, lead)}"
    better = int(sign * lasts[1] > sign * lasts[0])
    other = 1 - better
    winner, loser = names[better], names[other]
    more = len(curves[better]) > len(curves[other])
    ahead = _ahead_words(searches, lead)
    if all(one.kind is Kind.GRID for one in searches):
        if not more:
            verdict = f"So {winner} was not tuned more than {loser}, and is better"
        elif lead[-1] == better:
            verdict = f"So {winner} was not only tuned more than {loser}"
        else:
            verdict = f"So {winner} was only tuned more than {loser}"
    elif better in lead and other not in lead:
        verdict = f"So {winner} was not only tuned more than {loser}"
    elif not more:
        verdict = f"{winner} was not tuned more than {loser}, but whether it is better cannot be said"
    else:
        verdict = f"Whether {winner} was only tuned more than {loser} cannot be said"
        ahead += _why_unknown(searches, curves, common)
    return f"{ends}. {equal_trials}. {ahead} {verdict}."


def _ahead_words(searches: Sequence[Search], lead: Sequence[int | None]) -> str:
    """Says at which numbers of trials which search is ahead."""
    exact = all(one.kind is Kind.GRID for one in searches)
    how = "" if exact else f" ({PERCENT})"
    parts = []
    for which, search in enumerate(searches):
        numbers = [n for n, one in enumerate(lead, start=1) if one == which]
        if not numbers:
            continue
        first, last = numbers[0], numbers[-1]
        if len(numbers) == len(lead):
            parts.append(f"{search.name} is ahead at every number of trials{how}")
        elif last == len(lead) and len(numbers) == last - first + 1:
            parts.append(f"{search.name} is ahead from {trials_words(first)} on{how}")
        else:
            parts.append(f"{search.name} is ahead at {_ranges(numbers)} trials{how}")
    if parts:
        return f"{'; '.join(parts)}."
    return "Neither is ahead at any number of trials." if exact else f"Neither is certainly ahead at any number{how}."


def _why_unknown(searches: Sequence[Search], curves: Sequence[Curve], common: int) -> str:
    """Says why a band does not decide."""
    reasons = []
    for search, curve in zip(searches, curves, strict=True):
        if search.kind is Kind.ADAPTIVE and curve.low is None:
            reasons.append(f" {search.name}: {describe_band(search, curve)}.")
        elif search.kind is Kind.RANDOM and curve.low is not None and curve.high is not None:
            end = curve.high if search.objective.larger_is_better else curve.low
            known = int(np.isfinite(end).sum())
            if known < common:
                reasons.append(
                    f" How good the best of more than {trials_words(known)} of {search.name} can be is not known from "
                    f"its {len(search.values):,}."
                )
    return "".join(reasons)


def _ranges(numbers: Sequence[int]) -> str:
    """Writes ascending numbers: 1 to 3, 7."""
    parts: list[tuple[int, int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1] = (parts[-1][0], number)
        else:
            parts.append((number, number))
    return ", ".join(f"{first:,}" if first == last else f"{first:,} to {last:,}" for first, last in parts)


def trials_words(count: int) -> str:
    """Writes a number of trials."""
    return "1 trial" if count == 1 else f"{count:,} trials"


def value_words(value: float) -> str:
    """Writes a value of the metric; "no value" for a trial that has none."""
    return rounded(value) if math.isfinite(value) else "no value"
