"""The datasets that a config can name."""
