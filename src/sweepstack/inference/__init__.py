"""A trained model in use. Read `predictor` first."""
