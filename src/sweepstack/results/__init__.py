"""Results of sweeps: `sweepstack.results.table(sweep)` gives them as a pandas DataFrame."""
