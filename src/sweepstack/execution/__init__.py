"""Who trains what, and what if it fails. Read `scheduler` first: claim, plan, train, collect; `worker` runs one
stack."""
