"""How a step scores candidates: the costs, and what saves time."""
