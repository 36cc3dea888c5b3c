"""A run's output: its folder, checkpoints, metrics."""
