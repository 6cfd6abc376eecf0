"""Estimates how exactly the mean of each setting is known, from few seeds each: settings borrow from one another.

A standard deviation of three values is hardly known: a test that relies on it alone finds next to nothing. Settings of
one sweep mostly spread alike, so the others say what to expect of one (empirical Bayes, as for many genes with few
samples: Smyth 2004, Statistical Applications in Genetics and Molecular Biology 3). Here:

- A seed does something to all settings, which cancels: the values are fitted as setting + seed + rest, and the rest is
  what spreads. Settings that spread far more than most (as where some seeds diverge) have little weight in that. Where
  the seeds of settings are not connected by common ones, there is no such part.
- The logarithms of the standard deviations of the rests are drawn from a normal distribution whose middle and width are
  not known; half a setting a sweep is expected to be an outlier, which spreads far more or less. All of these are
  summed over a grid, weighted by how well they explain what was seen (Bayes' rule).
- Spreads may depend on a param, as where a large learning rate diverges: then the settings of each of its values have a
  distribution of their own. Which param that is, if any, is summed over in the same way.
- A p-value is the chance of a difference by that: the mean of normal tails over all standard deviations that are
  possible. Such p-values are valid on average over settings whose values happen to spread as much (Ignatiadis and Sen,
  arXiv:2303.02887), so that neither a lucky nor a noisy setting is taken for certain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Levels = NDArray[np.intp]
"""The levels of the params by which settings differ [k, params], such as 0, 1, 2 for three learning rates."""

STEP = 0.2
"""Width of the grid of the logarithm of a standard deviation."""
FINER = 16
"""Parts of a step to which the variance that most settings have is known: 1.25 %."""
REACH = 5.0
"""How far the grid reaches from the middle: to 150 times less; upward at least as far."""
MIDDLES = np.arange(-3.0, 3.0 + STEP / 2, STEP)
"""Middles that the distribution of these logarithms may have."""
WIDTHS = np.array([0.05, 0.2, 0.35, 0.55, 0.8, 1.2, 1.8])
"""Widths that it may have: 1.2 is a factor of 3.3."""
USUAL_WIDTH = 0.7
"""Smaller widths are more likely than larger ones: as by a half-normal distribution with this standard deviation."""
OUTLIERS = 0.5
"""The number of outliers that a sweep is expected to have."""
MOST_OUTLIERS = 0.2
"""The largest share of outliers, in a small sweep."""
OUTLIER_WIDTH = 2.0
"""The further width of the distribution of outliers."""
FARTHEST = 0.1
"""The share of the outliers that may spread by any factor: seeds may diverge."""
BINS = 0.1
"""Width of the bins of the logarithm of a variance."""
FAR_MORE = 10.0
"""A setting whose variance is more than so many times the usual one has less weight in what seeds do to all."""
EQUAL_WITHIN = 1e-6
"""Differences that are less than this, relative to the values, are rounding."""
NEGLIGIBLE = 1e-15
"""A probability that is as good as none."""
CHUNK = 512
"""Settings that are compared at once, which bounds the memory."""


@dataclass(frozen=True, eq=False)
class Fit:
    """Values of settings [k] and replicates [n], fitted as setting + replicate + rest."""

    values: Floats
    """The values [k, n]; NaN where there is none."""
    means: Floats
    """The mean of each setting [k], as if all had the same replicates."""
    rests: Floats
    """The variance of the rest of each setting [k]; 0 if there is nothing to tell it."""
    df: Floats
    """The degrees of freedom of these variances [k]."""
    counts: NDArray[np.intp]
    """The number of values of each setting [k]."""
    effects: Floats
    """What each replicate does to all settings [n]; zeros if that cannot be told."""
    matched: bool
    """True if the settings are connected by common replicates."""
    seen: NDArray[np.bool_]
    """Which values there are [k, n]."""
    tolerance: Floats
    """Differences of the values of a setting up to this are rounding [k]."""
    weights: Floats
    """The weight of each setting in the effects [k]."""
    solved: Floats
    """The pseudo-inverse of the equations of the effects [n, n]."""
    overlap: float = 0.0
    """For folds the ratio of validation to training data, which the folds' common training data add to 1 / n."""

    def shares(self, best: int) -> tuple[Floats, Floats, Floats]:
        """Returns how much of the variance of the best setting [k], of each setting [k] and of all the others together
        [k] is in the variance of the difference of their means."""
        own = 1 / self.counts + self.overlap
        to_best, others = np.full(len(own), own[best]), np.zeros(len(own))
        if not self.matched:
            return to_best, own, others
        parts = self.seen / self.counts[:, None]
        usual = float(np.sum(self.weights * self.rests * self.df) / max(np.sum(self.df), 1e-300))
        patterns, first, pattern_of = np.unique(self.seen, axis=0, return_index=True, return_inverse=True)
        for pattern, one in enumerate(first.tolist()):
            if (patterns[pattern] == self.seen[best]).all():
                continue
            alike = pattern_of.reshape(-1) == pattern
            direction = self.solved @ (parts[best] - parts[one])
            along = (self.seen * direction**2).sum(1) - (self.seen @ direction) ** 2 / self.counts
            along *= self.weights
            to_best[alike] += along[best] * self.weights[best]
            own[alike] += along[one] * self.weights[one]
            others[alike] = max(float(along.sum() - along[best] - along[one]), 0.0) * usual
        return to_best, own, others


def fit(values: Floats, match: bool = True, overlap: float = 0.0) -> Fit:
    """Fits values as setting + replicate + rest, by least squares.

    Args:
        values: of k settings and n replicates [k, n]; NaN where there is none. Each setting has one at least.
        match: False if equal replicates have nothing in common, such as folds that were cut differently.
        overlap: see `Fit.overlap`.
    """
    seen = np.isfinite(values)
    counts = seen.sum(1)
    filled = np.where(seen, values, 0.0)
    means = filled.sum(1) / counts
    tolerance = EQUAL_WITHIN * np.abs(filled).max(1)
    matched = match and len(values) > 1 and _connected(seen)
    effects, solved = np.zeros(values.shape[1]), np.zeros((values.shape[1],) * 2)
    df, weights = counts - 1.0, np.ones(len(values))
    if matched:
        within = np.where(seen, values - means[:, None], 0.0)
        raw = (np.where(seen, values - _polished(values), 0.0) ** 2).sum(1) / np.maximum(df, 1.0)
        usual = float(np.median(raw[df > 0])) if df.any() else 0.0
        weights = 1 / np.maximum(1.0, raw / (FAR_MORE * usual)) if usual > 0 else weights
        parts = seen / np.sqrt(counts)[:, None]
        equations = np.diag(weights @ seen) - parts.T @ (weights[:, None] * parts)
        solved = np.linalg.pinv(equations, hermitian=True)
        effects = solved @ (weights @ within)
        means = means - (seen @ effects) / counts
        df = df - weights * ((seen @ np.diag(solved)) - np.einsum("kn,nm,km->k", parts, solved, parts))
    rest = np.where(seen, values - means[:, None] - effects, 0.0)
    df = np.where(df > 1e-9, df, 0.0)
    rests = np.divide((rest**2).sum(1), df, out=np.zeros(len(df)), where=df > 0)
    return Fit(values, means, rests, df, counts, effects, matched, seen, tolerance, weights, solved, overlap)


def _polished(values: Floats) -> Floats:
    """Fits values as setting + replicate by medians [k, n], so that no setting counts for more than the others (median
    polish, Tukey 1977)."""
    left = values
    median = np.median if np.isfinite(values).all() else np.nanmedian  # which is ten times as slow
    for _ in range(3):
        left = left - median(left, axis=0, keepdims=True)
        left = left - median(left, axis=1, keepdims=True)
    return np.asarray(values - left)


def _connected(seen: NDArray[np.bool_]) -> bool:
    """True if all settings are connected by common replicates, directly or by way of others."""
    reached, columns = seen[0].copy(), np.zeros(seen.shape[1], dtype=bool)
    while (reached != columns).any():
        columns = reached
        reached = seen[(seen & columns).any(1)].any(0)
    return bool((seen & columns).any(1).all())


@dataclass(frozen=True, eq=False)
class Spreads:
    """What is known of the standard deviations of the rests of k settings."""

    fit: Fit
    variances: Floats
    """The variances that are possible [g]."""
    chances: Floats
    """How probable each of them is for each setting [k, g]; the rows sum to 1."""

    def typical(self) -> Floats:
        """The geometric mean of the variances that are possible for each setting [k]."""
        return np.exp(self.chances @ np.log(self.variances))

    def mixtures(self, best: int, rows: NDArray[np.bool_] | None = None) -> tuple[Floats, Floats]:
        """Returns the variances that the differences of some settings (by default all) from the best one may have [b],
        and how probable each of them is [k, b]."""
        rows = np.ones(len(self.chances), dtype=bool) if rows is None else rows
        to_best, own, others = (share[rows] for share in self.fit.shares(best))
        if not len(own):
            return self.variances, np.empty((0, len(self.variances)))
        of_rows = self.chances[rows]
        least = math.log(self.variances[0] * min(float(to_best.min()), float(own.min())))
        most = math.log(self.variances[-1] * float((to_best + own).max()) + float(others.max()))
        bins = int((most - least) / BINS) + 2
        found = np.empty((len(own), bins))
        for start in range(0, len(own), CHUNK):
            part = slice(start, start + CHUNK)
            total = self.variances[:, None] * to_best[part, None, None] + self.variances * own[part, None, None]
            total += others[part, None, None]
            weights = self.chances[best][:, None] * of_rows[part, None, :]
            index = np.clip(((np.log(total) - least) / BINS + 0.5).astype(np.intp), 0, bins - 1)
            index += bins * np.arange(len(total))[:, None, None]
            found[part] = np.bincount(index.ravel(), weights.ravel(), bins * len(total)).reshape(-1, bins)
        possible = found.max(0) > NEGLIGIBLE
        return np.exp(least + BINS * np.flatnonzero(possible)), found[:, possible]


def spreads(found: Fit, levels: Levels | None = None) -> Spreads | None:
    """Estimates the standard deviations of the rests of all settings together; None if there is no spread at all.

    Args:
        found: the settings.
        levels: the levels of their params, on one of which the spreads may depend.
    """
    known = (found.df > 0) & (found.rests > found.tolerance**2)
    if not known.any():
        return None
    rests = np.maximum(found.rests, found.tolerance**2)
    outliers = min(OUTLIERS / len(rests), MOST_OUTLIERS)
    middle = _on_grid(1.4 * float(np.median(found.rests[known])), rests, found.df, outliers)
    ratios = rests / middle
    top = max(REACH, 0.5 * math.log(float(ratios.max())) + 2.0)
    grid = np.arange(-REACH, top + STEP / 2, STEP)
    fits = _fits(ratios, found.df, grid)
    likely = np.exp(fits - fits.max(1, keepdims=True))
    priors = _priors(grid, outliers)
    together = np.zeros(len(ratios), dtype=np.intp)
    ways = [together, *([] if levels is None else levels.T)]
    found_by = [_posterior(likely, priors, way) for way in ways]
    evidence = np.array([one for _, one in found_by])
    weights = np.exp(evidence - evidence.max())
    weights[1:] /= max(len(ways) - 1, 1)  # that spreads depend on a param is as likely as that they do not
    chances = np.tensordot(weights / weights.sum(), np.array([one for one, _ in found_by]), 1)
    return Spreads(found, middle * np.exp(2 * grid), chances)


def _on_grid(middle: float, rests: Floats, df: Floats, outliers: float) -> float:
    """Returns a middle of the grid, at most half a step from the given one, so that the variance that most settings
    have, if most have the same one (maximum likelihood), is on the grid: many values tell it far more exactly than to a
    step.

    Args:
        middle: a variance.
        rests: the variances that were seen [k].
        df: their degrees of freedom [k].
        outliers: the share of settings that have any other variance.
    """
    ratios = rests / middle
    grid = np.arange(-REACH, REACH + STEP / 2, STEP)
    fits = _fits(ratios, df, grid)
    most = fits.max(1, keepdims=True)
    far = outliers * np.exp(fits - most).mean(1, keepdims=True)
    usual = float(grid[np.argmax(np.log((1 - outliers) * np.exp(fits - most) + far).sum(0))])
    grid = np.arange(usual - STEP, usual + STEP, STEP / FINER)
    usual = float(grid[np.argmax(np.log((1 - outliers) * np.exp(_fits(ratios, df, grid) - most) + far).sum(0))])
    return middle * math.exp(2 * (usual - STEP * round(usual / STEP)))


def _fits(ratios: Floats, df: Floats, grid: Floats) -> Floats:
    """Returns the logarithms of how likely each standard deviation makes what was seen [k, g], but for constants.

    Args:
        ratios: the variances that were seen [k].
        df: their degrees of freedom [k].
        grid: the logarithms of the standard deviations [g].
    """
    return np.asarray(-df[:, None] * (grid + 0.5 * ratios[:, None] * np.exp(-2 * grid)))


def _posterior(likely: Floats, priors: Floats, level_of: NDArray[np.intp]) -> tuple[Floats, float]:
    """Returns how probable each standard deviation is for each setting [k, g], if the settings of each level have a
    distribution of their own; and the logarithm of the chance of what was seen, by that.

    Args:
        likely: how likely each standard deviation makes what was seen [k, g].
        priors: the distributions that are possible [p, g].
        level_of: the level of each setting [k].
    """
    usual = np.tile(-0.5 * (WIDTHS / USUAL_WIDTH) ** 2, len(MIDDLES))
    usual -= special.logsumexp(usual)
    explained = np.maximum(likely @ priors.T, 1e-300)
    logarithms = np.log(explained)
    weights = np.empty_like(explained)
    evidence = 0.0
    for level in np.unique(level_of):
        rows = level_of == level
        each = logarithms[rows].sum(0) + usual
        weights[rows] = np.exp(each - each.max())
        evidence += float(special.logsumexp(each))
    chances = likely * ((weights / explained) @ priors)
    return chances / chances.sum(1, keepdims=True), evidence


def _priors(grid: Floats, outliers: float) -> Floats:
    """Returns the distributions on a grid [g] that are taken to be possible, each [g]; `outliers` is the share of
    those in each."""
    distance = grid - MIDDLES[:, None, None]
    parts = []
    for width in (WIDTHS, np.sqrt(WIDTHS**2 + OUTLIER_WIDTH**2)):
        part = np.exp(-0.5 * (distance / width[:, None]) ** 2)
        parts.append(part / part.sum(-1, keepdims=True))
    far = (1 - FARTHEST) * parts[1] + FARTHEST / len(grid)
    both: Floats = (1 - outliers) * parts[0] + outliers * far
    return both.reshape(-1, len(grid))


def p_values(ahead: Floats, variances: Floats, chances: Floats) -> Floats:
    """Returns the two-sided p-values of differences of means [k].

    Args:
        ahead: the differences [k].
        variances: the variances that they may have [b].
        chances: how probable each of these is for each difference [k, b].
    """
    p = np.empty(len(ahead))
    for start in range(0, len(ahead), CHUNK):
        part = slice(start, start + CHUNK)
        tails = 2 * special.ndtr(-np.abs(ahead[part, None]) / np.sqrt(variances))
        p[part] = (chances[part] * tails).sum(1)
    return np.minimum(p, 1.0)


def limits(p: float, variances: Floats, chances: Floats) -> Floats:
    """Returns the differences [k] that have a p-value, by bisection of their logarithms.

    Args:
        p: the p-value.
        variances: see `p_values`.
        chances: see `p_values`.
    """
    at_one = -float(special.ndtri(p / 2))
    low, high = (np.full(len(chances), math.log(at_one) + 0.5 * math.log(one)) for one in variances[[0, -1]].tolist())
    for _ in range(24):
        middle = (low + high) / 2
        over = p_values(np.exp(middle), variances, chances) > p
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    return np.asarray(np.exp(high))
