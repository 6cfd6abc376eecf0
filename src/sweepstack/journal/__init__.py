"""What is durable on this machine before MLflow knows it: the `log` of a session's events, and the `ledger` of who
trains what."""
