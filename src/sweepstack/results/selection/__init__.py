"""Which setting is the best, which others may be as good, and what is certain about that. Read `select` first."""
