"""The engines: processes of this machine, Slurm, Dask. Read `channel` first: what workers and controller exchange."""
