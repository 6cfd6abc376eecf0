"""A search as Hydra sees it: `read_space` reads what is typed, `launcher` is the one launch, `supply` its trials."""
