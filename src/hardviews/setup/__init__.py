"""From options to the parts of a run: data, defaults, weights to start from, processes, the step."""
