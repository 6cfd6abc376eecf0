"""Shows one run as text: how it ended, its metrics and learning curves, its params and its config."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from sweepstack.errors import printable
from sweepstack.metrics import BEST, NO_RESULTS, with_direction
from sweepstack.results.tables.objective import note_of
from sweepstack.tracking.artifacts import CONFIG, artifact
from sweepstack.tracking.params import from_text
from sweepstack.tracking.runs import Record, history
from sweepstack.tracking.runs_as_rows import FINGERPRINT_TAG, RECOMPOSED_TAG, TRAINED_TAG
from sweepstack.tracking.store import Store
from sweepstack.trial import TrialState

PARTS = ("train", "val", "test")
"""The parts of the data, in the order in which their curves are shown."""
BLOCKS = "▁▂▃▄▅▆▇█"
"""The characters of a curve, from the lowest value to the highest."""
CURVE_WIDTH = 60
"""The most characters of a curve."""
LAST_LINES = 15
"""The number of lines of a failed trial's log that are shown."""


def describe_run(store: Store, run: Record) -> str:
    """Returns a run as several lines of text; the same store gives the same text."""
    row = run.row
    lines = [f"{printable(row.name)}  {row.state}"]
    if row.reason:
        lines.append(f"  reason       {printable(row.reason)}")
    lines += [f"  {key:<11}  {printable(value)}" for key, value in _facts(run).items() if value]
    metrics = {key: _format_number(key, value) for key, value in sorted(row.metrics.items())}
    lines += ["", "metrics", *_columns(metrics), "", *_curves(store, run)]
    lines += ["params", *_columns({key: printable(value) for key, value in sorted(row.params.items())})]
    config = artifact(store, row.run_id, CONFIG)
    text = config.decode(errors="replace").splitlines() if config is not None else ["gone"]
    lines += ["", CONFIG, *(f"  {printable(line)}" for line in text)]
    if row.state != TrialState.FINISHED:
        lines += _log(row.log)
    return "\n".join(lines) + "\n"


def run_as_object(store: Store, run: Record) -> dict[str, Any]:
    """Returns a run as plain values, for programs: what `describe_run` shows, without rounding.

    Its curves have the steps and values of each metric that has several; its config is None if it is gone.
    """
    row = run.row
    curves = _curves_of(store, run)
    config = artifact(store, row.run_id, CONFIG)
    facts = _facts(run)
    return {
        "run_id": row.run_id,
        "name": row.name,
        "state": row.state,
        "reason": row.reason,
        "sweep": row.sweep,
        "began": datetime.fromtimestamp(row.started / 1000, UTC),
        "seconds": None if run.ended is None else max(0, run.ended - row.started) / 1000,
        **{key: facts[key] for key in ("trained", "note", "fingerprint", "commit", "log")},
        "metrics": dict(sorted(row.metrics.items())),
        "curves_over": _unit(store, run),
        "curves": {key: [{"step": step, "value": value} for step, value in points] for key, points in curves.items()},
        "params": {key: from_text(value) for key, value in sorted(row.params.items())},
        "config": _yaml(config),
    }


def _yaml(content: bytes | None) -> Any:
    """Reads a file of YAML; None if it is missing or damaged."""
    with contextlib.suppress(yaml.YAMLError, UnicodeDecodeError):
        return None if content is None else yaml.safe_load(content.decode())
    return None


def _facts(run: Record) -> dict[str, str]:
    row = run.row
    began = datetime.fromtimestamp(row.started / 1000, UTC)
    took = "" if run.ended is None else f", {max(0, run.ended - row.started) / 1000:.1f} s from beginning to end"
    return {
        "run": row.run_id,
        "sweep": row.sweep or "",
        "began": f"{began:%Y-%m-%d %H:%M:%S} UTC{took}",
        "trained": run.tags.get(TRAINED_TAG, ""),
        "note": "; ".join(filter(None, [note_of(row), run.tags.get(RECOMPOSED_TAG, "")])),
        "fingerprint": run.tags.get(FINGERPRINT_TAG, ""),
        "commit": run.tags.get("mlflow.source.git.commit", ""),
        "log": row.log,
    }


def _curves(store: Store, run: Record) -> list[str]:
    """Returns a line with a curve for each metric that has several steps."""
    curves = _curves_of(store, run)
    if not curves:
        return []
    steps = [step for points in curves.values() for step, _ in points]
    lines = [f"curves over {_unit(store, run)} {min(steps)} to {max(steps)}"]
    for key, points in curves.items():
        values = [value for _, value in points]
        best = (max if with_direction(key, run.row.declared.directions).larger_is_better else min)(values)
        ends = (
            f"{_format_number(key, values[0])} to {_format_number(key, values[-1])}, best {_format_number(key, best)}"
        )
        lines.append(f"  {key:<{max(map(len, curves))}}  {curve(values)}  {ends}")
    return [*lines, ""]


def _curves_of(store: Store, run: Record) -> dict[str, list[tuple[int, float]]]:
    """Returns the steps and values of each metric that has several steps."""
    keys = [key for key in run.row.metrics if key not in NO_RESULTS and not key.endswith(BEST)]
    keys.sort(key=_order_key)
    found = {key: history(store, run.row.run_id, key) for key in keys}
    return {key: points for key, points in found.items() if len({step for step, _ in points}) > 1}


def _order_key(key: str) -> tuple[int, bool, str]:
    """Returns a key to sort metrics by: by the parts of the data, the loss of each part first."""
    part, _, name = key.partition("/")
    return PARTS.index(part) if part in PARTS else len(PARTS), name != "loss", name


def _unit(store: Store, run: Record) -> str:
    """Says what the steps of a run's curves count."""
    config = _yaml(artifact(store, run.row.run_id, CONFIG))  # as it is: to check all of it takes longer than `show`
    every = config.get("evaluate_every", "epoch") if isinstance(config, dict) else "epoch"
    return "epochs" if every == "epoch" else "iterations"


def curve(values: Sequence[float]) -> str:
    """Draws values as block characters from the lowest to the highest; `?` stands for a value that is not finite.

    If there are many values, each character is the last of several.
    """
    if len(values) > CURVE_WIDTH:
        values = [values[(index + 1) * len(values) // CURVE_WIDTH - 1] for index in range(CURVE_WIDTH)]
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    span = (high - low) or 1.0
    return "".join(
        BLOCKS[round((value - low) / span * (len(BLOCKS) - 1))] if math.isfinite(value) else "?" for value in values
    )


def _log(path: str) -> list[str]:
    """Returns the end of the log, which holds the traceback of a failure; empty if it is not on this machine."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace").splitlines() if path else []
    except OSError:
        return []
    return ["", "the end of its log", *(f"  {printable(line)}" for line in text[-LAST_LINES:])] if text else []


def _columns(values: Mapping[str, str]) -> list[str]:
    width = max(map(len, values), default=0)
    return [f"  {key:<{width}}  {value}" for key, value in values.items()] or ["  none"]


def _format_number(key: str, value: float) -> str:
    """Formats a metric as the table does."""
    return format(value, (".4f" if "/" in key else ".1f" if "seconds" in key else "g") if abs(value) < 1e6 else "g")
