"""Delivers the journal to MLflow, exactly once, in a separate process. Read `delivery` first."""
