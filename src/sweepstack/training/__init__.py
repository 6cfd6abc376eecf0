"""PyTorch. Read `trainer` first: the plain loop, which is the reference for all others."""
