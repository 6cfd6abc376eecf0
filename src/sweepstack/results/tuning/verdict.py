"""Says whether one of two searches is better, or was only tuned more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sweepstack.metrics import rounded
from sweepstack.results.tuning.curves import CONFIDENCE, Curve, Floats
from sweepstack.results.tuning.searches import Kind, Search, refuse_different

PERCENT = f"{100 * CONFIDENCE:g} %"
"""How certain a band is, in words."""


@dataclass(frozen=True, eq=False)
class Tuning:
    """The tuning curves of one search, or of two side by side."""

    searches: tuple[Search, ...]
    curves: tuple[Curve, ...]
    lead: tuple[int | None, ...]
    """Of two: which of them is ahead at 1, 2, ... trials, 0 or 1; None where that is not known, or where they are
    equal. If one is adaptive, only the last is asked for: its band holds at each number of trials on its own."""
    confidence: float
    """The chance that each band holds: so large that two of them hold together with `CONFIDENCE`."""
    sentence: str
    """What the curves say."""
    notes: tuple[str, ...]
    """What a reader must know."""


def tuning_of(search: Search) -> Tuning:
    """Computes the tuning curve of one search."""
    curve = search.curve()
    return Tuning((search,), (curve,), (), CONFIDENCE, _of_one(search, curve), _notes([search]))


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
    return Tuning(searches, curves, lead, confidence, _of_two(searches, curves, lead, confidence), tuple(notes))


def describe_band(search: Search, curve: Curve, confidence: float) -> str:
    """Says what the band of a curve is.

    Args:
        search: the search.
        curve: its curve.
        confidence: the chance that its band should hold.
    """
    repeated = len(search.repetitions)
    match search.kind:
        case Kind.GRID:
            return f"{PERCENT} of the random orders of its {len(search.values):,} settings; these are all there is"
        case Kind.RANDOM if search.dependence:
            return f"no band: {search.dependence}"
        case Kind.RANDOM:
            return (
                f"{PERCENT} for the whole curve, whatever the distribution of the values (Lourie, Cho and He 2024); an "
                "end is missing where so few trials say nothing"
            )
    if curve.low is None:
        enough = math.ceil(1 - math.log2(1 - confidence))
        done = "once" if repeated == 1 else f"{repeated} times"
        return f"no band: an adaptive search must be done {enough} times, and this one was done {done}"
    return f"{PERCENT} for the median of {repeated} searches, at each number of trials on its own"


def _notes(searches: Sequence[Search]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(note for one in searches for note in one.notes))


def _lead(searches: Sequence[Search], curves: Sequence[Curve]) -> tuple[int | None, ...]:
    """Finds which search is ahead at 1, 2, ... trials, up to the number that both have; see `Tuning.lead`."""
    common = min(map(len, curves))
    sign = 1 if searches[0].objective.larger_is_better else -1
    ends = [[end[:common] for end in _certain(*pair)] for pair in zip(searches, curves, strict=True)]
    worst, best = zip(*(sorted_ends if sign == 1 else sorted_ends[::-1] for sorted_ends in ends), strict=True)
    with np.errstate(invalid="ignore"):
        ahead = [sign * worst[0] > sign * best[1], sign * worst[1] > sign * best[0]]
    lead = [0 if one else 1 if other else None for one, other in zip(*ahead, strict=True)]
    if _is_any_adaptive(searches):
        lead[:-1] = [None] * (common - 1)
    return tuple(lead)


def _is_any_adaptive(searches: Sequence[Search]) -> bool:
    return any(one.kind is Kind.ADAPTIVE for one in searches)


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


def _of_two(searches: Sequence[Search], curves: Sequence[Curve], lead: Sequence[int | None], confidence: float) -> str:
    """Answers whether the one that ended better was only tuned more, and says why."""
    sign = 1 if searches[0].objective.larger_is_better else -1
    (one, other), common = (search.name for search in searches), len(lead)
    lasts = [float(curve.median[-1]) for curve in curves]
    at_common = [value_words(float(curve.median[common - 1])) for curve in curves]
    ahead = _ahead_words(searches, lead)
    medians = f"{at_common[0]} for {one} and {at_common[1]} for {other}"
    reason = f"With {trials_words(common)} each, the median of the best is {medians}; {ahead}."
    if len(curves[0]) != len(curves[1]):
        reason += f" {one} ends at {value_words(lasts[0])} after {trials_words(len(curves[0]))}, {other} at "
        reason += f"{value_words(lasts[1])} after {len(curves[1]):,}."
    if lasts[0] == lasts[1]:
        return f"{one} and {other} end equally well. {reason}"
    better = int(sign * lasts[1] > sign * lasts[0])
    winner, loser = (one, other) if better == 0 else (other, one)
    more = len(curves[better]) > len(curves[1 - better])
    exact = all(search.kind is Kind.GRID for search in searches)
    deciding = {*(lead[-1:] if exact or _is_any_adaptive(searches) else lead)}
    if better in deciding and 1 - better not in deciding:
        tuned = f"was not only tuned more than {loser}: it" if more else f"was not tuned more than {loser}, and"
        return f"{winner} {tuned} is better. {reason}"
    if exact or deciding == {1 - better}:
        return f"{winner} was only tuned more than {loser}. {reason}"
    question = f"Whether {winner} was only tuned more than {loser} cannot be said"
    if not more:
        question = f"{winner} was not tuned more than {loser}, but whether it is better cannot be said"
    return f"{question}. {reason}{_why_unknown(searches, curves, 1 - better, confidence)}"


def _ahead_words(searches: Sequence[Search], lead: Sequence[int | None]) -> str:
    """Says at which numbers of trials which search is ahead."""
    exact = all(one.kind is Kind.GRID for one in searches)
    how = "" if exact else f" ({PERCENT})"
    if _is_any_adaptive(searches):
        return f"{'neither is surely' if lead[-1] is None else searches[lead[-1]].name + ' is'} ahead with so many{how}"
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
            trials = "1 trial" if numbers == [1] else f"{_ranges(numbers)} trials"
            parts.append(f"{search.name} is ahead at {trials}{how}")
    if parts:
        return "; ".join(parts)
    return "neither is ahead at any number of trials" if exact else f"neither is surely ahead at any number{how}"


def _why_unknown(searches: Sequence[Search], curves: Sequence[Curve], behind: int, confidence: float) -> str:
    """Says why bands do not decide.

    Args:
        searches: the searches.
        curves: their curves.
        behind: the number of the one that ended worse.
        confidence: the chance that each band should hold.
    """
    for search, curve in zip(searches, curves, strict=True):
        if curve.low is None:
            return f" {search.name}: {describe_band(search, curve, confidence)}."
    search, curve = searches[behind], curves[behind]
    end = curve.high if search.objective.larger_is_better else curve.low
    if search.kind is not Kind.RANDOM or end is None:
        return ""
    known = int(np.isfinite(end).sum())
    return (
        f" From the {len(search.values):,} trials of {search.name} it is not known how good the best of more than "
        f"{known:,} can be."
    )


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
