"""`engine=slurm`: stacks become jobs of Slurm. `executor` is the first file to read."""
