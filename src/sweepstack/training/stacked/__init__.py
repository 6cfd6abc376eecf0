"""Trains many trials as one batched model. Read `loop` first; `build` makes the model, `equivalence` checks it."""
