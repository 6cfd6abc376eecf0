"""engine=dask: stacks are trained by the workers of a Dask cluster. Read `executor` first."""
