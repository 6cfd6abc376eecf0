"""Registers a run's weights as a model in MLflow, and loads registered models."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sweepstack.config.code_digest import sources
from sweepstack.errors import UserError, did_you_mean
from sweepstack.files.scratch import scratch
from sweepstack.inference.predictor import Answer, Predictor
from sweepstack.inference.trial_data import build_predictor, example, predict_test_data
from sweepstack.metrics import bare_name, rounded
from sweepstack.results.reproduce import code_change
from sweepstack.results.selection.predictions import compare_with_targets, count_changed_predictions
from sweepstack.results.selection.select import select
from sweepstack.results.tables.frame import table
from sweepstack.results.tables.objective import direction_note, note_of, objective
from sweepstack.tracking import models
from sweepstack.tracking.artifacts import artifact, config_of, location
from sweepstack.tracking.objectives import objectives_of
from sweepstack.tracking.params import from_text
from sweepstack.tracking.runs import Record, find_run, record
from sweepstack.tracking.runs_as_rows import Row
from sweepstack.tracking.store import Store
from sweepstack.trial import WEIGHTS, TrialState

DEFAULT_ALIAS = "best"
"""The alias of a registered model if none is given."""
MODELS = "models:/"
"""MLflow's addresses of registered models begin with it."""
RUNS = "runs:/"
"""MLflow's addresses of runs begin with it."""
REQUIRED = ("sweepstack", "torch", "numpy", "omegaconf", "pydantic", "pillow", "scipy")
"""Packages that a registered model needs; it records their installed versions."""
KINDS = {Answer.CLASS: "classifier", Answer.LABELS: "classifier", Answer.NUMBERS: "regressor"}
"""What MLflow shows as the type of a model."""


@dataclass(frozen=True)
class Registered:
    """A registered model."""

    name: str
    version: int
    alias: str
    model_id: str
    code: tuple[Path, ...]
    """The user's own code that was stored with it."""
    only: bool
    """True if no other registered model has this alias."""
    file: str
    """The name of a file that it could predict."""


def selected(store: Store, sweep: str, metric: str | None = None) -> tuple[Record, str, str]:
    """Selects the trial of a sweep to use; see `selection.select`.

    Args:
        store: the store with the sweep.
        sweep: the name of the sweep.
        metric: the metric that selects; by default the objective of the task.

    Returns:
        The run; how many settings may be the best, or ""; and what its user should know of how it was selected, such as
        that its test value is too good, or "".

    Raises:
        StoreError: there is no such sweep.
        UserError: none of its trials has finished, there is no such metric, or the trials have different objectives.
    """
    frame = table(sweep, metric=metric, store=store)
    chosen = objective(frame, metric) if metric is not None else None
    selection = select(frame, compare_with_targets(store), chosen)
    cautions = [direction_note(frame, metric) if metric is not None else "", selection.caution]
    return record(store, str(selection.trial["run_id"])), selection.in_short, "; ".join(filter(None, cautions))


def describe_results(row: Row) -> str:
    """Returns the values of a run's objective on all parts of the data, in words, and what to know of them."""
    selects = {bare_name(name) for name in objectives_of([(row.declared, row.metrics)])}
    values = [f"{key} {rounded(value)}" for key, value in sorted(row.metrics.items()) if bare_name(key) in selects]
    note = note_of(row)
    return "  ".join([*values, f"({note})"] if note else values)


def register(
    store: Store, run: Record, name: str | None = None, alias: str = DEFAULT_ALIAS, caution: str = ""
) -> Registered:
    """Logs the model of a finished run, and registers it under a name and an alias.

    Args:
        store: the store with the run.
        run: the run.
        name: the name of the registered model; by default the name of the dataset.
        alias: the alias of the new version.
        caution: what its user should know of how it was selected; the description of the version has it.

    Raises:
        UserError: the run has not finished, its weights or its dataset are gone, its code has changed, its model now
            predicts something else, or MLflow does not accept the name.
        StoreError: the store does not accept the model.
    """
    if name is None:  # of a dataset that is named by its target, too, which has dots
        name = str(from_text(run.row.params.get("dataset", "model"))).replace(".", "_")
    models.check_names(name, alias)
    model, weights = _of_run(store, run)
    _check_predictions(store, run, model)
    config = model.config
    code = sources(config)
    images = example(config)
    requirements = [f"{package}=={importlib.metadata.version(package)}" for package in REQUIRED]
    with scratch() as temporary:
        folder = temporary / "data"
        folder.mkdir()
        model.check_deterministic(images)
        model.save(folder, weights)
        answer = model.predict(images)
        kind = KINDS.get(model.answer)
        version, model_id = models.log_and_register(
            store, run, name, alias, folder, code, requirements, images, answer, kind, caution or note_of(run.row)
        )
    with_alias = {known for known, aliases in models.registered(store).items() if alias in aliases}
    return Registered(name, version, alias, model_id, tuple(code), with_alias == {name}, model.file)


def _of_run(store: Store, run: Record) -> tuple[Predictor, bytes]:
    row = run.row
    if row.state != TrialState.FINISHED:
        raise UserError(
            f"a model must be of a FINISHED run, {row.name} ({row.run_id}) is {row.state}",
            remedy="choose another",
        )
    config, weights = config_of(store, row.run_id), artifact(store, row.run_id, WEIGHTS)
    if weights is None:
        rule = f"run {row.name} ({row.run_id}) must have its {WEIGHTS}, which is missing"
        if (loop := config.trainer) is not None:
            rule = f"a model must have weights, the loop of run {row.name} ({row.run_id}), {loop.target}, returned none"
        raise UserError(rule, remedy="choose another run" if loop is None else "let it return its model")
    model = build_predictor(config, weights)
    if change := code_change(run, model.config):
        raise UserError(
            f"a model must have the code that it was trained with, of run {row.name} ({row.run_id}) {change}",
            remedy="restore that code, or train the run again with rerun=true",
        )
    return model, weights


def _check_predictions(store: Store, run: Record, model: Predictor) -> None:
    """Checks that the model still predicts what its run has recorded; no checksum covers everything that can change."""
    digest, now = predict_test_data(model)
    known = location(store, run.row.run_id)
    if known is not None and known.data not in (None, digest):
        raise UserError(
            f"a model must be registered with the data that it was trained on, those of run {run.row.name} "
            f"({run.row.run_id}) have changed",
            remedy="restore them, or train the run again with rerun=true",
        )
    if changed := count_changed_predictions(store, run.row.run_id, now):
        raise UserError(
            f"a model must predict what it did when it was trained, that of run {run.row.name} ({run.row.run_id}) "
            f"predicts {changed} of {len(now)} test items differently",
            remedy="restore its code, or train the run again with rerun=true",
        )


@contextlib.contextmanager
def load_predictor(store: Store, reference: str) -> Iterator[tuple[Predictor, str]]:
    """Yields the predictor that the user has named, and a description of it. Its files are deleted after the block.

    Args:
        store: the store with the model.
        reference: NAME@ALIAS, an alias that only one registered model has, a run (see `runs.find_run`), or an address
            of MLflow: models:/NAME@ALIAS, models:/NAME/VERSION or runs:/ID.

    Raises:
        UserError: there is no such model, or there are several.
        StoreError: the model cannot be read.
    """
    found = _version_of(store, reference)
    if found is None:
        run = find_run(store, _run_in(reference))
        yield _of_run(store, run)[0], f"run {run.row.name} ({run.row.run_id})"
        return
    with models.files(store, found) as folder:
        yield models.load_model(folder), f"{found.name}, version {found.version}"


def _run_in(reference: str) -> str:
    """Returns the run in an address such as "runs:/ID/model"."""
    return reference.removeprefix(RUNS).strip("/").partition("/")[0] if reference.startswith(RUNS) else reference


def _version_of(store: Store, reference: str) -> models.Version | None:
    """Returns the version of a registered model that the user has named; None if the user has named a run."""
    if reference.startswith(RUNS):
        return None
    address, reference = reference.startswith(MODELS), reference.removeprefix(MODELS)
    name, at, alias = reference.rpartition("@")
    if at and name:
        return models.version(store, name, alias)
    if address:
        name, slash, number = reference.strip("/").rpartition("/")
        if not slash:
            rule = "an address of a model must name its alias or version"
            raise UserError(
                rule,
                f"{MODELS}{reference}",
                f"for example {MODELS}{reference}@{DEFAULT_ALIAS} or {MODELS}{reference}/1",
            )
        return models.numbered(store, name, number)
    known = models.registered(store)
    with_alias = sorted(name for name, aliases in known.items() if reference in aliases)
    if len(with_alias) > 1:
        options = " or ".join(f"--model {name}@{reference}" for name in with_alias)
        raise UserError(
            f"{reference!r} must mean one model, {len(with_alias)} have this alias",
            remedy=f"choose with {options}",
        )
    if with_alias:
        return models.version(store, with_alias[0], reference)
    if reference == DEFAULT_ALIAS and not known:
        raise UserError(
            f"there is no registered model in {store.uri}",
            remedy="register the best one: sweepstack register",
        )
    if reference == DEFAULT_ALIAS:
        aliases = sorted(f"{name}@{alias}" for name, aliases in known.items() for alias in aliases)
        raise UserError(
            f"no model has the alias {DEFAULT_ALIAS!r}",
            remedy=f"choose with --model, {did_you_mean(reference, aliases)}",
        )
    return None
