"""Many trainings as one batched model. Read `loop` first; `build` makes the model, `equivalence` proves it."""
