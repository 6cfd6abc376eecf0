"""What nothing needs is deleted, and sweeps that somebody names. `delete` is the one to read first."""
