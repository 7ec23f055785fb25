"""What to run: one file an experiment, importable without JAX."""
