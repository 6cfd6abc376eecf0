"""Collects what a report shows of the mistakes of the selected model: it depends on the task."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from sweepstack.errors import UserError, one_line
from sweepstack.metrics import CLASSIFICATION, MULTILABEL, REGRESSION
from sweepstack.results.reporting import mistakes, recall, residuals
from sweepstack.results.reporting.predicted import predicted_of
from sweepstack.results.reporting.sections import About, OnProgress, ReportSection
from sweepstack.tracking.artifacts import CONFIG, artifact, config_of
from sweepstack.tracking.store import Store
from sweepstack.trial import PREDICTIONS, WEIGHTS

if TYPE_CHECKING:
    from sweepstack.config.schema import TrialConfig

RECALL = "The part of the test items of a {kind} that the model finds, with Wilson's interval (95 %). "
"""The caption of `recall.recall_bars`."""
SELECTED = "This is no test: the model was selected by the same items, and is better on them than on others."
"""What the first caption says if test data selected."""


def make_mistake_sections(about: About, on_progress: OnProgress) -> Iterator[ReportSection]:
    """Draws what the selected model gets wrong on the test data, and says so if these selected it."""
    for number, section in enumerate(_sections(about, on_progress)):
        drawn_first = number == 0 and section.figure is not None
        if drawn_first and about.selection is not None and not about.selection.honest:
            section = replace(section, caption=f"{section.caption} {SELECTED}")
        yield section


def inputs_of_mistakes(about: About) -> list[bytes]:
    """Returns all that `make_mistake_sections` depends on; an empty list if the record has not all of it."""
    if about.selection is None or about.origin is None or not about.origin.digest:
        return []
    run_id = str(about.selection.trial["run_id"])
    files = [artifact(about.store, run_id, name) for name in (CONFIG, WEIGHTS, PREDICTIONS)]
    known = [one for one in files if one is not None]
    rest = f"{about.origin.digest} {about.selection.honest}".encode()
    return [*known, rest] if len(known) == len(files) else []


def _sections(about: About, on_progress: OnProgress) -> Iterator[ReportSection]:
    if about.selection is None or about.origin is None:
        return
    on_progress("testing the selected model")
    run_id, digest = str(about.selection.trial["run_id"]), about.origin.digest
    try:
        config = config_of(about.store, run_id)
        if config.dataset.parts.test is None:
            yield ReportSection("mistakes", "There is no test part, so what the model gets wrong is not known.")
            return
        known = {CLASSIFICATION: _of_classes, REGRESSION: _of_numbers, MULTILABEL: _of_labels}
        if config.task.target in known:
            yield from known[config.task.target](about.store, run_id, config, digest)
        else:
            yield ReportSection("mistakes", f"What {config.task.target} gets wrong cannot be drawn.")
    except UserError as error:
        yield ReportSection("mistakes", f"The mistakes of the trial to use cannot be shown here: {one_line(error)}.")


def _of_classes(store: Store, run_id: str, config: TrialConfig, digest: str) -> Iterator[ReportSection]:
    found = mistakes.answers_of(store, run_id, config, digest)
    caption = (
        "Numbers are test images. A cell has more colour the larger a part of its row it is; correct answers have none."
    )
    yield ReportSection("confusion", caption, mistakes.confusion_matrix(found))
    of_classes = recall.recall_of_classes(mistakes.confusion(found))
    if of_classes.uneven:
        low, high = of_classes.counts.min(), of_classes.counts.max()
        caption = f"{RECALL.format(kind='class')}Classes have from {low:,} to {high:,} test items."
        yield ReportSection("recall", caption, recall.recall_bars(of_classes))
    if len(mistakes.surest_mistakes(found)):
        caption = "Above each image are its true class and the class that the model predicts."
        yield ReportSection("wrong", caption, mistakes.wrong_images(found))
    else:
        yield ReportSection("wrong", "The model classifies every test image correctly.")


def _of_numbers(store: Store, run_id: str, config: TrialConfig, digest: str) -> Iterator[ReportSection]:
    found = predicted_of(store, run_id, config, digest)
    differences = found.targets.astype(np.float64) - found.values
    bias = ", ".join(f"{mean:.4g}" for mean in differences.mean(0)[: residuals.MAX_OUTPUTS])
    caption = (
        "A mark is a test item; on the line, prediction and truth are equal. Rings are the items of the next plot. The "
        f"mean of the residuals (true minus predicted) is {bias}."
    )
    yield ReportSection("predicted", caption, residuals.predicted_and_true(found))
    caption = "Items are numbered as in the test data, from 0."
    if found.targets.shape[1] > 1:
        caption += " Residuals are compared in units of the standard deviation of their output."
    yield ReportSection("residuals", caption, residuals.residual_bars(found))


def _of_labels(store: Store, run_id: str, config: TrialConfig, digest: str) -> Iterator[ReportSection]:
    of_labels = recall.recall_of_labels(predicted_of(store, run_id, config, digest))
    if of_labels.counts.any():
        yield ReportSection("recall", RECALL.format(kind="label").strip(), recall.recall_bars(of_labels))
    else:
        yield ReportSection("recall", "No test item has a label.")
