"""The table of large sweeps: whole commands `sweepstack table --sweep NAME --format FORMAT`, in turn, medians.

Stores with one sweep each are filled through MLflow's own tables, for recording 10,000 trials takes minutes: a run has
the params, tags, metrics and dataset of a real one, and each metric that is measured a history of 5 epochs.

    python benchmarks/table.py
    python benchmarks/table.py --formats csv,text,markdown,latex,html,json,parquet --runs 1
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any, NamedTuple

from sweepstack.tracking.runs_as_rows import (
    FINGERPRINT_TAG,
    ID_TAG,
    LOG_TAG,
    REASON_TAG,
    SETTLED_TAG,
    SWEEP_TAG,
    TRAINED_TAG,
    VERSION_TAG,
    member_tag,
)
from sweepstack.tracking.store import Store

COMMAND = Path(sys.executable).with_name("sweepstack")
SWEEP, BEGAN = "large", 1_780_000_000_000
EPOCHS = 5


def params(number: int) -> dict[str, str]:
    """12 of them; learning rate, batch size and seed vary."""
    same = {"dataset": "mnist", "model": "logistic", "optimizer": "sgd", "schedule": "constant", "momentum": "0.0"}
    same |= {"weight_decay": "0.0", "epochs": str(EPOCHS), "validation_split": "0.1", "precision": "float32"}
    lr = 10 ** (-4 + 4 * (number // 20) / 1000)
    return {**same, "lr": repr(lr), "batch_size": str((50, 100, 200, 400)[number // 5 % 4]), "seed": str(number % 5)}


def metrics(dice: random.Random) -> tuple[dict[str, list[float]], dict[str, float]]:
    """8 of them: those with a history, and those that are measured at the end."""
    last = 0.85 + 0.07 * dice.random()
    curve = [last - 0.1 / epoch for epoch in range(1, EPOCHS + 1)]
    along = {"val/accuracy": curve, "val/accuracy_best": curve, "val/loss": [1 - value for value in curve]}
    along["train/loss"] = [1.1 - value for value in curve]
    seconds = dice.uniform(2, 3)
    return along, {
        "test/accuracy": last + dice.gauss(0, 0.003),
        "test/loss": 1 - last,
        "train_seconds": seconds,
        "train_seconds_share": seconds / 64,
    }


def tags(number: int) -> dict[str, str]:
    """12 of them, as a delivery writes them."""
    print_ = f"{number:020x}.{'d' * 20}.{'c' * 20}"
    return {
        VERSION_TAG: "0.1.0",
        "versions.python": "3.11.2",
        "versions.torch": "2.15.0",
        "mlflow.user": "ada",
        "mlflow.source.name": "train.py",
        ID_TAG: f"{SWEEP}-{number}",
        FINGERPRINT_TAG: print_,
        SETTLED_TAG: print_,
        LOG_TAG: f"/multirun/{number}/train.log",
        REASON_TAG: "",
        TRAINED_TAG: "in a stack of 64: one model",
        SWEEP_TAG: SWEEP,
        member_tag(SWEEP): f"{BEGAN} {SWEEP}",
    }


def fill(uri: str, trials: int) -> None:
    from mlflow.store.tracking.dbmodels import models
    from sqlalchemy import insert

    store = Store(uri)
    experiment = int(store.experiment_id("train"))
    dice = random.Random(0)
    kinds = (models.SqlRun, models.SqlParam, models.SqlTag, models.SqlMetric, models.SqlLatestMetric)
    rows: dict[Any, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for number in range(trials):
        run = uuid.UUID(int=dice.getrandbits(128)).hex
        at = BEGAN + 30 * number
        name = f"lr={params(number)['lr']} bs={params(number)['batch_size']} seed={params(number)['seed']}"
        about = {"status": "FINISHED", "lifecycle_stage": "active", "source_type": "LOCAL", "user_id": "ada"}
        where = {"experiment_id": experiment, "artifact_uri": f"file:///artifacts/{run}"}
        rows[models.SqlRun].append(
            {"run_uuid": run, "name": name, "start_time": at, "end_time": at + 2500, **about, **where}
        )
        for kind, found in ((models.SqlParam, params(number)), (models.SqlTag, tags(number))):
            rows[kind] += [{"run_uuid": run, "key": key, "value": value} for key, value in found.items()]
        along, at_end = metrics(dice)
        for key, values in {**along, **{key: [value] for key, value in at_end.items()}}.items():
            history = [
                {"run_uuid": run, "key": key, "value": value, "timestamp": at + step, "step": step, "is_nan": False}
                for step, value in enumerate(values)
            ]
            rows[models.SqlMetric] += history
            rows[models.SqlLatestMetric].append(history[-1])
    with store.client._tracking_client.store.engine.begin() as connection:
        for kind, of_kind in rows.items():
            connection.execute(insert(kind), of_kind)


class Cost(NamedTuple):
    """Of a whole command."""

    seconds: float
    of_processor: float
    megabytes: float
    """Its peak."""


def cost(uri: str, form: str) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        words = ["table", "--store", uri, "--sweep", SWEEP, "--format", form, "-o", f"{folder}/table"]
        began = time.perf_counter()
        process = subprocess.Popen([COMMAND, *words], stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        took = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"sweepstack {' '.join(words)} failed")
    return Cost(took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", default="100,1000,10000", help="sizes of the sweeps")
    parser.add_argument("--formats", default="csv")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    sizes, forms = [int(size) for size in options.trials.split(",")], options.formats.split(",")
    with tempfile.TemporaryDirectory() as folder:
        uris = {size: f"sqlite:///{folder}/{size}.db" for size in sizes}
        for size, uri in uris.items():
            filling = multiprocessing.get_context("spawn").Process(target=fill, args=(uri, size))
            filling.start()  # a process of its own: what this one has ever held would count as its children's peak
            filling.join()
        cost(uris[sizes[0]], forms[0])  # once, so that files are in the page cache
        seen: dict[tuple[str, int], list[Cost]] = {(form, size): [] for form in forms for size in sizes}
        for _ in range(options.runs):
            for form, size in seen:
                seen[form, size].append(cost(uris[size], form))
    print("| format | trials | seconds | of the processor | ms a trial | ms a trial more than the first | peak MB |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for (form, size), found in seen.items():
        took, processor, peak = (statistics.median(values) for values in zip(*found, strict=True))
        least = statistics.median(one.seconds for one in seen[form, sizes[0]])
        more = "" if size == sizes[0] else f"{1000 * (took - least) / (size - sizes[0]):.2f}"
        print(f"| {form} | {size:,} | {took:.2f} | {processor:.2f} | {1000 * took / size:.2f} | {more} | {peak:.0f} |")


if __name__ == "__main__":
    main()
