"""Which trial is next. Read `strategy` first: ask and tell; `space` is what is searched. Optuna lives in
`optuna_strategy`, nowhere else."""
