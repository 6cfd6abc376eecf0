"""Loops of one's own, as small as they can be; see docs/extending.md."""
