"""One pretraining run: from options to a run folder, and from run folders to a report."""
