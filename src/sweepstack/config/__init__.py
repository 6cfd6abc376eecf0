"""What a user configures. `schema` has the keys, `parsing` checks what Hydra composed, `fingerprint` says which configs
train the same."""
