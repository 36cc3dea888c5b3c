"""Arms side by side: the plan, the runs, the statistics, and what follows from them."""
