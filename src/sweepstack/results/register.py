"""The model to use: a run's weights as a registered model of MLflow, and back."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sweepstack.config.code_digest import sources
from sweepstack.errors import UserError, did_you_mean
from sweepstack.files.scratch import scratch
from sweepstack.inference.classifier import Classifier, classifier, example, predicted_of_test
from sweepstack.results.reproduce import code_change
from sweepstack.results.selection.predictions import predicted_otherwise
from sweepstack.results.selection.select import select
from sweepstack.results.tables.frame import table
from sweepstack.tracking import models
from sweepstack.tracking.artifacts import artifact, config_of, place
from sweepstack.tracking.params import from_text
from sweepstack.tracking.runs import Record, find_run, record
from sweepstack.tracking.store import Store
from sweepstack.trial import WEIGHTS, TrialState

DEFAULT_ALIAS = "best"
MODELS, RUNS = "models:/", "runs:/"
"""How MLflow's addresses begin."""
REQUIRED = ("sweepstack", "torch", "numpy", "omegaconf", "pydantic", "pillow", "scipy")
"""What a model needs to be loaded, pinned to the versions here."""


@dataclass(frozen=True)
class Registered:
    """What `register` has done."""

    name: str
    version: int
    alias: str
    model_id: str
    code: tuple[Path, ...]
    """The user's own code that went along."""
    only: bool
    """Whether no other model has this alias."""


def selected(store: Store, sweep: str) -> tuple[Record, str]:
    """The trial to use of a sweep, see `selection.select`, and why its test figure is too good, if it is.

    Raises:
        StoreError: there is no such sweep.
        UserError: none of its trials has finished.
    """
    selection = select(table(sweep, store=store))
    return record(store, str(selection.trial["run_id"])), selection.caution


def register(store: Store, run: Record, name: str | None = None, alias: str = DEFAULT_ALIAS) -> Registered:
    """Logs the model of a finished run and registers it under a name, that of its dataset unless given, with an alias.

    Raises:
        UserError: the run has not finished, its weights or its dataset are gone, its code has changed, its model does
            not predict any more what it did, or MLflow takes no such name.
        StoreError: the store does not take it.
    """
    name = str(from_text(run.row.params.get("dataset", "model"))) if name is None else name
    models.check_names(name, alias)
    trained, weights = _of_run(store, run)
    _check_predictions(store, run, trained)
    config = trained.config
    code = sources(config)
    shown = example(config)
    requirements = [f"{package}=={importlib.metadata.version(package)}" for package in REQUIRED]
    with scratch() as aside:
        folder = aside / "data"
        folder.mkdir()
        trained.check_twice(shown)
        trained.save(folder, weights)
        answer = trained.predict(shown)
        version, model_id = models.log_and_register(store, run, name, alias, folder, code, requirements, shown, answer)
    having = {known for known, aliases in models.registered(store).items() if alias in aliases}
    return Registered(name, version, alias, model_id, tuple(code), having == {name})


def _of_run(store: Store, run: Record) -> tuple[Classifier, bytes]:
    row = run.row
    if row.state != TrialState.FINISHED:
        raise UserError(
            f"a model must be of a FINISHED run, {row.name} ({row.run_id}) is {row.state}",
            remedy="choose another",
        )
    weights = artifact(store, row.run_id, WEIGHTS)
    if weights is None:
        raise UserError(
            f"run {row.name} ({row.run_id}) must have its {WEIGHTS}, it is gone",
            remedy="choose another run",
        )
    trained = classifier(config_of(store, row.run_id), weights)
    if change := code_change(run, trained.config):
        raise UserError(
            f"a model must have the code that it was trained with, of run {row.name} ({row.run_id}) {change}",
            remedy="restore that code, or train the run again with rerun=true",
        )
    return trained, weights


def _check_predictions(store: Store, run: Record, trained: Classifier) -> None:
    """That the model still does what its run has recorded, whatever has changed that no checksum knows of."""
    digest, now = predicted_of_test(trained)
    known = place(store, run.row.run_id)
    if known is not None and known.data not in (None, digest):
        raise UserError(
            f"a model must be registered with the data that it was trained on, those of run {run.row.name} "
            f"({run.row.run_id}) have changed",
            remedy="restore them, or train the run again with rerun=true",
        )
    if otherwise := predicted_otherwise(store, run.row.run_id, now):
        raise UserError(
            f"a model must predict what it did when it was trained, that of run {run.row.name} ({run.row.run_id}) "
            f"predicts {otherwise} of {len(now)} test images otherwise",
            remedy="restore its code, or train the run again with rerun=true",
        )


@contextlib.contextmanager
def load_classifier(store: Store, word: str) -> Iterator[tuple[Classifier, str]]:
    """The classifier that a word means, for as long as the block lasts, and what it is in words.

    Args:
        word: NAME@ALIAS, an alias that one registered model has, a run, see `runs.find_run`, or an address as MLflow
            writes it: models:/NAME@ALIAS, models:/NAME/VERSION or runs:/ID.

    Raises:
        UserError: there is no such model, or there are several.
        StoreError: it cannot be had.
    """
    found = _version_of(store, word)
    if found is None:
        run = find_run(store, _run_in(word))
        yield _of_run(store, run)[0], f"run {run.row.name} ({run.row.run_id})"
        return
    with models.files(store, found) as folder:
        yield models.load_model(folder), f"{found.name}, version {found.version}"


def _run_in(word: str) -> str:
    """The run in an address such as "runs:/ID/model"."""
    return word.removeprefix(RUNS).strip("/").partition("/")[0] if word.startswith(RUNS) else word


def _version_of(store: Store, word: str) -> models.Version | None:
    """The version of a registered model that a word means; None when it must be a run."""
    if word.startswith(RUNS):
        return None
    address, word = word.startswith(MODELS), word.removeprefix(MODELS)
    name, at, alias = word.rpartition("@")
    if at and name:
        return models.version(store, name, alias)
    if address:
        name, slash, number = word.strip("/").rpartition("/")
        if not slash:
            rule = "an address of a model must name its alias or version"
            raise UserError(rule, f"{MODELS}{word}", f"for example {MODELS}{word}@{DEFAULT_ALIAS} or {MODELS}{word}/1")
        return models.numbered(store, name, number)
    known = models.registered(store)
    having = sorted(name for name, aliases in known.items() if word in aliases)
    if len(having) > 1:
        some = " or ".join(f"--model {name}@{word}" for name in having)
        raise UserError(
            f"{word!r} must mean one model, {len(having)} have this alias",
            remedy=f"choose with {some}",
        )
    if having:
        return models.version(store, having[0], word)
    if word == DEFAULT_ALIAS and not known:
        raise UserError(
            f"there is no registered model in {store.uri}",
            remedy="register the best one: sweepstack register",
        )
    if word == DEFAULT_ALIAS:
        aliases = sorted(f"{name}@{alias}" for name, aliases in known.items() for alias in aliases)
        raise UserError(
            f"no model has the alias {DEFAULT_ALIAS!r}",
            remedy=f"choose with --model, {did_you_mean(word, aliases)}",
        )
    return None
