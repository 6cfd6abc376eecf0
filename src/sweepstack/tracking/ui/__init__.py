"""Serves MLflow's UI, and defines how it shows a sweep."""
