"""Which trials are trained together, as pure functions: no file, no PyTorch. Read `plan` first."""
