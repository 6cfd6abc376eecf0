"""MLflow's UI: served, and how a sweep looks in it."""
