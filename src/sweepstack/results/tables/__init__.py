"""The results table. Read `frame` first."""
