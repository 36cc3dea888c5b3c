"""The step, the loop around it, and what a run writes. Importing this imports no torch."""
