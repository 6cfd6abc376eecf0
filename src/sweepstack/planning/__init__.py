"""What happens to each trial, and which are trained together, as pure functions. Read `classify`, then `plan`."""
