"""All that knows Hydra, its private parts included. Read `launcher` first: from Hydra's jobs to trials, and back to
Hydra's returns."""
