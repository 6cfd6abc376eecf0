"""The command `sweepstack`. Read `main` first: it has the program and the commands about sweeps; `runs` has those
about one run, `control` those about commands that train, `cleaning` those that delete."""
