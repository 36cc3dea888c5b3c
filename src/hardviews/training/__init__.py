"""The training step, the loop around it, and a run's output. Importing this imports no torch."""
