"""Durable state on this machine, written before MLflow sees it. `log` has the events of a session, `ledger` has who
trains what."""
