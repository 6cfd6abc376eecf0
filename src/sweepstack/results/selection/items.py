"""Compares trained models by their errors on the same items: what these models would do on other items of the kind.

It says nothing of what training again would give; that needs several seeds, see `replicates`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sweepstack.metrics import Metric, bare_name
from sweepstack.results.selection.statistics import holm_with_best, mcnemar, paired_t

PAIRED_T = "paired t-test over"
"""How models are compared whose errors have sizes, in words."""
POWERS = {"rmse": 2, "mse": 2, "mae": 1}
"""Metrics that are (but for a root) the mean of a power of the absolute residuals, each with that power."""
SHARES = ("accuracy", "exact_match")
"""Metrics that are the mean over the items of what is right."""
AGREES_WITHIN = 1e-3
"""How far the mean of the errors may be from the recorded value of the metric, relative to it: float32 rounds sums."""


class PerItem(NamedTuple):
    """How the predictions of a run compare with the targets, item by item."""

    values: NDArray[Any]
    """Of classes, which are right, bool [n]; of labels, which are right, bool [n, labels]; of numbers the residuals,
    target minus prediction, float64 [n, outputs]."""
    items: Hashable
    """Which items these are: equal for two runs only if they are the same ones, in the same order."""


class ItemTest(NamedTuple):
    """The result of a test of a model against the best one."""

    p: float
    """The p-value; NaN if there is nothing to tell a difference by."""
    df: float
    """Its degrees of freedom; infinity for a test by the normal distribution."""
    how: str
    """Which test it was, in words."""


def is_mean_over_items(metric: Metric) -> bool:
    """True if a metric is the mean of the errors of the items, or its root; so two models can be compared by them."""
    return bare_name(metric) in POWERS or bare_name(metric) in SHARES


def errors_of(metric: Metric, found: PerItem) -> NDArray[Any] | None:
    """Returns the errors of the items [n] that a metric is the mean of: of one right answer an item bool, else float.

    It returns None if the metric is no mean of errors, or not of these.
    """
    name, values = bare_name(metric), found.values
    if name in POWERS and values.dtype != np.bool_:
        return np.asarray((np.abs(values) ** POWERS[name]).mean(1))
    if name not in SHARES or values.dtype != np.bool_:
        return None
    if values.ndim == 1:
        return ~values if name == "accuracy" else None
    return np.asarray(~values.all(1) if name == "exact_match" else 1 - values.mean(1))


def give(metric: Metric, errors: NDArray[Any], value: float) -> bool:
    """True if a metric with this value can be the mean of these errors: if not, they are of another measurement, or the
    metric is no plain mean over the items."""
    mean = float(errors.mean())
    found = 1 - mean if bare_name(metric) in SHARES else math.sqrt(mean) if bare_name(metric) == "rmse" else mean
    if errors.dtype == np.bool_:
        return abs(found - value) < 0.5 / len(errors)
    return math.isclose(found, value, rel_tol=AGREES_WITHIN, abs_tol=1e-6)


def compare_errors(best: NDArray[Any], other: NDArray[Any], name: str) -> ItemTest:
    """Tests the best model against another one: by McNemar's test if an item is right or wrong, else by a paired t-test
    of the errors (Diebold and Mariano 1995, Journal of Business & Economic Statistics 13).

    Args:
        best: the errors of the best one [n].
        other: those of the other one [n].
        name: the items in words, such as "held-out items".

    Returns:
        The test with a two-sided p-value that is not corrected, see `corrected`; 1 if the other one is ahead, which is
        no evidence that the best one is better.
    """
    if best.dtype == np.bool_:
        p, df, how = mcnemar(~best, ~other), np.inf, f"McNemar over {len(best):,} {name}"
    else:
        (p, df), how = paired_t(best, other), f"{PAIRED_T} {len(best):,} {name}"
    if other.mean() < best.mean():
        return ItemTest(1.0, df, f"{how}, where it is ahead of the best")
    if np.isnan(p):
        return ItemTest(p, df, f"{how}, whose differences are all the same: no spread to compare with")
    return ItemTest(p, df, how)


def corrected(tests: Sequence[ItemTest], groups: int) -> list[float]:
    """Returns the p-values of tests, corrected for being many and for the best having been chosen by the same items.

    Args:
        tests: what `compare_errors` returned for each other model.
        groups: the number of models that the best was chosen from.
    """
    p, df = (np.array([getattr(test, name) for test in tests], dtype=float) for name in ("p", "df"))
    done = np.isfinite(p)
    p[done] = holm_with_best(p[done], df[done], groups)
    return [float(one) for one in p]
