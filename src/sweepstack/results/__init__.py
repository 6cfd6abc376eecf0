"""Results of sweeps: `sweepstack.results.table(sweep)` gives them as a pandas DataFrame."""

from sweepstack.results.tables.frame import table

__all__ = ["table"]
