"""Hyperparameter sweeps for plain PyTorch, configured with Hydra and recorded in MLflow.

This is the public API, see docs/stability.md:

    sweep           trains a sweep from Python, such as a notebook, and returns its table
    table, report   the results of a sweep as a DataFrame, and as one HTML page
    Store           where trials are recorded
    Task            what is learned; the base of a task of your own, see docs/extending.md
    Context         what a loop of your own gets
    Verdict         whether it goes on: CONTINUE or STOP
    UserError       a mistake that a user can correct: one line of the rule, the value and the remedy
    app             `app.run(cfg)` trains what Hydra has composed; `app.main(train)` is the program around it

Nothing is imported before it is used: Hydra imports this package at every start, for its plug-ins.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweepstack import app
    from sweepstack.errors import UserError
    from sweepstack.from_python import sweep
    from sweepstack.results.reporting.report import report
    from sweepstack.results.tables.frame import table
    from sweepstack.tracking.store import Store
    from sweepstack.training.own_loop import Context
    from sweepstack.training.tasks import Task
    from sweepstack.trial import Verdict

    __version__: str

__all__ = ["Context", "Store", "Task", "UserError", "Verdict", "__version__", "app", "report", "sweep", "table"]

_WHERE = {
    "Context": "sweepstack.training.own_loop",
    "Store": "sweepstack.tracking.store",
    "Task": "sweepstack.training.tasks",
    "UserError": "sweepstack.errors",
    "Verdict": "sweepstack.trial",
    "report": "sweepstack.results.reporting.report",
    "sweep": "sweepstack.from_python",
    "table": "sweepstack.results.tables.frame",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        return metadata.version("sweepstack")
    if name == "app":
        return importlib.import_module("sweepstack.app")
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
