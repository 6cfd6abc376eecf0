"""Decides what happens to each trial, and which trials are trained together. Pure. Read `classify`, then `plan`."""
