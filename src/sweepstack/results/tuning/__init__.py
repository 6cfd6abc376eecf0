"""Tuning curves: how good the best of so many trials is. Read `curves` first, then `searches` and `verdict`."""
