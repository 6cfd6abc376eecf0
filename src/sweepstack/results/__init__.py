"""Results of sweeps: `sweepstack.results.table(sweep)` returns them as a pandas DataFrame."""

from sweepstack.results.tables.frame import table

__all__ = ["table"]
