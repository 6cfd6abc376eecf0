"""From the journal to MLflow, exactly once, in a process of its own. Read `delivery` first."""
