"""A trained model in use. Read `classifier` first."""
