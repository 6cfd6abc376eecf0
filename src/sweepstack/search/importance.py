"""How much each searched param matters: PED-ANOVA (Watanabe et al., IJCAI 2023), as Optuna computes it."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Mapping, Sequence

from sweepstack.search.space import Distribution, Options, Value

SHUFFLES = 39
"""Random orders of the points, with which the importance of nothing is found."""
CHANCE = 0.95
"""The probability that the importance of nothing is not above the value that `importance` returns beside it."""


def importance(
    points: Sequence[Mapping[str, Value]], distributions: Mapping[str, Distribution], best: int
) -> dict[str, tuple[float, float]]:
    """Returns how differently each param is spread in the best points and in all: the Pearson divergence of the two.

    The same points give the same values.

    Args:
        points: the values of each point, the best point first. A point need not have all params.
        distributions: what each param is drawn from; each value lies in it.
        best: the number of points that count as the best.

    Returns:
        For each param that some point has, its importance, and the value below which it is in 95 of 100 random orders
        of the points.

    Raises:
        ImportError: there is no Optuna with PED-ANOVA.
    """
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.importance import PedAnovaImportanceEvaluator
    from optuna.trial import FrozenTrial, create_trial

    def converted(one: Distribution) -> BaseDistribution:
        if isinstance(one, Options):
            return CategoricalDistribution(one.texts)
        if one.whole:
            return IntDistribution(int(one.low), int(one.high), log=one.log)
        return FloatDistribution(one.low, one.high, log=one.log)

    known = {key: converted(one) for key, one in distributions.items() if any(key in point for point in points)}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a condition leaves few points, or that the evaluator is experimental
            study = optuna.create_study()
            study.add_trials(
                [
                    create_trial(value=float(rank), params=dict(one), distributions={key: known[key] for key in one})
                    for rank, one in enumerate(points)
                ]
            )
            part = (best - 0.5) / len(points)  # it is rounded up
            try:
                evaluator = PedAnovaImportanceEvaluator(target_quantile=part)
            except TypeError:  # before Optuna 4.7
                evaluator = PedAnovaImportanceEvaluator(baseline_quantile=part)  # type: ignore[call-arg]

            def evaluated(ranks: Sequence[int]) -> dict[str, float]:
                def rank_of(trial: FrozenTrial) -> float:
                    return float(ranks[trial.number])

                return {key: evaluator.evaluate(study, [key], target=rank_of).get(key, 0.0) for key in known}

            order = [*range(len(points))]
            found = evaluated(order)
            draw = random.Random(0)
            by_chance = [evaluated(draw.sample(order, len(order))) for _ in range(SHUFFLES)]
    finally:
        optuna.logging.set_verbosity(verbosity)
    below = math.ceil(CHANCE * (SHUFFLES + 1)) - 1  # the order that was found may be any one of these, too
    return {key: (value, sorted(one[key] for one in by_chance)[below]) for key, value in found.items()}
